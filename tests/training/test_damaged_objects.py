"""A damaged image or JSON in a shard costs one object: it is skipped, named and counted."""

from __future__ import annotations

import io
import json
import logging
import random
import shutil
import tarfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from nova3d_core.errors import InputError
from nova3d_core.training.config import DataConfig
from nova3d_core.training.data.config import DatasetConfig, ImageConfig
from nova3d_core.training.data.mesh_sources import ProceduralObjects
from nova3d_core.training.data.precompute_latents import Encoders, precompute_latents
from nova3d_core.training.data.render_dataset import render_dataset
from nova3d_core.training.data.shard_members import DamagedObjectError, decode_object
from nova3d_core.training.data.shard_writer import encode_npy, encode_png_strip, write_shard
from nova3d_core.training.data.shards import SHARD_INFO, ShardDataset, read_shard
from nova3d_core.training.object_sources import make_object_stream
from nova3d_core.training.runs import train

from ..diffusion.models import small_model
from .parts import SIZE, SMALL, VIEWS, log_of, of, state

FLIPPED = Path(__file__).parents[1] / "data" / "faults" / "shard_one_byte_flipped.tar"
COUNT, PER_SHARD = 7, 4


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """Two shards of seven objects."""
    folder = tmp_path_factory.mktemp("shards") / "set"
    image = ImageConfig(size_px=SIZE, views=VIEWS, supersample=1)
    render_dataset(
        ProceduralObjects(COUNT), folder, DatasetConfig(image=image, objects_per_shard=PER_SHARD)
    )
    return folder


