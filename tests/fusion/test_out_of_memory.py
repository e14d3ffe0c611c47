"""Out-of-memory errors of every kind, during initialisation and optimisation."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from nova3d_core.errors import StageError
from nova3d_core.fusion import fuse as optimise
from nova3d_core.fusion.config import LevelConfig, SdfFusionConfig
from nova3d_core.fusion.fields.grid.field import DenseGrid
from nova3d_core.fusion.fuse import fuse_sdf
from nova3d_core.progress import SILENT

from .test_device import TINY, views

__all__ = ["views"]  # the fixture

AcceleratorError = getattr(torch, "AcceleratorError", RuntimeError)
FORMS = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    AcceleratorError("CUDA error: out of memory"),
    RuntimeError("HIP out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"),
    RuntimeError("XPU out of memory. Tried to allocate 4.00 GiB."),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
    RuntimeError("Failed to allocate 4294967296 bytes on device 'cuda:0'"),
    MemoryError(),
]
EACH_FORM = pytest.mark.parametrize("error", FORMS, ids=lambda error: str(error)[:24])
OTHER = RuntimeError("CUDA error: device-side assert triggered")


def failing(times, error, call):
    """Wraps `call` to raise an error at its first calls."""
    left = [times]

    def run(*given, **more):
        if left[0] > 0:
            left[0] -= 1
            raise error
        return call(*given, **more)

    return run


@EACH_FORM
def test_init_retries_with_half_the_chunk_size(error, monkeypatch):
    made = []
    make = failing(2, error, lambda views, init, config, device: made.append(config) or "run")
    monkeypatch.setattr(optimise, "_FusionState", make)
    config = SdfFusionConfig(ray_chunk_size=8000)
    assert optimise._init_state(None, None, config, torch.device("cpu")) == "run"
    assert made == [replace(config, ray_chunk_size=2000)]


@EACH_FORM
def test_level_reruns_with_half_the_chunk_size(error, monkeypatch, caplog):
    level = LevelConfig(24, 20, 1.0)
    run = SimpleNamespace(
        rays=range(6000), config=SdfFusionConfig(min_rays=100), ray_chunk_size=400_000,
        steps_done=7, seconds={},
    )  # fmt: skip
    tried = []

    def optimise_level(run, index, level, progress):
        tried.append((run.ray_chunk_size, run.steps_done))
        run.steps_done += 5
        if len(tried) <= 2:
            raise error

    monkeypatch.setattr(optimise, "_optimise_level", optimise_level)
    optimise._run_level(run, 1, level, SILENT)
    assert tried == [(400_000, 7), (3000, 7), (1500, 7)]
    assert run.steps_done == 12 and "level 1" in run.seconds
    assert [record.getMessage() for record in caplog.records] == [
        "memory ran out: retrying with chunks of 3000 rays",
        "memory ran out: retrying with chunks of 1500 rays",
    ]


def test_result_is_bit_identical_after_a_retry(views, monkeypatch):
    expected = fuse_sdf(views, TINY)
    error = AcceleratorError("CUDA error: out of memory")
    monkeypatch.setattr(DenseGrid, "__init__", failing(1, error, DenseGrid.__init__))
    again = fuse_sdf(views, TINY)  # the chunk size still exceeds the number of rays
    assert torch.equal(again.grid.values, expected.grid.values)
    assert torch.equal(again.cameras.world_to_camera, expected.cameras.world_to_camera)


@pytest.mark.parametrize("where", ["init", "level 0"])
def test_permanent_lack_of_memory_is_a_stage_error(views, monkeypatch, where):
    name = "__init__" if where == "init" else "render"
    monkeypatch.setattr(DenseGrid, name, failing(10**9, FORMS[1], None))
    with pytest.raises(StageError, match=f"fusing, {where}: memory ran out") as caught:
        fuse_sdf(views, TINY)
    assert caught.value.__cause__ is FORMS[1]
    assert "draft" in caught.value.hint


@pytest.mark.parametrize("name", ["__init__", "render"])
def test_other_errors_propagate(views, monkeypatch, name):
    monkeypatch.setattr(DenseGrid, name, failing(1, OTHER, getattr(DenseGrid, name)))
    with pytest.raises(RuntimeError) as caught:
        fuse_sdf(views, TINY)
    assert caught.value is OTHER
