"""Counts kernel launches, synchronisations and uploads per step of each stage, on a pretend device.

    python -m tests.devices.counts [NAME...]

prints one line of JSON: name -> launches, syncs and uploads, as means per call, and the source
lines of the syncs. It needs its own process; `benchmarks/launches.py` makes a table of it. It uses
little of the core, so that it can also count older commits (first on the import path).
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from .pretend_device import LEDGER, counted, install, install_warp

DEVICE = install()
VIEWS = Path("nova3d_core") / "assets" / "knight" / "views"
"""16 views of 256 px, in the checkout that is counted."""
MAX_LINES = 4
"""Source lines listed per step."""

WORKLOADS: dict[str, Callable[[], None]] = {}
_counts: dict[str, list[dict[str, int]]] = {}
_lines: dict[str, Counter[str]] = {}


def workload(function: Callable[[], None]) -> Callable[[], None]:
    """Registers a workload under its name."""
    WORKLOADS[function.__name__] = function
    return function


@contextmanager
def recorded(name: str) -> Iterator[None]:
    """Records the device operations of the `with` block as one call of `name`."""
    before = LEDGER.syncs.copy()
    with counted() as counts:
        yield
    _counts.setdefault(name, []).append(counts)
    _lines.setdefault(name, Counter()).update(LEDGER.syncs - before)


def record_calls(owner: Any, function: str, name: str) -> None:
    """Replaces a function by one whose calls are recorded."""
    original = getattr(owner, function)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with recorded(name):
            return original(*args, **kwargs)

    setattr(owner, function, wrapper)


def _views():
    from nova3d_core.io.views.transforms_json import read_views

    return read_views(VIEWS)


def _fuse(config: Any) -> None:
    from nova3d_core.fusion.fuse import fuse_sdf

    fuse_sdf(_views(), config, device=DEVICE)


@workload
def fusion() -> None:
    """The grid field in warp: gradient steps on poses, then registration."""
    from nova3d_core.fusion import fuse as optimise
    from nova3d_core.fusion.config import LevelConfig, SdfFusionConfig
    from nova3d_core.fusion.fields.grid.field import DenseGrid
    from nova3d_core.fusion.poses.registration import PoseRegistration

    install_warp()
    record_calls(optimise, "_step", "fusion step")
    record_calls(optimise, "_register_poses", "registration step")
    record_calls(optimise, "_check_finite", "check for NaN (every 10 steps)")
    record_calls(PoseRegistration, "__init__", "registration setup (once per level)")
    record_calls(DenseGrid, "redistance", "redistancing (every 25 steps)")
    config = SdfFusionConfig(check_inputs=False)
    levels = (
        LevelConfig(32, 10, 0.04, pose_lr=4e-3),
        LevelConfig(64, 40, 0.04, pose_lr=4e-3),
        LevelConfig(64, 12, 0.04, register_every=4, register_stride=2),
    )
    conflict = replace(config.conflict, start_fraction=0.0)
    poses = replace(config.poses, warmup_fraction=0.0)
    _fuse(replace(config, levels=levels, conflict=conflict, poses=poses))


@workload
def fusion_in_torch() -> None:
    """The torch implementation of the grid field, with the presets' minimum number of rays."""
    from nova3d_core.fusion import fuse as optimise
    from nova3d_core.fusion.config import LevelConfig, SdfFusionConfig
    from nova3d_core.fusion.fields.grid import warp_support

    warp_support.can_run_on = lambda device: False
    record_calls(optimise, "_step", "fusion step, torch implementation")
    config = SdfFusionConfig(check_inputs=False)
    conflict = replace(config.conflict, start_fraction=0.0)
    _fuse(replace(config, levels=(LevelConfig(64, 3, 0.01),), conflict=conflict))


@workload
def fusion_hashgrid() -> None:
    """The hash grid in torch, with the table sizes of a GPU."""
    from nova3d_core.fusion import fuse as optimise
    from nova3d_core.fusion.config import LevelConfig, SdfFusionConfig
    from nova3d_core.fusion.fields.hashgrid import field as hashgrid
    from nova3d_core.fusion.fields.hashgrid.encoding import HashEncoding

    def encoding(device: torch.device, max_res: int = 256) -> HashEncoding:
        return HashEncoding(num_levels=10, log2_hashmap_size=19, max_res=max_res).to(device)

    hashgrid.make_encoding = encoding
    record_calls(optimise, "_step", "fusion step, hash grid")
    config = SdfFusionConfig(field="hashgrid", check_inputs=False)
    levels = (LevelConfig(64, 6, 0.004, pose_lr=4e-3),)
    conflict = replace(config.conflict, start_fraction=0.0)
    poses = replace(config.poses, warmup_fraction=0.0)
    config = replace(config, min_rays=2000, ray_chunk_size=8000)
    _fuse(replace(config, levels=levels, conflict=conflict, poses=poses))


