"""Device choice, kernel compilation, CUDA streams and memory budgets of a fusion."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.compute import warp_backend
from nova3d_core.errors import Cancelled, MissingDependencyError
from nova3d_core.fusion import device as placement
from nova3d_core.fusion.config import HullConfig, LevelConfig, SdfFusionConfig
from nova3d_core.fusion.device import choose_fusion_device, memory_budget_gib
from nova3d_core.fusion.fields.grid import state as grid_state
from nova3d_core.fusion.fields.grid import warp_support
from nova3d_core.fusion.fields.grid.field import DenseGrid
from nova3d_core.fusion.fields.grid.state import BYTES_PER_VOXEL, bytes_per_voxel
from nova3d_core.fusion.fuse import fuse_sdf
from nova3d_core.fusion.losses import LossConfig
from nova3d_core.progress import Progress
from nova3d_core.sdf_grid import SdfGrid
from nova3d_core.views import Views

ROOT = Path(__file__).resolve().parents[2]
CPU, CARD = torch.device("cpu"), torch.device("cuda:0")
GIB = 1 << 30
NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
TINY = SdfFusionConfig(
    levels=(LevelConfig(16, 3, 0.2, sdf_lr_cells=0.10, pose_lr=1e-3),),
    hull=HullConfig(resolution=24),
    min_rays=128,
    check_inputs=False,
)


@pytest.fixture(scope="module")
def views() -> Views:
    """Silhouettes (8, 32, 32) of a ball of radius 0.35, grey."""
    cameras = orbit_cameras(RigConfig(count=8, width_px=32, height_px=32))
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    disc = ((rows - 15.5).square() + (columns - 15.5).square()).sqrt() < 9.0
    masks = disc.float().expand(8, -1, -1).contiguous()
    return Views(cameras, torch.full((8, 32, 32, 3), 0.5), masks=masks)


@pytest.fixture
def no_known_errors(monkeypatch):
    """As in a new process: no device has been tried yet."""
    monkeypatch.setattr(warp_backend, "_kernel_errors", {})


def ball_grid(size=33, radius=0.4):
    spacing = 1.2 / (size - 1)
    grid = SdfGrid(torch.zeros(size, size, size), torch.full((3,), -0.6), spacing)
    return replace(grid, values=(grid.points().norm(dim=1) - radius).reshape(size, size, size))


# warp without this GPU


@NO_CUDA
def test_grid_falls_back_to_warp_on_the_cpu(no_known_errors):
    pytest.importorskip("warp")
    device, reason = choose_fusion_device("cuda:0", "grid")
    assert device == CPU
    assert "no sufficiently recent NVIDIA driver" in reason
    assert choose_fusion_device("cuda", "grid").device == CPU


def test_reason_names_amd_gpus(no_known_errors, monkeypatch):
    wp = pytest.importorskip("warp")
    monkeypatch.setattr(wp, "is_cuda_available", lambda: False)
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert choose_fusion_device(CARD, "grid") == (CPU, "warp does not support AMD GPUs.")


def test_hash_grid_and_cpu_keep_the_requested_device(no_known_errors):
    assert choose_fusion_device(CARD, "hashgrid") == (CARD, "")
    assert choose_fusion_device("cpu", "hashgrid") == (CPU, "")
    assert choose_fusion_device("cpu", "grid") == (CPU, "")


def test_both_fields_run_on_the_cpu_of_a_mac(no_known_errors):
    for field in ("grid", "hashgrid"):
        device, reason = choose_fusion_device("mps", field)
        assert device == CPU and reason


def test_without_warp_pytorch_runs_on_the_requested_device(no_known_errors, monkeypatch):
    def missing():
        raise MissingDependencyError("warp-lang", "the compiled grid field")

    monkeypatch.setattr(warp_backend, "warp", missing)
    assert choose_fusion_device(CARD, "grid") == (CARD, "")


@pytest.mark.parametrize(
    ("device", "how_slow"), [(CPU, ", 6 to 8 times slower"), (CARD, ", far more than 10 times")]
)
def test_pytorch_fallback_warns(no_known_errors, monkeypatch, caplog, device, how_slow):
    def missing():
        raise MissingDependencyError("warp-lang", "the compiled grid field")

    monkeypatch.setattr(warp_backend, "warp", missing)
    DenseGrid(ball_grid(), device)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and how_slow in record.getMessage()
    assert "'warp-lang' is not installed" in record.getMessage()


@pytest.mark.parametrize("field", ["grid", "hashgrid"])
def test_without_warp_gpus_without_float64_fall_back_to_the_cpu(
    no_known_errors, monkeypatch, field
):
    def missing():
        raise MissingDependencyError("warp-lang", "the compiled grid field")

    monkeypatch.setattr(warp_backend, "warp", missing)
    expected = (CPU, "PyTorch has no float64 there.")
    assert choose_fusion_device("mps", field) == expected  # cameras there would raise
    for has_fp64 in (True, False):
        properties = SimpleNamespace(has_fp64=has_fp64)
        monkeypatch.setattr(
            torch.xpu, "get_device_properties", lambda device, found=properties: found
        )
        chosen = choose_fusion_device("xpu:0", field)
        assert chosen == ((torch.device("xpu:0"), "") if has_fp64 else expected)


@NO_CUDA
def test_fusion_falls_back_to_the_cpu_with_one_warning(views, caplog):
    pytest.importorskip("warp")
    expected = fuse_sdf(views, TINY, device="cpu")
    assert "runs on the CPU" not in caplog.text
    fallback = fuse_sdf(views, TINY, device="cuda:0")
    assert torch.equal(fallback.grid.values, expected.grid.values)
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    message = warnings[0].getMessage()
    assert "runs on the CPU" in message
    assert "instead of cuda:0: warp finds no sufficiently recent NVIDIA driver" in message
    assert "'fast'" in message and len(message) < 500


# GPUs that warp's compiler does not support


@pytest.fixture
def old_card(no_known_errors, monkeypatch):
    """A GPU that warp lists, but whose architecture, sm_61, its CUDA no longer supports."""
    wp = pytest.importorskip("warp")
    load = wp.load_module

    def load_module(module, device, **more):
        if str(device) == "cuda:0":
            from warp._src.context import _validate_cuda_device_arch

            _validate_cuda_device_arch(61, (13, 4), "cuda:0")
        return load(module, device=device, **more)

    original = wp.device_from_torch
    monkeypatch.setattr(wp, "is_cuda_available", lambda: True)
    monkeypatch.setattr(wp, "load_module", load_module)
    monkeypatch.setattr(
        wp, "device_from_torch", lambda d: "cuda:0" if d.type == "cuda" else original(d)
    )


def test_unsupported_architecture_falls_back_to_the_cpu(old_card, caplog):
    context = pytest.importorskip("warp._src.context")
    if not hasattr(context, "_validate_cuda_device_arch"):
        pytest.skip("this warp checks architectures elsewhere")
    with caplog.at_level(logging.INFO, logger="nova3d_core"):
        device, reason = choose_fusion_device(CARD, "grid")
    assert device == CPU
    assert "requires sm_75 or higher, but sm_61 (device cuda:0) was specified" in reason
    assert "kernels do not run on cuda:0" in caplog.text
    assert not warp_support.can_run_on(CARD) and warp_support.can_run_on(CPU)


def test_unwritable_kernel_cache_is_a_reason(no_known_errors, monkeypatch, views):
    wp = pytest.importorskip("warp")

    def load_module(module, **more):
        raise PermissionError(13, "Permission denied", "cache")

    monkeypatch.setattr(wp, "load_module", load_module)
    assert "Permission denied" in warp_support.kernel_error(CPU)
    assert DenseGrid(ball_grid())._backend.__name__.endswith("torch_impl")


def test_fuses_with_an_unwritable_kernel_cache(tmp_path):
    pytest.importorskip("warp")
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    script = """
from nova3d_core.fusion.fields.grid.field import DenseGrid
from nova3d_core.fusion.config import LevelConfig, LossConfig
from nova3d_core.sdf_grid import SdfGrid
import torch
axes = torch.linspace(-0.6, 0.6, 17)
points = torch.stack(torch.meshgrid(axes, axes, axes, indexing="ij"), dim=-1)
field = DenseGrid(SdfGrid(points.norm(dim=-1) - 0.4, torch.full((3,), -0.6), 1.2 / 16))
field.set_level(LevelConfig(16, 1, 1.0))
field.step(LossConfig(), 1.0)
assert field.is_finite()
grid = field.to_grid()
distance = (grid.points().norm(dim=1) - 0.4).reshape(grid.values.shape)
near = distance.abs() < 0.1
print("error", float((grid.values - distance)[near].abs().max()))
"""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "WARP_CACHE_PATH": str(tmp_path / "file" / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) < 0.02


def test_out_of_memory_while_loading_kernels_is_not_cached(no_known_errors, monkeypatch):
    wp = pytest.importorskip("warp")
    load = wp.load_module

    def full(module, **more):
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(wp, "load_module", full)
    assert "out of memory" in warp_support.kernel_error(CPU)
    monkeypatch.setattr(wp, "load_module", load)
    assert warp_support.can_run_on(CPU)


# progress of kernel compilation


def test_kernel_compilation_is_reported_once_and_first(no_known_errors, views):
    pytest.importorskip("warp")
    events = []
    for _ in range(2):
        fuse_sdf(views, TINY, Progress(events.append))
    assert [(each.step, each.total) for each in events if each.stage == warp_backend.COMPILING] == [
        (0, 2),
        (1, 2),
        (2, 2),
    ]
    assert warp_backend.COMPILING == "compiling kernels"
    assert [each.stage for each in events][:3] == [warp_backend.COMPILING] * 3


def test_cancelling_compilation_is_not_cached(no_known_errors):
    pytest.importorskip("warp")
    with pytest.raises(Cancelled):
        choose_fusion_device("cpu", "grid", Progress(is_cancelled=lambda: True))
    assert warp_support.can_run_on(CPU)


# CUDA streams


def test_gpu_kernels_run_on_the_current_stream_of_pytorch(monkeypatch):
    launched = []
    wp = SimpleNamespace(
        launch=lambda kernel, **given: launched.append(given),
        device_from_torch=lambda device: f"warp {device}",
        stream_from_torch=lambda device: f"stream of {device}",
    )
    monkeypatch.setattr(warp_backend, "warp", lambda: wp)
    kernel = SimpleNamespace(module=SimpleNamespace(name="kernels"))
    warp_backend.launch(kernel, 10_000, [1.0], CARD, [["first"], ["second"]])
    assert launched == [
        {
            "dim": 10_000,
            "inputs": [0, 1.0, "first"],
            "device": "warp cuda:0",
            "stream": "stream of cuda:0",
        }
    ]


# memory budget


def test_memory_budget_follows_free_gpu_memory(monkeypatch):
    assert memory_budget_gib(0.0, CPU) == 3.0
    assert memory_budget_gib(1.5, CPU) == memory_budget_gib(1.5, CARD) == 1.5
    for free_gib, budget in ((20.0, 16.0), (2.0, 1.6), (0.1, 0.5)):
        free = int(free_gib * GIB)
        monkeypatch.setattr(placement, "free_memory_bytes", lambda device, free=free: free)
        assert memory_budget_gib(0.0, CARD) == pytest.approx(budget)
    assert memory_budget_gib(0.0, CARD) == 0.5


def cube(size=65):
    """A cube, which needs the most voxels for its longest side."""
    spacing = 1.2 / (size - 1)
    grid = SdfGrid(torch.zeros(size, size, size), torch.full((3,), -0.6), spacing)
    values = grid.points().abs().amax(dim=1) - 0.5
    return replace(grid, values=values.reshape(size, size, size))


def test_quality_fits_a_large_gpu_for_a_cube(monkeypatch):
    held = DenseGrid(cube(), memory_gib=memory_budget_gib(0.0, CPU), compiled=False)
    assert 190 < held._fit_memory(256) < 256
    monkeypatch.setattr(placement, "free_memory_bytes", lambda device: 20 * GIB)
    roomy = DenseGrid(cube(), CARD, memory_budget_gib(0.0, CARD), compiled=False)
    assert roomy._fit_memory(256) == 256


# one pair of gradient buffers


@pytest.mark.parametrize("compiled", [True, False], ids=["warp", "torch"])
def test_one_pair_of_gradient_buffers_equals_two(compiled, monkeypatch):
    if compiled:
        pytest.importorskip("warp")
    assert [grid_state.gradient_buffers(device) for device in (CPU, CARD)] == [2, 1]
    monkeypatch.setattr(warp_backend, "_MIN_PARALLEL_THREADS", 10**9)  # one launch, as on a GPU
    ends = []
    for pairs in (2, 1):
        monkeypatch.setattr(
            "nova3d_core.fusion.fields.grid.state.gradient_buffers",
            lambda device, pairs=pairs: pairs,
        )
        field = DenseGrid(ball_grid(), compiled=compiled)
        field.set_level(LevelConfig(24, 1, 1.0))
        assert len(field._state.grad_geo) == len(field._state.grad_col) == pairs
        random = torch.Generator().manual_seed(0)
        direction = torch.nn.functional.normalize(torch.randn(100, 3, generator=random), dim=1)
        origin = 0.3 * torch.rand(100, 3, generator=random) - 0.15 - 2.0 * direction
        for _ in range(3):
            rendered = field.render(origin, direction)
            field.backward(rendered.opacity - 0.5, rendered.gradient, rendered.colour, False)
            field.step(LossConfig(sparse=0.1), 1.0)
        field.redistance()
        ends.append((field._state.geo, field._state.col))
    change = (ends[0][1] - 0.5)[..., :3].abs().max()
    assert change > 0.05  # colours were optimised at all
    assert torch.equal(ends[0][0], ends[1][0]) and torch.equal(ends[0][1], ends[1][1])


def test_bytes_per_voxel_on_a_gpu_match_its_tensors(monkeypatch):
    assert bytes_per_voxel(CPU) == BYTES_PER_VOXEL == 161
    assert bytes_per_voxel(CARD) == 129
    monkeypatch.setattr("nova3d_core.fusion.fields.grid.state.gradient_buffers", lambda device: 1)
    field = DenseGrid(ball_grid(), compiled=False)
    field.set_level(LevelConfig(24, 1, 1.0))
    state = field._state
    tensors = [state.geo, state.col, *state.grad_geo, *state.grad_col, *state.scratch]
    tensors += [state.moments_geo, state.moment_col, state.square_col, state.fixed, state.laplacian]
    taken = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert taken <= 129 * state.geo[..., 0].numel() <= 1.3 * taken
