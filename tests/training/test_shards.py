"""Shards: format, shuffling, resuming, and truncated files."""

from __future__ import annotations

import json
import logging
import tarfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from nova3d_core.errors import InputError
from nova3d_core.training.data.config import DatasetConfig, ImageConfig
from nova3d_core.training.data.mesh_sources import ProceduralObjects
from nova3d_core.training.data.render_dataset import render_dataset
from nova3d_core.training.data.shard_writer import write_shard
from nova3d_core.training.data.shards import SHARD_INFO, ShardDataset, read_shard
from nova3d_core.training.data.stream import ProceduralDataset

SMALL = ImageConfig(size_px=16, views=3, supersample=1)
COUNT, PER_SHARD = 22, 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "set"
    config = DatasetConfig(seed=7, image=SMALL, objects_per_shard=PER_SHARD)
    render_dataset(ProceduralObjects(COUNT), folder, config)
    return folder


def keys(dataset: ShardDataset, count: int | None = None) -> list[str]:
    return [item["key"] for item in islice(iter(dataset), count)]


def test_read_objects_equal_rendered_ones(folder):
    read = list(ShardDataset(folder, epochs=1, shuffle=False))
    assert len(read) == COUNT
    from nova3d_core.training.data.render import render_object
    from nova3d_core.training.procedural import procedural_object

    for index in (0, 13, 21):
        item = read[index]
        seed = int(item["key"].split("-")[1])
        rendered = render_object(procedural_object(seed), config=SMALL, closed=True)
        assert set(item) == {*rendered, "key"}
        for name, value in rendered.items():
            assert item[name].dtype == value.dtype
            assert torch.allclose(item[name].float(), value.float(), atol=1e-3), name
    live = [item["key"] for item in islice(iter(ProceduralDataset(7, 16, 3)), COUNT)]
    assert [item["key"] for item in read] == live  # the same sequence as generated during training


def test_npy_shards_equal_png_shards(folder, tmp_path):
    config = DatasetConfig(seed=7, image=SMALL, objects_per_shard=50, image_format="npy")
    render_dataset(ProceduralObjects(3), tmp_path / "npy", config)
    png = islice(iter(ShardDataset(folder, epochs=1, shuffle=False)), 3)
    npy = ShardDataset(tmp_path / "npy", epochs=1, shuffle=False)
    for one, other in zip(png, npy, strict=True):
        for name in ("colour", "normal", "mask", "azimuth_deg"):
            assert torch.equal(one[name], other[name])


def test_tarfile_reads_shards(folder):
    with tarfile.open(folder / "shard-000000.tar") as tar:
        names = tar.getnames()
        info = json.load(tar.extractfile(SHARD_INFO))
    assert names[0] == SHARD_INFO and len(names) == 1 + 4 * PER_SHARD
    assert info["count"] == PER_SHARD and info["views"] == 3 and info["size_px"] == 16
    assert info["members"] == ["colour.png", "json", "mask.png", "normal.png"]


def test_webdataset_reads_shards(folder):
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed")
    paths = [str(path) for path in sorted(folder.glob("*.tar"))]
    read = list(webdataset.WebDataset(paths, shardshuffle=False).decode("rgb8"))
    ours = list(ShardDataset(folder, epochs=1, shuffle=False))
    assert [each["__key__"] for each in read] == [each["key"] for each in ours]
    strip = read[4]["colour.png"].reshape(3, 16, 16, 3)
    assert np.array_equal(strip, ours[4]["colour"].numpy())
    assert read[4]["json"]["azimuth_deg"] == ours[4]["azimuth_deg"].tolist()


def test_every_epoch_is_reshuffled_and_complete(folder):
    dataset = ShardDataset(folder, seed=1, epochs=2, shuffle_window=2)
    assert len(dataset) == COUNT
    both = keys(dataset)
    first, second = both[:COUNT], both[COUNT:]
    assert sorted(first) == sorted(second) == sorted(keys(ShardDataset(folder, epochs=1)))
    assert first != second
    assert keys(ShardDataset(folder, seed=1, epochs=1, shuffle_window=2)) == first
    assert keys(ShardDataset(folder, seed=2, epochs=1, shuffle_window=2)) != first
    # a window mixes objects of two shards only
    shards = {read_shard(path).path: set(read_shard(path).keys) for path in folder.glob("*.tar")}
    started = {path for path, found in shards.items() if found & set(first[: 2 * PER_SHARD - 3])}
    assert len(started) == 2


