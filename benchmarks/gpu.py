"""Checks a GPU's results against the CPU's and times every stage on it; fills the table in minutes.

    python dev.py bench gpu
    python dev.py bench gpu --device cpu --quick    exercises this script where there is no GPU

The shipped knight is fused and the built-in model sampled, so nothing is downloaded. Writes
gpu.json and gpu.md into the output folder. Exits with 1 if a result differs by more than its bound,
and with 2 if there is no such device.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from measure import StageMemory, machine
from torch import Tensor

from nova3d_core.compute.devices import resolve_device
from nova3d_core.diffusion.model import UNET, OneDevice
from nova3d_core.diffusion.sampling.config import SampleConfig
from nova3d_core.diffusion.sampling.pipeline import sample
from nova3d_core.errors import InputError
from nova3d_core.fusion.config import (
    HullConfig,
    LevelConfig,
    LossConfig,
    PoseConfig,
    SdfFusionConfig,
)
from nova3d_core.fusion.device import choose_fusion_device
from nova3d_core.fusion.fields.base import Field, RenderOutput
from nova3d_core.fusion.fields.grid.field import DenseGrid
from nova3d_core.fusion.fields.hashgrid.field import HashGridField
from nova3d_core.fusion.hull.visual_hull import carve_hull
from nova3d_core.fusion.losses import Targets, ray_loss
from nova3d_core.fusion.poses.pose_table import PoseTable
from nova3d_core.fusion.poses.registration import PoseRegistration
from nova3d_core.fusion.rays import RayDataset, ray_dataset
from nova3d_core.io.files.atomic import atomic_file
from nova3d_core.io.views.transforms_json import read_views
from nova3d_core.pipeline.config import FuseConfig
from nova3d_core.pipeline.fuse import fuse_views
from nova3d_core.progress import Progress, ProgressEvent
from nova3d_core.sdf_grid import SdfGrid
from nova3d_core.views import Views
from nova3d_core.weights.discovery.built_in import built_in_file
from nova3d_core.weights.load import load_model

ROOT = Path(__file__).resolve().parents[1]
VIEWS = ROOT / "nova3d_core" / "assets" / "knight" / "views"
LEVEL = LevelConfig(64, 1, 0.05)
RAYS = 20_000
CPU = torch.device("cpu")


@dataclass(frozen=True)
class GpuBenchmark:
    """Checks and times a device."""

    device: str = "cuda"
    """cuda, cuda:1, or cpu."""
    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = ROOT / "docs" / "results"
    """The folder to write gpu.json and gpu.md into."""
    presets: tuple[str, ...] = ("draft", "fast", "quality")
    """Presets of the fusion to time."""
    dtypes: tuple[str, ...] = ("float32", "float16", "bfloat16")
    """What the built-in model computes in."""
    quick: bool = False
    """Few rays and steps, and only the preset draft: exercises the script."""


@dataclass(frozen=True)
class Check:
    """How far a result on the device lies from the CPU's."""

    name: str
    difference: float
    bound: float
    unit: str

    @property
    def holds(self) -> bool:
        return self.difference <= self.bound


@dataclass
class Timing:
    """What a run cost."""

    name: str
    seconds: dict[str, float]
    peak_mib: dict[str, float] = field(default_factory=dict)
    """Of the GPU by stage; of this process where there is no GPU."""


def main(settings: GpuBenchmark) -> int:
    try:
        device = resolve_device(settings.device)
    except InputError as error:
        print(
            f"{error} Run this on a machine with a GPU, or with --device cpu to exercise it.",
            file=sys.stderr,
        )
        return 2
    torch.backends.cudnn.allow_tf32 = False  # checks compare float32 with float32
    views = read_views(VIEWS)
    checks = [*fusion_checks(views, device, settings), *sampling_checks(device, settings)]
    torch.backends.cudnn.allow_tf32 = True
    timings = [*fusion_timings(views, device, settings), *sampling_timings(device, settings)]
    write(settings.output, device, checks, timings)
    print(page(device, checks, timings))
    return 0 if all(check.holds for check in checks) else 1


# Equality


def fusion_checks(views: Views, device: torch.device, settings: GpuBenchmark) -> list[Check]:
    """One step of each field, and of the alignment, on both devices."""
    hull = carve_hull(views, HullConfig(resolution=48))
    bank = ray_dataset(views, 5, True)
    count = 2000 if settings.quick else RAYS
    ids = torch.randperm(len(bank), generator=torch.Generator().manual_seed(0))[:count]
    rays = bank.at(ids.sort().values)
    grids = [DenseGrid(hull, place) for place in (CPU, device)]
    checks = step_checks("grid", grids, rays, views)
    hashes = [HashGridField(hull, place, views=len(views)) for place in (CPU, device)]
    if device.type == "cpu":  # a GPU's tables are larger, and begin as other random numbers
        few = rays.at(torch.arange(0, count, 10))
        checks += step_checks("hash grid", hashes, few, views)
    else:
        checks.append(hull_check(hashes[1], hull, rays.to(device)))
    return [*checks, alignment_check(bank, views, grids)]


