"""Sizes that a model file declares are checked against its actual bytes."""

from __future__ import annotations

import json
import os
import pickle
import struct
import time
import zipfile
from pathlib import Path

import pytest
import torch

from nova3d_core.cli.models_table import models_report, models_text
from nova3d_core.errors import InputError
from nova3d_core.weights.discovery.locate import inspect_file
from nova3d_core.weights.files.header import TensorInfo
from nova3d_core.weights.files.inspect import MAX_HEADER_BYTES, read_header
from nova3d_core.weights.files.read import open_weights

FAULTS = Path(__file__).parents[1] / "data" / "faults"
MAX_SECONDS = 5.0
MAX_GROWTH = 300 * 2**20


def write_safetensors(path: Path, header: str | bytes, data: int = 0) -> Path:
    text = header.encode() if isinstance(header, str) else header
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(data))
    return path


def write_zip(
    path: Path, text: bytes, compression: int = zipfile.ZIP_STORED, **more: bytes
) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", text)
        for name, content in more.items():
            archive.writestr(f"archive/data/{name}", content)
    return path


def header_error(path: Path) -> str:
    """The error line of reading the header."""
    with pytest.raises(InputError) as caught:
        read_header(path)
    line = str(caught.value)
    assert str(path) in line
    assert len(line.replace(str(path), "")) < 500
    assert line.isprintable()
    return line


def test_shape_with_text_is_a_damaged_header():
    path = FAULTS / "shape_with_text.safetensors"
    assert "damaged: tensor 'x' has an invalid entry" in header_error(path)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [True, 3], "data_offsets": [0, 12]},
        {"dtype": "F32", "shape": [3.0], "data_offsets": [0, 12]},
        {"dtype": "F32", "shape": [1] * 65, "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [2**64], "data_offsets": [0, 12]},
        {"dtype": "F32", "shape": "3", "data_offsets": [0, 12]},
        {"dtype": "F32", "shape": [3], "data_offsets": [0, "12"]},
        {"dtype": "F32", "shape": [3], "data_offsets": [0, 12, 24]},
        {"dtype": 32, "shape": [3], "data_offsets": [0, 12]},
        {"dtype": "F" * 5000, "shape": [3], "data_offsets": [0, 12]},
        {"dtype": "F32", "shape": {"0": 3}, "data_offsets": [0, 12]},
        [["dtype", "F32"]],
        None,
    ],
)
def test_entries_of_wrong_types_are_a_damaged_header(tmp_path, entry):
    path = write_safetensors(tmp_path / "m.safetensors", json.dumps({"w": entry}), 12)
    assert "'w' has an invalid entry" in header_error(path)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ('{"w": {"dtype": "F32", "shape": [' + "9" * 4000 + "]}}", "4000 digits"),
        ('{"w": {"dtype": "F32", "shape": [1e999]}}', "too large"),
        ('{"w": {"dtype": "F32", "shape": [NaN]}}', "NaN"),
        ('{"w": 1, "w": 2}', "'w' occurs twice"),
        ('{"w": ' + "[" * 100_000, "not valid JSON"),
        ('{"w": ' + '{"a":' * 100_000, "not valid JSON"),
        ('{"' + "w" * 1000 + '": {}}', "has an invalid entry"),
        ('{"__metadata__": {"a": 1}}', "__metadata__"),
        ('{"__metadata__": {"a": ' + "[" * 500 + "]" * 500 + "}}", "__metadata__"),
        (b'{"\xff": 1}', "not valid JSON"),
    ],
)
def test_odd_headers_are_reported_in_one_line(tmp_path, header, words):
    assert words in header_error(write_safetensors(tmp_path / "m.safetensors", header))