@pytest.mark.parametrize("stop", [3, COUNT, COUNT + 9])
def test_resumed_equals_uninterrupted(folder, stop):
    full = keys(ShardDataset(folder, seed=5), 2 * COUNT + 3)
    dataset = ShardDataset(folder, seed=5)
    first = keys(dataset, stop)
    resumed = ShardDataset(folder, seed=5)
    resumed.load_state_dict(json.loads(json.dumps(dataset.state_dict())))
    assert first + keys(resumed, len(full) - stop) == full


def test_rejects_a_position_in_other_data(folder, tmp_path):
    state = ShardDataset(folder, seed=5).state_dict()
    with pytest.raises(InputError, match="its seed was 5, now it is 6"):
        ShardDataset(folder, seed=6).load_state_dict(state)
    fewer = sorted(folder.glob("*.tar"))[:2]
    with pytest.raises(InputError, match="its shards was 5, now it is 2"):
        ShardDataset(fewer, seed=5).load_state_dict(state)


def test_two_ranks_share_an_epoch(folder):
    seen = []
    for rank in range(2):
        seen += keys(ShardDataset(folder, epochs=1, rank=rank, world_size=2, batch_size=2))
    assert sorted(seen) == sorted(keys(ShardDataset(folder, epochs=1)))


def truncate(folder: Path, target: Path, fraction: float) -> Path:
    content = (folder / "shard-000000.tar").read_bytes()
    target.write_bytes(content[: int(fraction * len(content))])
    return target


@pytest.mark.parametrize("fraction", [0.45, 0.5, 0.7])
def test_truncated_shard_yields_complete_objects_and_warns(folder, tmp_path, caplog, fraction):
    path = truncate(folder, tmp_path / "cut.tar", fraction)
    with caplog.at_level(logging.WARNING):
        shard = read_shard(path)
    assert 0 < len(shard.objects) < PER_SHARD
    assert shard.lost == PER_SHARD - len(shard.objects)
    assert (
        "cut.tar" in caplog.text and f"{shard.lost} of {PER_SHARD} objects are lost" in caplog.text
    )
    full = keys(ShardDataset(folder / "shard-000000.tar", epochs=1, shuffle=False))
    assert keys(ShardDataset(path, epochs=1, shuffle=False)) == full[: len(shard.objects)]
    with pytest.raises(InputError, match=r"cut\.tar is incomplete"):
        ShardDataset(path, strict=True)


def test_rejects_a_shard_truncated_before_its_first_object(folder, tmp_path):
    path = truncate(folder, tmp_path / "cut.tar", 0.06)
    with pytest.raises(InputError, match="5 of 5 objects are lost"):
        read_shard(path)


def test_rejects_other_files_by_name(tmp_path):
    (tmp_path / "text.tar").write_text("no tar at all " * 100)
    (tmp_path / "empty.tar").write_bytes(b"")
    with tarfile.open(tmp_path / "other.tar", "w") as tar:
        tar.add(tmp_path / "text.tar", "text.txt")
    for name, reason in (
        ("missing.tar", "does not exist"),
        ("text.tar", "not a readable shard"),
        ("empty.tar", "shard"),
        ("other.tar", "not a shard of training objects"),
    ):
        with pytest.raises(InputError, match=reason) as caught:
            read_shard(tmp_path / name)
        assert name in str(caught.value)
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="no shards were found"):
        ShardDataset(tmp_path / "none")


def test_equal_objects_give_equal_files(tmp_path):
    for name in ("one.tar", "two.tar"):
        write_shard(tmp_path / name, [("a", {"json": b"{}"})], {"views": 1})
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