def damage(shard: Path, key: str, member: str, change=lambda data: data[: len(data) // 2]) -> None:
    """Changes the bytes of a member in place, padded with zeros to its old size."""
    with tarfile.open(shard) as tar:
        info = tar.getmember(f"{key}.{member}")
    data = bytearray(shard.read_bytes())
    end = info.offset_data + info.size
    content = change(bytes(data[info.offset_data : end]))
    data[info.offset_data : end] = content[: info.size].ljust(info.size, b"\0")
    shard.write_bytes(data)


@pytest.fixture
def damaged(shards, tmp_path) -> Path:
    """The shards with object 2 damaged."""
    folder = tmp_path / "set"
    shutil.copytree(shards, folder)
    damage(folder / "shard-000000.tar", "procedural-2", "normal.png")
    return folder


def test_one_flipped_byte_costs_one_object(caplog):
    dataset = ShardDataset(FLIPPED, epochs=1, shuffle=False)
    with caplog.at_level(logging.WARNING):
        found = [item["key"] for item in dataset.readable_objects()]
    assert found == ["procedural-1", "procedural-2"]
    assert list(dataset.unreadable) == [f"object procedural-0 of shard {FLIPPED}"]
    lines = [record.message for record in caplog.records]
    assert len(lines) == 1
    start = f"object procedural-0 of shard {FLIPPED} is skipped (1 so far): colour.png: "
    assert lines[0].startswith(start)


def test_damaged_object_is_replaced_by_the_next_and_no_other_moves(shards, damaged):
    good = [item["key"] for item in ShardDataset(shards, seed=3, epochs=3)]
    dataset = ShardDataset(damaged, seed=3, epochs=3)
    found = [item["key"] for item in dataset]
    assert len(found) == len(good) == 3 * COUNT
    replaced = [index for index in range(len(good)) if good[index] != found[index]]
    assert [good[index] for index in replaced] == ["procedural-2"] * 3
    for index in replaced:
        epoch, position = divmod(index, COUNT)
        assert found[index] == good[epoch * COUNT + (position + 1) % COUNT]
    assert len(dataset.unreadable) == 1  # counted once, however often it is read


def test_resumed_stream_equals_uninterrupted_at_every_position(damaged):
    fresh = [item["key"] for item in islice(iter(ShardDataset(damaged, seed=5)), 2 * COUNT)]
    for taken in range(2 * COUNT):
        first = ShardDataset(damaged, seed=5)
        for _ in islice(iter(first), taken):
            pass
        again = ShardDataset(damaged, seed=5)
        again.load_state_dict(first.state_dict())
        rest = [item["key"] for item in islice(iter(again), 2 * COUNT - taken)]
        assert rest == fresh[taken:]


def test_two_ranks_take_the_objects_of_one(damaged):
    fresh = [item["key"] for item in ShardDataset(damaged, seed=5, epochs=2, rank=0, world_size=1)]
    parts = [
        [item["key"] for item in ShardDataset(damaged, seed=5, epochs=2, rank=rank, world_size=2)]
        for rank in range(2)
    ]
    assert parts == [fresh[0::2], fresh[1::2]]


@pytest.mark.parametrize(
    ("member", "change", "words"),
    [
        ("colour.png", lambda data: b"", "colour.png: "),
        ("colour.png", lambda data: data[:40], "colour.png: "),
        ("mask.png", lambda data: b"GIF89a" + data[6:], "mask.png is not an image of a supported"),
        ("json", lambda data: b"{" + data, "json: its JSON is not valid JSON"),
        ("json", lambda data: b"[" * len(data), "json: its JSON is not valid JSON"),
        ("json", lambda data: b"3".ljust(len(data)), "json: its JSON is not an object"),
        ("json", lambda data: b'{"elevation_deg": [0]}'.ljust(len(data)), "one angle for each"),
        ("json", lambda data: data.replace(b"azimuth", b"asimuth"), "azimuth_deg is missing"),
        (
            "json",
            lambda data: json.dumps(
                {"elevation_deg": ["x"] * VIEWS, "azimuth_deg": [0] * VIEWS}
            ).encode().ljust(len(data)),
            "json: ",
        ),
    ],
)  # fmt: skip
def test_errors_name_shard_object_and_member(shards, tmp_path, member, change, words):
    path = tmp_path / "shard.tar"
    shutil.copy(shards / "shard-000000.tar", path)
    damage(path, "procedural-1", member, change)
    dataset = ShardDataset(path, epochs=1, shuffle=False)
    with pytest.raises(DamagedObjectError) as caught:
        dataset.read_object(dataset.shards[0], 1)
    line = str(caught.value)
    assert line.startswith(f"object procedural-1 of shard {path} cannot be read: ")
    assert words in line
    assert "\n" not in line
    assert len(line.replace(str(path), "")) < 500
    assert len(list(dataset.readable_objects())) == PER_SHARD - 1


def test_rejects_an_image_of_another_size_than_described(shards, tmp_path):
    path = tmp_path / "shard.tar"
    shutil.copy(shards / "shard-000000.tar", path)
    small = encode_png_strip(np.zeros((VIEWS, 8, 8, 3), np.uint8))
    damage(path, "procedural-1", "colour.png", lambda data: small)
    dataset = ShardDataset(path, epochs=1, shuffle=False)
    with pytest.raises(
        DamagedObjectError, match=r"shape \(16, 8, 8, 3\), expected 16 of 16 pixels"
    ):
        dataset.read_object(dataset.shards[0], 1)


def test_rejects_an_array_header_that_does_not_match_its_size():
    content = encode_npy(np.zeros((2, 3), np.float16))
    assert decode_object({"a.npy": content}, {})["a"].shape == (2, 3)
    bad = [content.replace(b"(2, 3)", shape, 1) for shape in (b"(2**9)", b"(9999,", b"(-2, 3")]
    bad += [content.replace(b"(2, 3), }  ", b"(2, 99999999", 1), content.replace(b"<f2", b"|O ", 1)]
    for damaged in (*bad, content[:-1], content + b"x", b"\x93NUMPY", b"", content[:20]):
        assert damaged != content
        with pytest.raises(InputError, match=r"^a\.npy: "):
            decode_object({"a.npy": damaged}, {})


def test_reports_if_no_object_is_readable(shards, tmp_path):
    path = tmp_path / "shard.tar"
    shutil.copy(shards / "shard-000000.tar", path)
    for index in range(PER_SHARD):
        damage(path, f"procedural-{index}", "colour.png")
    with pytest.raises(InputError, match="none of the 4 objects in 1 shards can be read") as caught:
        next(iter(ShardDataset(path)))
    assert "procedural-" in str(caught.value)
    assert "render them again" in caught.value.hint


def test_training_continues_counts_and_resumes_bit_for_bit(damaged, tmp_path, caplog):
    config = of(SMALL, data=DataConfig("shards", (str(damaged),), size_px=SIZE, prefetch_batches=1),
                optimiser__steps=6)  # fmt: skip
    with caplog.at_level(logging.WARNING):
        single = train(config, tmp_path / "single", cpu=True, make_source=make_object_stream)
    assert single.unreadable == 1
    assert any(
        line.startswith("1 objects of the training data could not be read")
        for line in caplog.messages
    )
    log = log_of(tmp_path / "single")
    assert [line["unreadable"] for line in log if line["event"] == "train"][-1] == 1
    train(
        of(config, optimiser__steps=3),
        tmp_path / "resumed",
        cpu=True,
        make_source=make_object_stream,
    )
    resumed = train(
        config, tmp_path / "resumed", cpu=True, make_source=make_object_stream, accept_changes=True
    )
    one, two = state(single), state(resumed)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one if name.startswith("weight."))


def test_rejects_a_description_of_wrong_types(tmp_path):
    path = tmp_path / "shard.tar"
    for info in (
        [], {"count": "1", "members": [], "format": 1}, {"count": -1, "members": [], "format": 1},
        {"count": 1, "members": "json", "format": 1}, {"count": 1, "members": [1], "format": 1},
        {"count": 1, "members": [], "format": 1, "views": "16"},
    ):  # fmt: skip
        text = json.dumps(info).encode()
        with tarfile.open(path, "w") as tar:
            member = tarfile.TarInfo(SHARD_INFO)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))
        with pytest.raises(InputError, match="the description in shard"):
            read_shard(path)