def step_checks(name: str, fields: list[Field], rays: RayDataset, views: Views) -> list[Check]:
    """Rendering, derivatives and the moved field on the CPU and on another device."""
    found = [field_step(each, rays.to(each.device), views) for each in fields]
    bounds = {"rendering": 1e-4, "gradients of rays": 1e-3, "field after a step": 0.01}
    units = {"rendering": "of 0..1", "gradients of rays": "of the largest"}
    return [
        Check(
            f"{name}: {part}", gap(*(each[part] for each in found)), bound, units.get(part, "cells")
        )
        for part, bound in bounds.items()
    ]


def field_step(each: Field, rays: RayDataset, views: Views) -> dict[str, Tensor]:
    """What a step of a field gives, on the CPU."""
    each.begin_level(LEVEL)
    rendered = each.render(rays.origin, rays.direction)
    loss = ray_loss(rendered, targets_of(rays, rendered), LossConfig(), 1.0)
    by = each.backward(loss.grad_opacity, loss.grad_gradient, loss.grad_colour, True)
    gradients = torch.cat([by.grad_origins, by.grad_directions], dim=1).cpu()
    each.step(LossConfig(), 1.0)
    values = each.to_grid().values / each.spacing
    return {
        "rendering": torch.cat([rendered.opacity[:, None], rendered.colour], dim=1).cpu(),
        "gradients of rays": gradients / gradients.abs().max(),
        "field after a step": values.clamp(-3.0, 3.0),
    }


def targets_of(rays: RayDataset, rendered: RenderOutput) -> Targets:
    """The rays' own targets, without conflict."""
    zero, one = torch.zeros_like(rays.mask), torch.ones_like(rays.mask)
    gain = torch.ones_like(rendered.colour)
    return Targets(rays.mask, rays.colour, rays.normal, rays.normal_weight, gain, zero, one)


def gap(plain: Tensor, found: Tensor) -> float:
    """The 99.9th percentile of the differences: a few rays graze an edge either way."""
    apart = (plain - found).abs().flatten()
    return float(apart.sort().values[int(0.999 * (len(apart) - 1))])


def hull_check(each: Field, hull: SdfGrid, rays: RayDataset) -> Check:
    """The hash grid starts as the hull: as the grid renders it on the CPU."""
    plain = DenseGrid(hull, CPU)
    for one in (plain, each):
        one.begin_level(LEVEL)
    on_cpu = rays.to(CPU)
    opacity = plain.render(on_cpu.origin, on_cpu.direction).opacity
    found = each.render(rays.origin, rays.direction).opacity.cpu()
    return Check("hash grid: opacity of its start", float((opacity - found).abs().mean()), 0.05, "")


def alignment_check(bank: RayDataset, views: Views, grids: list[DenseGrid]) -> Check:
    """The motions of one alignment step on both devices."""
    centre = torch.zeros(3)
    found = []
    for grid in grids:
        device = grid.device
        cameras, here = views.cameras.to(device), bank.to(device)
        poses = PoseTable(views.cameras, centre, PoseConfig())
        alignment = PoseRegistration(here, cameras, grid.spacing, 2)
        gains = torch.ones(len(views), 3, device=device)
        conflict = torch.zeros(len(bank), device=device)
        alignment.step(grid, poses, gains, conflict, 0.05)
        found.append(poses.motions())
    return Check("alignment: motions", float((found[0] - found[1]).abs().max()), 1e-3, "rad, world")


def sampling_checks(device: torch.device, settings: GpuBenchmark) -> list[Check]:
    """Two steps of the built-in model in each dtype against float32 on the CPU."""
    bounds = {"float32": 1e-3, "float16": 0.02, "bfloat16": 0.05}
    plain = sampled(CPU, torch.float32, 2)[0]
    checks = []
    for name in settings.dtypes:
        dtype = getattr(torch, name)
        exact = device == CPU and dtype == torch.float32
        found = plain if exact and settings.quick else sampled(device, dtype, 2)[0]
        apart = float((found - plain).abs().mean())
        checks.append(Check(f"sampling in {name}: mean of images", apart, bounds[name], "of 0..1"))
    return checks


def sampled(
    device: torch.device, dtype: torch.dtype, steps: int | None, progress: Progress | None = None
) -> tuple[Tensor, float]:
    """Images (D, V, S, S, 3) of the built-in model, and the seconds that they took."""
    model = load_model(built_in_file())
    model.part(UNET).to(dtype)
    views = read_views(VIEWS)
    begun = time.perf_counter()
    result = sample(
        model,
        views.colour[0],
        views.masks[0],
        SampleConfig(seed=0, steps=steps),
        placement=OneDevice(model, device, dtype, keep=True),
        progress=progress or Progress(),
    )
    return result.images, time.perf_counter() - begun


