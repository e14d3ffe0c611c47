"""Reading safetensors headers: their contents, and all kinds of damage."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from nova3d_core.errors import InputError
from nova3d_core.weights.files.header import TensorInfo
from nova3d_core.weights.files.inspect import read_header

SHAPES = {"a.weight": (3, 4), "a.bias": (3,), "scale": (), "none": (0, 5)}


def write_raw(path: Path, entries: object, data: int = 0) -> Path:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(data))
    return path


@pytest.mark.parametrize(
    ("code", "dtype"),
    [("F32", "float32"), ("F16", "float16"), ("BF16", "bfloat16"), ("F8_E4M3", "float8_e4m3fn")],
)
def test_reads_keys_dtypes_shapes_and_metadata(tmp_path, write_model, code, dtype):
    path = write_model(tmp_path / "m.safetensors", SHAPES, code, {"format": "pt"})
    header = read_header(path)
    assert header.tensors == {name: TensorInfo(dtype, shape) for name, shape in SHAPES.items()}
    assert header.metadata == {"format": "pt"}
    assert header.format == "safetensors"
    assert header.bytes == path.stat().st_size


def test_header_matches_the_safetensors_library(tmp_path):
    library = pytest.importorskip("safetensors.torch")
    import torch

    tensors = {"x": torch.zeros(2, 3), "y": torch.zeros(5, dtype=torch.bfloat16)}
    library.save_file(tensors, str(tmp_path / "m.safetensors"), {"by": "test"})
    header = read_header(tmp_path / "m.safetensors")
    expected = {k: TensorInfo(str(v.dtype)[6:], tuple(v.shape)) for k, v in tensors.items()}
    assert header.tensors == expected
    assert header.metadata == {"by": "test"}


def test_every_truncation_is_rejected_with_a_hint(tmp_path, write_model):
    whole = write_model(tmp_path / "m.safetensors", SHAPES).read_bytes()
    for length in range(len(whole)):
        (tmp_path / "cut.safetensors").write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"truncated|is empty") as caught:
            read_header(tmp_path / "cut.safetensors")
        assert "Download it again" in str(caught.value)


def test_truncated_data_reports_actual_and_declared_size(tmp_path, write_model):
    path = write_model(tmp_path / "m.safetensors", {"w": (1000, 1000)})
    whole = path.stat().st_size
    with path.open("r+b") as stream:
        stream.truncate(whole - 1)
    expected = f"declares {whole:,} bytes, the file has {whole - 1:,}"
    with pytest.raises(InputError, match=expected):
        read_header(path)


def test_rejects_appended_bytes(tmp_path, write_model):
    path = write_model(tmp_path / "m.safetensors", SHAPES)
    path.write_bytes(path.read_bytes() + b"12345")
    with pytest.raises(InputError, match="5 more than its header declares"):
        read_header(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (bytes(5000), "starts with zeros"),
        (b"\xff" * 500, "not a safetensors file.*18,446,744,073,709,551,615 bytes"),
        ((100_000_001).to_bytes(8, "little") + b"{}", "header of 100,000,001 bytes"),
        ((4).to_bytes(8, "little") + b"[{}]", "header is not JSON"),
        ((4).to_bytes(8, "little") + b"{a: ", "not valid JSON"),
        (b"\n<!DOCTYPE html>\n<html></html>", "a web page"),
        (b"<?xml version='1.0'?><Error>denied</Error>", "a web page"),
        (b'{"error": "Access to model is restricted"}', "a text file, not a model.*restricted"),
        (b"Entry not found", "a text file, not a model.*Entry not found"),
    ],
)
def test_reports_what_a_non_model_file_is(tmp_path, content, message):
    path = tmp_path / "svd_xt.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_header(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["m.safetensors", "m.ckpt"])
def test_git_lfs_pointer_reports_the_size_of_the_model(tmp_path, name):
    (tmp_path / name).write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:b2652c23\nsize 9559625980\n"
    )
    with pytest.raises(InputError, match=r"Git LFS pointer to a file of 9,559,625,980 bytes"):
        read_header(tmp_path / name)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F32", "shape": [2]}, "'w' has an invalid entry"),
        ({"dtype": "F32", "shape": 2, "data_offsets": [0, 8]}, "'w' has an invalid entry"),
        ("F32", "'w' has an invalid entry"),
        ({"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}, "does not match its data offsets"),
        (
            {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]},
            "does not match its data offsets",
        ),
        ({"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}, "does not match its data offsets"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}, "starts at 4, expected 0"),
    ],
)
def test_reports_a_malformed_tensor_entry(tmp_path, entry, message):
    path = write_raw(tmp_path / "m.safetensors", {"w": entry}, data=8)
    with pytest.raises(InputError, match=message):
        read_header(path)


def test_rejects_overlapping_tensors(tmp_path):
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    path = write_raw(tmp_path / "m.safetensors", {"v": entry, "w": entry}, data=8)
    with pytest.raises(InputError, match="'w' starts at 0, expected 8"):
        read_header(path)


@pytest.mark.parametrize("length", [0x0280, 0x0480])
def test_length_that_looks_like_a_pickle_is_still_safetensors(tmp_path, length):
    text = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(length)
    path = write_raw(tmp_path / "m.safetensors", text, data=4)
    assert path.read_bytes()[:2] in (b"\x80\x02", b"\x80\x04")
    assert read_header(path).tensors == {"w": TensorInfo("float32", (1,))}


def test_contents_determine_the_format_not_the_suffix(tmp_path, write_model):
    path = write_model(tmp_path / "renamed.ckpt", SHAPES)
    assert read_header(path).format == "safetensors"


def test_reports_a_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"gone\.safetensors cannot be read"):
        read_header(tmp_path / "gone.safetensors")


def test_damaged_files_raise_only_input_errors(tmp_path, write_model):
    whole = write_model(tmp_path / "m.safetensors", SHAPES, metadata={"a": "b"}).read_bytes()
    random_source = random.Random(7)
    outcomes = set()
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(random_source.randint(1, 3)):
            damaged[random_source.randrange(300)] = random_source.randrange(256)
        (tmp_path / "d.safetensors").write_bytes(damaged)
        try:
            read_header(tmp_path / "d.safetensors")
            outcomes.add("read")
        except InputError:
            outcomes.add("rejected")
    assert "rejected" in outcomes
