"""The core on the pretend device: no mixed devices, no tensors left there, results of the CPU.

Each workload runs in its own process: torch allows one such backend per process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .pretend_device import is_supported

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not is_supported(), reason="this torch has no Python backends")

DTYPE_BOUNDS = {"torch.float32": 1e-5, "torch.float16": 5e-3, "torch.bfloat16": 3e-2}
"""Mean absolute differences in 0..1: on a GPU both passes of the guidance run as one batch."""


def run_module(module: str, *words: str) -> dict:
    """Runs a module of this folder; returns the JSON that it prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-m", f"tests.devices.{module}", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.strip().splitlines()[-1])


def check(cases: dict, bound: float | dict[str, float]) -> None:
    """Every case is close to the CPU result and leaves no tensors on the device."""
    assert cases
    for name, case in cases.items():
        limit = bound[name] if isinstance(bound, dict) else bound
        assert case["difference"] <= limit, name
        assert case["left"] == [] and case["unseeded"] == {}, name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fusion_grid", "fusion_modes"])
def test_fusion_in_warp(name):
    pytest.importorskip("warp")
    # in cells: one launch sums gradients in another order than two parallel ones
    check(run_module("workloads", name), 0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fusion_torch", "fusion_hashgrid"])
def test_fusion_in_torch_matches_the_cpu(name):
    check(run_module("workloads", name), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "family", ["nova3d", "nova3d-mini", "sv3d_u", "sv3d_p", "v3d", "wonder3d", "wonder3d_plus"]
)
def test_sampling_in_every_dtype(family):
    pytest.importorskip("diffusers")
    check(run_module("workloads", f"sampling_{family}"), DTYPE_BOUNDS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["estimating_normals", "estimating_normals_marigold"])
def test_estimating_normals_in_every_dtype(name):
    pytest.importorskip("diffusers")
    check(run_module("workloads", name), DTYPE_BOUNDS)


@pytest.mark.slow
def test_reconstruction_in_every_dtype():
    cases = run_module("workloads", "reconstruction")
    assert len(cases) == 6
    check(cases, {name: DTYPE_BOUNDS[name.partition(", ")[2]] for name in cases})


def test_added_normals_stay_on_their_device():
    check(run_module("workloads", "added_normals"), 1e-6)


def test_loading_to_the_device_and_back():
    check(run_module("workloads", "loading"), 0.0)


@pytest.mark.slow
def test_training_step():
    # the first Adam step is the sign of the gradient times the learning rate: sensitive to rounding
    check(run_module("workloads", "training"), 1e-3)


@pytest.mark.slow
def test_node_model_management():
    pytest.importorskip("diffusers")
    check(run_module("node_workloads"), 3e-2)


def test_new_cameras_synchronise_once():
    counts = run_module("counts", "cameras")["new Cameras"]
    assert counts["syncs"] == 1
    assert counts["launches"] <= 10


@pytest.mark.slow
def test_fusion_step_in_warp_has_few_launches_and_syncs():
    pytest.importorskip("warp")
    counts = run_module("counts", "fusion")
    step = counts["fusion step"]
    assert 100 <= step["launches"] <= 200 and step["syncs"] <= 1
    assert counts["registration step"]["syncs"] <= 1
    assert counts["registration setup (once per level)"]["syncs"] <= 12
    assert counts["check for NaN (every 10 steps)"]["syncs"] <= 1


@pytest.mark.slow
def test_hash_grid_step_has_few_syncs():
    assert run_module("counts", "fusion_hashgrid")["fusion step, hash grid"]["syncs"] <= 20


@pytest.mark.slow
def test_denoising_step_synchronises_once():
    pytest.importorskip("diffusers")
    counts = run_module("counts", "sampling")
    assert len(counts) == 8
    for name, step in counts.items():
        assert step["syncs"] <= 1, name