def test_mutated_shards_raise_input_error_only(shards, tmp_path):
    seed = (shards / "shard-000001.tar").read_bytes()
    source = random.Random(11)
    path = tmp_path / "mutated.tar"
    outcomes = set()
    for _ in range(150):
        data = bytearray(seed)
        for _ in range(source.randint(1, 6)):
            offset = source.randrange(len(data))
            if source.random() < 0.5:  # aim at the headers of the tar file
                offset = offset // 512 * 512 + source.randrange(124, 160)
            data[offset % len(data)] = source.randrange(256)
        if source.random() < 0.1:
            data = data[: source.randrange(len(data))]
        path.write_bytes(data)
        try:
            dataset = ShardDataset(path, epochs=1, shuffle=False)
            found = list(dataset.readable_objects())
            outcomes.add("skipped" if dataset.unreadable else "read")
            assert all(set(item) >= {"key", "colour", "normal", "mask"} for item in found)
        except InputError:
            outcomes.add("refused")
    assert outcomes == {"read", "skipped", "refused"}


def test_latents_skip_damaged_objects(tmp_path, shards, damaged, caplog):
    model = small_model("nova3d-mini")
    encoders = Encoders(model.codec, model.image_encoder, "small")
    with caplog.at_level(logging.WARNING):
        result = precompute_latents(damaged, tmp_path / "latents", encoders)
    assert (result.objects, len(result.skipped)) == (COUNT - 1, 1)
    assert "object procedural-2 of shard" in result.skipped[0]
    good = precompute_latents(shards, tmp_path / "good", encoders)
    assert good.objects == COUNT
    one, two = (
        {item["key"]: item for item in ShardDataset(folder, epochs=1, shuffle=False)}
        for folder in (tmp_path / "latents", tmp_path / "good")
    )
    assert list(one) == [f"procedural-{index}" for index in range(COUNT) if index != 2]
    for key in one:  # augmentation does not depend on skipped objects
        assert torch.equal(one[key]["image_latent"], two[key]["image_latent"])


def test_writes_and_reads_an_empty_shard(tmp_path):
    write_shard(tmp_path / "shard.tar", [], {"views": 1})
    assert read_shard(tmp_path / "shard.tar").objects == ()