# Time and memory


class DeviceMemory:
    """Peak memory of a GPU in each stage, in MiB; of this process where there is none."""

    def __init__(self, device: torch.device):
        self._device, self._host, self._stage = device, StageMemory(), "start"
        self._peaks: dict[str, float] = {}
        self.progress = Progress(self._enter)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Measures while the `with` block runs."""
        with self._host.watching():
            yield
        self._note()

    @property
    def peak_mib(self) -> dict[str, float]:
        """By stage."""
        return self._peaks if self._device.type == "cuda" else self._host.peak_mib

    def _enter(self, event: ProgressEvent) -> None:
        self._host.progress.update(event.stage, event.step, event.total)
        if event.stage != self._stage:
            self._note()
            self._stage = event.stage

    def _note(self) -> None:
        if self._device.type == "cuda":
            self._peaks[self._stage] = torch.cuda.max_memory_allocated(self._device) / 2**20
            torch.cuda.reset_peak_memory_stats(self._device)


def timed(name: str, device: torch.device, run: Callable[[Progress], dict[str, float]]) -> Timing:
    """What a run cost; it gives its stages' seconds."""
    memory = DeviceMemory(device)
    with memory.watching():
        seconds = run(memory.progress)
    return Timing(name, seconds, memory.peak_mib)


def fusion_timings(views: Views, device: torch.device, settings: GpuBenchmark) -> list[Timing]:
    """Views to a textured mesh with each preset; the first run also compiles.

    The names say so where the fusion runs on the CPU in place of the device.
    """
    place = ", on the CPU" if choose_fusion_device(device).reason else ""

    def run(config: FuseConfig) -> Callable[[Progress], dict[str, float]]:
        return lambda progress: fuse_views(views, config, progress, device).seconds

    if settings.quick:
        levels = tuple(
            replace(level, steps=2) for level in SdfFusionConfig("draft").complete().levels
        )
        short = FuseConfig(sdf=SdfFusionConfig("draft", levels=levels, check_inputs=False))
        short = replace(short, bake=replace(short.bake, texture_px=256))
        return [timed(f"fusion, draft, shortened{place}", device, run(short))]
    return [
        timed(f"fusion, {preset}{place}", device, run(FuseConfig(sdf=SdfFusionConfig(preset))))
        for preset in settings.presets
    ]


def sampling_timings(device: torch.device, settings: GpuBenchmark) -> list[Timing]:
    """A whole sample of the built-in model in each dtype; weights are loaded before."""
    steps = 1 if settings.quick else None
    dtypes = settings.dtypes[:1] if settings.quick else settings.dtypes

    def run(dtype: torch.dtype) -> Callable[[Progress], dict[str, float]]:
        return lambda progress: {"total": sampled(device, dtype, steps, progress)[1]}

    return [
        timed(f"sampling, built-in model, {name}", device, run(getattr(torch, name)))
        for name in dtypes
    ]


# Reports


def write(folder: Path, device: torch.device, checks: list[Check], timings: list[Timing]) -> None:
    """Writes gpu.json and gpu.md."""
    document: dict[str, Any] = {
        "machine": {**machine(), "device": name_of(device)},
        "checks": [{**asdict(check), "holds": check.holds} for check in checks],
        "timings": [asdict(timing) for timing in timings],
    }
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / "gpu.json", overwrite=True) as path:
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    with atomic_file(folder / "gpu.md", overwrite=True) as path:
        path.write_text(page(device, checks, timings), encoding="utf-8")


def name_of(device: torch.device) -> str:
    """The device as its maker calls it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def page(device: torch.device, checks: list[Check], timings: list[Timing]) -> str:
    """The page, in Markdown."""
    rows = ["| compared with the CPU | difference | at most | |", "| --- | ---: | ---: | --- |"]
    for check in checks:
        verdict = "holds" if check.holds else "DIFFERS"
        bound = f"{check.bound:g} {check.unit}".strip()
        rows.append(f"| {check.name} | {check.difference:.2g} | {bound} | {verdict} |")
    times = ["| run | stage | seconds |", "| --- | --- | ---: |"]
    memory = ["| run | stage | peak MiB |", "| --- | --- | ---: |"]
    for timing in timings:
        times += [f"| {timing.name} | {k} | {v:.2f} |" for k, v in timing.seconds.items()]
        memory += [f"| {timing.name} | {k} | {v:.0f} |" for k, v in timing.peak_mib.items()]
    tables = "\n\n".join("\n".join(lines) for lines in (rows, times, memory))
    return f"# On {name_of(device)}, torch {torch.__version__}\n\n{tables}\n"


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(GpuBenchmark, description=__doc__)))