def test_declared_shape_must_match_the_data(tmp_path):
    entry = {"w": {"dtype": "F32", "shape": [2**31, 2**31, 2**31], "data_offsets": [0, 2**63 - 1]}}
    path = write_safetensors(tmp_path / "m.safetensors", json.dumps(entry))
    assert "does not match its data offsets" in header_error(path)
    entry = {"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
    path = write_safetensors(tmp_path / "m.safetensors", json.dumps(entry))
    assert f"declares {2**42 + 8 + len(json.dumps(entry)):,} bytes" in header_error(path)


def test_oversized_header_is_not_read(tmp_path):
    path = tmp_path / "m.safetensors"
    with path.open("wb") as stream:
        stream.write((MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b"{")
        stream.truncate(MAX_HEADER_BYTES + 100)
    assert f"a header of {MAX_HEADER_BYTES + 1:,} bytes" in header_error(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_named_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "m.safetensors")
    assert "a pipe or a device" in header_error(tmp_path / "m.safetensors")


MARK, STOP, POP = b"(", b".", b"0"
PROTO = b"\x80\x02"


def repeated_calls(count: int) -> bytes:
    """Repeated calls of collections.OrderedDict with one list of pairs: quadratic work."""
    pair = b"]q\x00(" + b"NN\x86" * count + b"e0"
    call = b"ccollections\nOrderedDict\nh\x00\x85R0"
    return PROTO + pair + call * count + b"}."


BOMBS = {
    "many opcodes": PROTO + b"N0" * 15_500_000 + b"}.",
    "a deep list": PROTO + b"]" * 3_000_000 + b"a" * 2_999_999 + b".",
    "a memo that doubles": PROTO + b"N" + b"2\x86" * 3_000_000 + STOP,
    "a name that doubles": b"\x80\x04N" + b"2\x86" * 60 + b"2\x93.",
    "a list called often": repeated_calls(20_000),
    "many memo entries": PROTO + b"N" + b"".join(
        b"r" + struct.pack("<I", index) for index in range(3_000_000)) + STOP,
    "an endless integer": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"\xff" * 1000 + STOP,
    "a negative length": b"\x80\x02\x8b" + struct.pack("<i", -5) + STOP,
    "a huge string": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x" + STOP,
    "an integer in text": b"I" + b"9" * 1_000_000 + b"\n.",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(BOMBS))
def test_pickle_bombs_take_little_time_and_memory(tmp_path, name):
    path = write_zip(tmp_path / "m.ckpt", BOMBS[name])
    (tmp_path / "old.pth").write_bytes(BOMBS[name])
    before, started = peak_bytes(), time.process_time()
    for each in (path, tmp_path / "old.pth"):
        found = inspect_file(each)
        assert found.problem or found.identity.family == "unknown"
    assert time.process_time() - started < 2 * MAX_SECONDS
    assert peak_bytes() - before < MAX_GROWTH


def peak_bytes() -> int:
    """Peak memory of this process; 0 where it is not available."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_pickle_of_31_million_opcodes_has_a_note(tmp_path):
    found = inspect_file(write_zip(tmp_path / "m.ckpt", BOMBS["many opcodes"]))
    assert any("more than 500,000 steps" in note for note in found.notes)


def test_long_keys_are_not_copied(tmp_path):
    deep = {"k" * 1_000_000: {str(i): {} for i in range(3000)}}
    path = write_zip(tmp_path / "m.ckpt", pickle.dumps(deep, 2))
    before = peak_bytes()
    assert inspect_file(path).identity.family == "unknown"
    assert peak_bytes() - before < MAX_GROWTH


@pytest.mark.parametrize("shape", [(-1,), ("a",), (2**70,), (1.5,), (1,) * 65])
def test_invalid_pickled_shape_is_not_read(tmp_path, shape):
    rebuild = PROTO + b"}U\x01wctorch._utils\n_rebuild_tensor_v2\n"
    storage = b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x04tQ"
    arguments = b"(" + storage + b"K\x00" + _plain(shape) + b"K\x01\x85\x89N}tR"
    path = write_zip(tmp_path / "m.ckpt", rebuild + arguments + b"s.")
    assert read_header(path).tensors == {}
    good = b"(" + storage + b"K\x00" + _plain((4,)) + b"K\x01\x85\x89N}tR"
    write_zip(path, rebuild + good + b"s.", **{"0": bytes(16)})
    assert read_header(path).tensors == {"w": TensorInfo("float32", (4,))}


def _plain(shape: tuple) -> bytes:
    """The opcodes of a tuple, without those of the memo."""
    words = b""
    for size in shape:
        whole = pickle.dumps(size, 2)[2:-1]
        words += whole.split(b"q\x00")[0] if isinstance(size, str) else whole
    return MARK + words + b"t"


def test_storages_cannot_exceed_the_file_size(tmp_path):
    path = tmp_path / "m.pth"
    torch.save({"w": torch.zeros(300)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    declared = struct.pack("<H", 300)
    assert whole.count(b"M" + declared) >= 1
    grown = whole.replace(b"M" + declared, b"J" + struct.pack("<i", 2**31 - 1))
    path.write_bytes(grown)
    assert f"declare {4 * (2**31 - 1):,} bytes" in header_error(path)


def test_rejects_a_zip_with_wrong_sizes(tmp_path):
    path = tmp_path / "m.ckpt"
    torch.save({"w": torch.zeros(300)}, path)
    data = bytearray(path.read_bytes())
    at = data.find(b"PK\x01\x02")  # first entry of the central directory
    data[at + 24 : at + 28] = struct.pack("<I", 2**31)
    path.write_bytes(data)
    assert "declare more bytes" in header_error(path)


def test_zip_bomb_is_not_decompressed(tmp_path):
    path = write_zip(tmp_path / "m.ckpt", bytes(200_000_000), zipfile.ZIP_DEFLATED)
    before, started = peak_bytes(), time.process_time()
    assert inspect_file(path).identity.family == "unknown"
    assert time.process_time() - started < MAX_SECONDS
    assert peak_bytes() - before < MAX_GROWTH


def test_rejects_a_huge_central_directory_unread(tmp_path):
    fields = (20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0)  # 1 is the length of the name
    record = struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\x01\x02", *fields)
    table = (record + b"a") * 250_000
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, len(table), 4, 0)
    (tmp_path / "m.ckpt").write_bytes(b"PK\x03\x04" + table + end)
    started = time.process_time()
    header_error(tmp_path / "m.ckpt")
    assert time.process_time() - started < 1.0


def test_compressed_checkpoint_is_listed_but_not_loaded(tmp_path):
    plain, packed = tmp_path / "plain.ckpt", tmp_path / "packed.ckpt"
    torch.save({"w": torch.zeros(30_000)}, plain)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert read_header(packed).tensors == {"w": TensorInfo("float32", (30_000,))}
    with pytest.raises(InputError, match="compressed"), open_weights(packed):
        pass


def test_assertion_inside_torch_is_one_line():
    with (
        pytest.raises(InputError, match="is not a readable checkpoint") as caught,
        open_weights(FAULTS / "pickle_assertion.ckpt"),
    ):
        pass
    assert isinstance(caught.value.__cause__, AssertionError)
    assert "\n" not in str(caught.value)


def test_models_list_continues_after_bad_files(tmp_path, write_model):
    write_safetensors(
        tmp_path / "shape.safetensors",
        '{"x": {"dtype": "F32", "shape": ["a", 3000000000], "data_offsets": [0, 12]}}',
        12,
    )
    write_safetensors(tmp_path / "deep.safetensors", '{"w": ' + "[" * 100_000)
    write_zip(tmp_path / "bomb.ckpt", BOMBS["a name that doubles"])
    write_model(tmp_path / "good.safetensors", {"w": (3,)})
    note = {"nova3d": "[" * 5000, "x": "y" * 10_000}
    write_model(tmp_path / "note.safetensors", {"w": (3,)}, metadata=note)
    os.symlink(tmp_path / "gone", tmp_path / "link.ckpt")
    os.symlink(tmp_path / "loop.ckpt", tmp_path / "loop.ckpt")
    report = models_report([tmp_path])
    rows = {row["file"]: row for row in report["installed"]}
    assert len(rows) == 7
    assert "has an invalid entry" in rows["shape.safetensors"]["problem"]
    assert "nested too deeply" in rows["deep.safetensors"]["problem"]
    assert rows["good.safetensors"]["problem"] is None
    assert max(len(line) for line in models_text(report).splitlines()) < 500


def test_truncates_a_long_note(tmp_path, write_model):
    metadata = json.dumps({"family": "nova3d", "note": "word\n" * 100_000})
    path = write_model(tmp_path / "m.safetensors", {"w": (3,)}, metadata={"nova3d": metadata})
    note = next(note for note in inspect_file(path).notes if note.startswith("Its note"))
    assert len(note) < 700
    assert "\n" not in note


def test_unexpected_exception_becomes_a_problem(tmp_path, monkeypatch, write_model):
    path = write_model(tmp_path / "m.safetensors", {"w": (3,)})

    def fail(header: object) -> None:
        raise ZeroDivisionError("an\nexception")

    monkeypatch.setattr("nova3d_core.weights.discovery.locate.identify", fail)
    problem = inspect_file(path).problem
    assert problem == f"{path} cannot be read: ZeroDivisionError: 'an\\nexception'."