@workload
def cameras() -> None:
    """`Cameras` of 16 views created on the device."""
    from nova3d_core.cameras.cameras import orbit_cameras

    orbit = orbit_cameras()
    with recorded("new Cameras"):
        orbit.to(DEVICE)


@workload
def sampling() -> None:
    """Denoising steps of a small network of each kind, in float32 and float16."""
    from nova3d_core.cameras.orbits import ORBIT_PRESETS, OrbitConfig
    from nova3d_core.cameras.rigs import RigConfig
    from nova3d_core.diffusion.model import UNET, OneDevice
    from nova3d_core.diffusion.sampling.config import SampleConfig
    from nova3d_core.diffusion.sampling.pipeline import SAMPLING, sample
    from nova3d_core.progress import Progress

    from ..diffusion.models import image_and_mask, small_model

    ORBIT_PRESETS["of 4"] = OrbitConfig(RigConfig(count=4))
    for family in ("nova3d", "nova3d-mini", "sv3d_u", "wonder3d"):
        for dtype in (torch.float32, torch.float16):
            model = small_model(family, views=None if family == "wonder3d" else 4)
            model.part(UNET).to(dtype)
            name = f"denoising step, small {family}, {str(dtype).removeprefix('torch.')}"
            last: dict[str, Any] = {}

            def report(event: Any, name: str = name, last: dict[str, Any] = last) -> None:
                if event.stage != SAMPLING:
                    return
                if event.step > 1:  # the first step also creates shared tensors
                    now = LEDGER.totals()
                    counts = {key: now[key] - last["totals"][key] for key in now}
                    _counts.setdefault(name, []).append(counts)
                    _lines.setdefault(name, Counter()).update(LEDGER.syncs - last["syncs"])
                last.update(totals=LEDGER.totals(), syncs=LEDGER.syncs.copy())

            placement = OneDevice(model, DEVICE, dtype)
            inputs = image_and_mask()
            config = SampleConfig(steps=3)
            sample(model, *inputs, config, placement=placement, progress=Progress(report))


@workload
def normals() -> None:
    """Windows of NormalCrafter, with a small network, in float32 and float16."""
    from nova3d_core.diffusion.model import UNET, MultiviewModel, OneDevice
    from nova3d_core.normals import normalcrafter
    from nova3d_core.progress import SILENT, Progress

    from ..diffusion.models import small_model

    normalcrafter.WINDOW, normalcrafter.STRIDE = 3, 2
    images = torch.rand(7, 64, 64, 3)
    for dtype in (torch.float32, torch.float16):
        small = small_model("v3d", views=4)
        parts = small.unet, small.codec, small.image_encoder
        model = MultiviewModel(normalcrafter.NORMALCRAFTER, *parts)
        model.part(UNET).to(dtype)
        name = f"normals of a window, small normalcrafter, {str(dtype).removeprefix('torch.')}"
        estimator = normalcrafter.NormalCrafterEstimator(model, OneDevice(model, DEVICE, dtype))
        last: dict[str, Any] = {}

        def report(event: Any, name: str = name, last: dict[str, Any] = last) -> None:
            if event.step > 1:  # the first window also creates shared tensors
                now = LEDGER.totals()
                counts = {key: now[key] - last["totals"][key] for key in now}
                _counts.setdefault(name, []).append(counts)
                _lines.setdefault(name, Counter()).update(LEDGER.syncs - last["syncs"])
            last.update(totals=LEDGER.totals(), syncs=LEDGER.syncs.copy())

        with torch.no_grad():
            conditioning = estimator.conditioning(images, SILENT)
            estimator.latents(conditioning, Progress(report))


def summary() -> dict[str, dict[str, Any]]:
    """Means over the calls, and the source lines with most synchronisations."""
    table = {}
    for name, calls in _counts.items():
        means = {key: sum(call[key] for call in calls) / len(calls) for key in calls[0]}
        lines = {
            line: round(count / len(calls), 2)
            for line, count in _lines[name].most_common(MAX_LINES)
        }
        table[name] = {"calls": len(calls), **means, "sync_lines": lines}
    return table


def main(names: list[str]) -> None:
    for name in names or WORKLOADS:
        WORKLOADS[name]()
    sys.stdout.write(json.dumps(summary()) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
