"""PyTorch files: identified from their pickle, which is never run."""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

import nova3d_core
from nova3d_core.errors import InputError
from nova3d_core.weights.discovery.layouts import identify
from nova3d_core.weights.files.header import TensorInfo
from nova3d_core.weights.files.inspect import read_header

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def save(path: Path, what: object, zipped: bool = True) -> Path:
    torch.save(what, path, _use_new_zipfile_serialization=zipped)
    return path


def tensors_of_shapes(shapes: dict[str, tuple[int, ...]]) -> OrderedDict:
    """Tensors of any shape in small files: all values share one element."""
    return OrderedDict(
        (k, torch.zeros(1).expand(s) if s else torch.tensor(0.0)) for k, s in shapes.items()
    )


@FORMATS
def test_keys_dtypes_and_shapes_equal_those_of_torch(tmp_path, zipped):
    tensors = {
        f"{dtype}": torch.zeros(2, 3).to(dtype)
        for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool)
    }
    tensors["transposed"] = torch.zeros(4, 5).T
    tensors["parameter"] = torch.nn.Parameter(torch.zeros(7))
    tensors["number"] = torch.tensor(1.0)
    path = save(tmp_path / "m.pth", tensors, zipped)
    header = read_header(path)
    expected = {k: TensorInfo(str(v.dtype)[6:], tuple(v.shape)) for k, v in tensors.items()}
    assert header.tensors == expected
    assert header.root == ""
    assert header.format == ("torch_zip" if zipped else "torch_legacy")
    assert header.bytes == path.stat().st_size
    assert bool(header.notes) is not zipped  # the legacy format has a note


def test_reads_float8_in_the_zip_format(tmp_path):
    tensors = {"w": torch.zeros(2, 3).to(torch.float8_e4m3fn)}
    header = read_header(save(tmp_path / "m.pth", tensors))
    assert header.tensors == {"w": TensorInfo("float8_e4m3fn", (2, 3))}


@FORMATS
def test_finds_weights_below_state_dict(tmp_path, zipped):
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 4))
    training = {
        "epoch": 3,
        "lr": 1e-4,
        "state_dict": model.state_dict(),
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "groups": [{"betas": (0.9, 1)}]},
    }
    header = read_header(save(tmp_path / "m.ckpt", training, zipped))
    assert header.root == "state_dict"
    assert {k: v.shape for k, v in header.tensors.items()} == {
        k: tuple(v.shape) for k, v in model.state_dict().items()
    }


class _Attack:
    """Creates a folder if it is unpickled."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@FORMATS
def test_code_in_a_pickle_is_noted_but_never_run(tmp_path, zipped):
    trace = tmp_path / "trace"
    path = save(tmp_path / "m.ckpt", {"w": torch.zeros(2), "x": _Attack(trace)}, zipped)
    header = read_header(path)
    assert not trace.exists()
    assert header.tensors == {"w": TensorInfo("float32", (2,))}
    assert any("posix.mkdir" in r or "nt.mkdir" in r for r in header.notes)
    torch.load(path, weights_only=False)
    assert trace.exists()  # the code is effective


def test_plain_state_dict_references_no_foreign_code(tmp_path):
    header = read_header(save(tmp_path / "m.ckpt", torch.nn.Linear(2, 3).state_dict()))
    assert header.notes == ()


def test_truncated_zip_is_rejected_with_a_hint(tmp_path):
    whole = save(tmp_path / "m.ckpt", {"w": torch.zeros(100)}).read_bytes()
    for length in range(4, len(whole) - 1, 97):
        (tmp_path / "cut.ckpt").write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"truncated or damaged.*Download it again"):
            read_header(tmp_path / "cut.ckpt")


def test_rejects_a_zip_that_torch_did_not_write(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.ckpt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(InputError, match=r"without a data\.pkl"):
        read_header(tmp_path / "m.ckpt")


def test_notes_a_pickle_that_torch_did_not_write(tmp_path):
    (tmp_path / "m.bin").write_bytes(pickle.dumps({"a": 1}))
    header = read_header(tmp_path / "m.bin")
    assert (header.format, header.tensors) == ("pickle", {})
    assert "torch.save did not write" in header.notes[0]


def test_rejects_noise_with_a_pickle_suffix(tmp_path):
    (tmp_path / "m.pth").write_bytes(random.Random(1).randbytes(5000))
    with pytest.raises(InputError, match="neither a safetensors file nor a PyTorch file"):
        read_header(tmp_path / "m.pth")


@FORMATS
def test_damaged_files_raise_only_input_errors(tmp_path, zipped):
    whole = save(tmp_path / "m.ckpt", {"a": torch.zeros(3), "b": torch.zeros(2, 2)}, zipped)
    whole = whole.read_bytes()
    random_source = random.Random(3)
    outcomes = set()
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[random_source.randrange(len(damaged))] = random_source.randrange(256)
        (tmp_path / "d.ckpt").write_bytes(damaged)
        try:
            read_header(tmp_path / "d.ckpt")
            outcomes.add("read")
        except InputError:
            outcomes.add("rejected")
    assert outcomes == {"read", "rejected"}


@FORMATS
def test_identifies_a_small_v3d_checkpoint_without_torch(tmp_path, small_unet, zipped):
    shapes = {**small_unet(768), "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3)}
    path = save(tmp_path / "any.ckpt", {"state_dict": tensors_of_shapes(shapes)}, zipped)
    script = (
        "import sys\n"
        "from nova3d_core.cli.models_table import models_report, models_text\n"
        "report = models_report([sys.argv[1]])\n"
        "models_text(report)\n"
        "loaded = {'torch', 'numpy', 'trimesh', 'safetensors'} & set(sys.modules)\n"
        'sys.exit(f\'{report["installed"][0]["family"]} {sorted(loaded)}\')\n'
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        capture_output=True,
        text=True,
        cwd=Path(nova3d_core.__file__).parent.parent,
        check=False,
    )
    assert ran.stderr.strip() == "v3d []"


@FORMATS
def test_identifies_a_full_size_v3d_checkpoint(tmp_path, manifest, zipped):
    shapes = manifest("v3d_512_sgm")
    path = save(tmp_path / "V3D_512.ckpt", {"state_dict": tensors_of_shapes(shapes)}, zipped)
    header = read_header(path)
    identity = identify(header)
    assert {k: v.shape for k, v in header.tensors.items()} == shapes
    assert (identity.family, identity.layout, identity.dtype) == ("v3d", "sgm", "float32")
    assert identity.parts == ("unet", "vae")
