"""Counts kernel launches, synchronisations and uploads of the stages' steps on the pretend device.

    python -m tests.devices.counts [NAME...]

writes one line of JSON: name -> launches, syncs, uploads, each a mean per call, and the lines where
the syncs are. Run it as a process of its own; `benchmarks/launches.py` makes the table of it. It
uses little of the core, so that it also counts older commits (first on the import path).
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
"""Sixteen views of 256 pixels, in the checkout that is counted."""
LINES = 4
"""Source lines that are named for each count."""

COUNTS: dict[str, Callable[[], None]] = {}
_found: dict[str, list[dict[str, int]]] = {}
_lines: dict[str, Counter[str]] = {}


def counts(function: Callable[[], None]) -> Callable[[], None]:
    """Registers a workload by its name."""
    COUNTS[function.__name__] = function
    return function


@contextmanager
def booked(name: str) -> Iterator[None]:
    """Books what the `with` block asks of the device as one call of a name."""
    before = LEDGER.syncs.copy()
    with counted() as found:
        yield
    _found.setdefault(name, []).append(found)
    _lines.setdefault(name, Counter()).update(LEDGER.syncs - before)


def book_calls(owner: Any, function: str, name: str) -> None:
    """Replaces a function by one whose calls are booked."""
    plain = getattr(owner, function)

    def recorded(*args: Any, **kwargs: Any) -> Any:
        with booked(name):
            return plain(*args, **kwargs)

    setattr(owner, function, recorded)


def _views():
    from nova3d_core.io.views.transforms_json import read_views

    return read_views(VIEWS)


def _fuse(config: Any) -> None:
    from nova3d_core.fusion.fuse import fuse_sdf

    fuse_sdf(_views(), config, device=DEVICE)


@counts
def fusion() -> None:
    """The grid field in warp, gradient steps on poses, then alignment."""
    from nova3d_core.fusion import fuse as optimise
    from nova3d_core.fusion.config import LevelConfig, SdfFusionConfig
    from nova3d_core.fusion.fields.grid.field import DenseGrid
    from nova3d_core.fusion.poses.registration import PoseRegistration

    install_warp()
    book_calls(optimise, "_step", "fusion step")
    book_calls(optimise, "_register_poses", "registration step")
    book_calls(optimise, "_check_finite", "check for NaN (every 10 steps)")
    book_calls(PoseRegistration, "__init__", "registration setup (once per level)")
    book_calls(DenseGrid, "redistance", "redistancing (every 25 steps)")
    plain = SdfFusionConfig(check_inputs=False)
    levels = (
        LevelConfig(32, 10, 0.04, pose_lr=4e-3),
        LevelConfig(64, 40, 0.04, pose_lr=4e-3),
        LevelConfig(64, 12, 0.04, register_every=4, register_stride=2),
    )
    conflict = replace(plain.conflict, start_fraction=0.0)
    poses = replace(plain.poses, warmup_fraction=0.0)
    _fuse(replace(plain, levels=levels, conflict=conflict, poses=poses))


@counts
def fusion_in_torch() -> None:
    """The grid field's torch twin; rays as many as the presets take at least."""
    from nova3d_core.fusion import fuse as optimise
    from nova3d_core.fusion.config import LevelConfig, SdfFusionConfig
    from nova3d_core.fusion.fields.grid import warp_support

    warp_support.can_run_on = lambda device: False
    book_calls(optimise, "_step", "fusion step, torch implementation")
    plain = SdfFusionConfig(check_inputs=False)
    conflict = replace(plain.conflict, start_fraction=0.0)
    _fuse(replace(plain, levels=(LevelConfig(64, 3, 0.01),), conflict=conflict))


@counts
def fusion_hashgrid() -> None:
    """The hash grid in torch, with the tables of a GPU."""
    from nova3d_core.fusion import fuse as optimise
    from nova3d_core.fusion.config import LevelConfig, SdfFusionConfig
    from nova3d_core.fusion.fields.hashgrid import field as hashgrid
    from nova3d_core.fusion.fields.hashgrid.encoding import HashEncoding

    def encoding(device: torch.device, finest: int = 256) -> HashEncoding:
        return HashEncoding(levels=10, log2_table=19, finest=finest).to(device)

    hashgrid.make_encoding = encoding
    book_calls(optimise, "_step", "fusion step, hash grid")
    plain = SdfFusionConfig(field="hashgrid", check_inputs=False)
    levels = (LevelConfig(64, 6, 0.004, pose_lr=4e-3),)
    conflict = replace(plain.conflict, start_fraction=0.0)
    poses = replace(plain.poses, warmup_fraction=0.0)
    plain = replace(plain, min_rays=2000, ray_chunk_size=8000)
    _fuse(replace(plain, levels=levels, conflict=conflict, poses=poses))


@counts
def cameras() -> None:
    """A `Cameras` of sixteen views made on the device."""
    from nova3d_core.cameras.cameras import orbit_cameras

    given = orbit_cameras()
    with booked("new Cameras"):
        given.to(DEVICE)


@counts
def sampling() -> None:
    """Denoising steps of each kind of network, small, in float32 and float16."""
    from nova3d_core.cameras.orbits import ORBIT_PRESETS, OrbitConfig
    from nova3d_core.cameras.rigs import RigConfig
    from nova3d_core.diffusion.model import UNET, OneDevice
    from nova3d_core.diffusion.sampling.config import SampleConfig
    from nova3d_core.diffusion.sampling.pipeline import SAMPLING, sample
    from nova3d_core.progress import Progress

    from ..diffusion.models import image_and_mask, small_model

    ORBIT_PRESETS["of 4"] = OrbitConfig(RigConfig(count=4))
    for family in ("nova3d", "nova3d-mini", "sv3d_u"):
        for dtype in (torch.float32, torch.float16):
            model = small_model(family, views=4)
            model.part(UNET).to(dtype)
            name = f"denoising step, small {family}, {str(dtype).removeprefix('torch.')}"
            last: dict[str, Any] = {}

            def report(event: Any, name: str = name, last: dict[str, Any] = last) -> None:
                if event.stage != SAMPLING:
                    return
                if event.step > 1:  # the first step also makes what all share
                    now = LEDGER.totals()
                    found = {key: now[key] - last["totals"][key] for key in now}
                    _found.setdefault(name, []).append(found)
                    _lines.setdefault(name, Counter()).update(LEDGER.syncs - last["syncs"])
                last.update(totals=LEDGER.totals(), syncs=LEDGER.syncs.copy())

            placement = OneDevice(model, DEVICE, dtype)
            given = image_and_mask()
            config = SampleConfig(steps=3)
            sample(model, *given, config, placement=placement, progress=Progress(report))


def summary() -> dict[str, dict[str, Any]]:
    """Means over the calls, and the lines that wait most often."""
    table = {}
    for name, calls in _found.items():
        means = {key: sum(call[key] for call in calls) / len(calls) for key in calls[0]}
        lines = {
            line: round(count / len(calls), 2) for line, count in _lines[name].most_common(LINES)
        }
        table[name] = {"calls": len(calls), **means, "sync_lines": lines}
    return table


def main(names: list[str]) -> None:
    for name in names or COUNTS:
        COUNTS[name]()
    sys.stdout.write(json.dumps(summary()) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
