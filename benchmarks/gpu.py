"""Compares results on a GPU with the CPU and times every stage there; takes minutes.

    python dev.py bench gpu
    python dev.py bench gpu --device cpu --quick    exercises this script without a GPU

The shipped knight is fused and the built-in model sampled, so nothing is downloaded. Writes
gpu.json and gpu.md. Exit code 1 if a difference exceeds its tolerance, 2 without such
a device.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated

import torch
import tyro
from measure import StageMemory, machine
from results import RESULTS, ResultPage, Table, markdown_page, save_page
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
from nova3d_core.fusion.fields.base import Field
from nova3d_core.fusion.fields.grid.field import DenseGrid
from nova3d_core.fusion.fields.hashgrid.field import HashGridField
from nova3d_core.fusion.fields.render_output import RenderOutput
from nova3d_core.fusion.hull.visual_hull import carve_hull
from nova3d_core.fusion.losses import Targets, ray_loss
from nova3d_core.fusion.poses.pose_table import PoseTable
from nova3d_core.fusion.poses.registration import PoseRegistration
from nova3d_core.fusion.rays import RayDataset, ray_dataset
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
    """Settings of the benchmark."""

    device: str = "cuda"
    """cuda, cuda:1, or cpu."""
    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = RESULTS
    """Folder of gpu.json and gpu.md."""
    presets: tuple[str, ...] = ("draft", "fast", "quality")
    """Fusion presets to time."""
    dtypes: tuple[str, ...] = ("float32", "float16", "bfloat16")
    """Dtypes of the built-in model."""
    quick: bool = False
    """Few rays and steps, only the preset draft: exercises the script."""


@dataclass(frozen=True)
class Check:
    """Difference between a result on the device and on the CPU."""

    name: str
    difference: float
    tolerance: float
    unit: str

    @property
    def passed(self) -> bool:
        return self.difference <= self.tolerance


@dataclass
class Timing:
    """Seconds and peak memory of a run."""

    name: str
    seconds: dict[str, float]
    peak_mib: dict[str, float] = field(default_factory=dict)
    """By stage: GPU memory, or process memory without a GPU."""


def main(settings: GpuBenchmark) -> int:
    try:
        device = resolve_device(settings.device)
    except InputError as error:
        print(
            f"{error} Run this on a machine with a GPU, or with --device cpu to exercise it.",
            file=sys.stderr,
        )
        return 2
    torch.backends.cudnn.allow_tf32 = False  # the checks compare float32 with float32
    views = read_views(VIEWS)
    checks = [*fusion_checks(views, device, settings), *sampling_checks(device, settings)]
    torch.backends.cudnn.allow_tf32 = True
    timings = [*fusion_timings(views, device, settings), *sampling_timings(device, settings)]
    page = result_page(device, checks, timings)
    save_page(settings.output, "gpu", page)
    print(markdown_page(page, "gpu.json"))
    return 0 if all(check.passed for check in checks) else 1


# Comparison with the CPU


def fusion_checks(views: Views, device: torch.device, settings: GpuBenchmark) -> list[Check]:
    """One step of each field and one registration step on both devices."""
    hull = carve_hull(views, HullConfig(resolution=48))
    dataset = ray_dataset(views, 5, True)
    count = 2000 if settings.quick else RAYS
    ids = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[:count]
    rays = dataset.at(ids.sort().values)
    grids = [DenseGrid(hull, each) for each in (CPU, device)]
    checks = step_checks("grid", grids, rays)
    hash_grids = [HashGridField(hull, each, views=len(views)) for each in (CPU, device)]
    if device.type == "cpu":  # tables on a GPU are larger, with another random initialisation
        few = rays.at(torch.arange(0, count, 10))
        checks += step_checks("hash grid", hash_grids, few)
    else:
        checks.append(hull_check(hash_grids[1], hull, rays.to(device)))
    return [*checks, registration_check(dataset, views, grids)]


def step_checks(name: str, fields: list[Field], rays: RayDataset) -> list[Check]:
    """Rendering, gradients and updated field on both devices."""
    steps = [field_step(each, rays.to(each.device)) for each in fields]
    tolerances = {"rendering": 1e-4, "ray gradients": 1e-3, "field after a step": 0.01}
    units = {"rendering": "of 0..1", "ray gradients": "of the maximum"}
    return [
        Check(
            f"{name}: {part}",
            difference(*(step[part] for step in steps)),
            tolerance,
            units.get(part, "cells"),
        )
        for part, tolerance in tolerances.items()
    ]


def field_step(field: Field, rays: RayDataset) -> dict[str, Tensor]:
    """Results of one optimisation step, on the CPU."""
    field.set_level(LEVEL)
    rendered = field.render(rays.origin, rays.direction)
    loss = ray_loss(rendered, targets_of(rays, rendered), LossConfig(), 1.0)
    grads = field.backward(loss.grad_opacity, loss.grad_gradient, loss.grad_colour, True)
    gradients = torch.cat([grads.grad_origins, grads.grad_directions], dim=1).cpu()
    field.step(LossConfig(), 1.0)
    values = field.to_grid().values / field.spacing
    return {
        "rendering": torch.cat([rendered.opacity[:, None], rendered.colour], dim=1).cpu(),
        "ray gradients": gradients / gradients.abs().max(),
        "field after a step": values.clamp(-3.0, 3.0),
    }


def targets_of(rays: RayDataset, rendered: RenderOutput) -> Targets:
    """Targets of the rays, without conflict."""
    zero, one = torch.zeros_like(rays.mask), torch.ones_like(rays.mask)
    gain = torch.ones_like(rendered.colour)
    return Targets(rays.mask, rays.colour, rays.normal, rays.normal_weight, gain, zero, one)


def difference(expected: Tensor, actual: Tensor) -> float:
    """99.9th percentile of the absolute differences: a few rays hit or miss an edge."""
    errors = (expected - actual).abs().flatten()
    return float(errors.sort().values[int(0.999 * (len(errors) - 1))])


def hull_check(field: Field, hull: SdfGrid, rays: RayDataset) -> Check:
    """The hash grid is initialised to the hull, as rendered by the dense grid on the CPU."""
    grid = DenseGrid(hull, CPU)
    for each in (grid, field):
        each.set_level(LEVEL)
    on_cpu = rays.to(CPU)
    expected = grid.render(on_cpu.origin, on_cpu.direction).opacity
    actual = field.render(rays.origin, rays.direction).opacity.cpu()
    error = float((expected - actual).abs().mean())
    return Check("hash grid: initial opacity", error, 0.05, "")


def registration_check(dataset: RayDataset, views: Views, grids: list[DenseGrid]) -> Check:
    """Pose updates of one registration step on both devices."""
    centre = torch.zeros(3)
    updates = []
    for grid in grids:
        device = grid.device
        cameras, rays = views.cameras.to(device), dataset.to(device)
        poses = PoseTable(views.cameras, centre, PoseConfig())
        registration = PoseRegistration(rays, cameras, grid.spacing, 2)
        gains = torch.ones(len(views), 3, device=device)
        conflict = torch.zeros(len(dataset), device=device)
        registration.step(grid, poses, gains, conflict, 0.05)
        updates.append(poses.motions())
    error = float((updates[0] - updates[1]).abs().max())
    return Check("registration: pose updates", error, 1e-3, "rad, world")


def sampling_checks(device: torch.device, settings: GpuBenchmark) -> list[Check]:
    """Two steps of the built-in model in each dtype against float32 on the CPU."""
    tolerances = {"float32": 1e-3, "float16": 0.02, "bfloat16": 0.05}
    expected = generate(CPU, torch.float32, 2)[0]
    checks = []
    for name in settings.dtypes:
        dtype = getattr(torch, name)
        exact = device == CPU and dtype == torch.float32
        same = exact and settings.quick
        actual = expected if same else generate(device, dtype, 2)[0]
        error = float((actual - expected).abs().mean())
        title = f"sampling in {name}: mean of images"
        checks.append(Check(title, error, tolerances[name], "of 0..1"))
    return checks


def generate(
    device: torch.device, dtype: torch.dtype, steps: int | None, progress: Progress | None = None
) -> tuple[Tensor, float]:
    """Images (D, V, S, S, 3) of the built-in model, and the sampling time in seconds."""
    model = load_model(built_in_file())
    model.part(UNET).to(dtype)
    views = read_views(VIEWS)
    start = time.perf_counter()
    result = sample(
        model,
        views.colour[0],
        views.masks[0],
        SampleConfig(seed=0, steps=steps),
        placement=OneDevice(model, device, dtype, keep=True),
        progress=progress or Progress(),
    )
    return result.images, time.perf_counter() - start


# Time and memory


class DeviceMemory:
    """Peak memory in each stage, in MiB: of the GPU, or of this process without one."""

    def __init__(self, device: torch.device):
        self._device, self._host, self._stage = device, StageMemory(), "start"
        self._peaks: dict[str, float] = {}
        self.progress = Progress(self._enter)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Measures during the `with` block."""
        with self._host.watching():
            yield
        self._record()

    @property
    def peak_mib(self) -> dict[str, float]:
        """Peak memory by stage."""
        return self._peaks if self._device.type == "cuda" else self._host.peak_mib

    def _enter(self, event: ProgressEvent) -> None:
        self._host.progress.update(event.stage, event.step, event.total)
        if event.stage != self._stage:
            self._record()
            self._stage = event.stage

    def _record(self) -> None:
        if self._device.type == "cuda":
            self._peaks[self._stage] = torch.cuda.max_memory_allocated(self._device) / 2**20
            torch.cuda.reset_peak_memory_stats(self._device)


def timed(name: str, device: torch.device, run: Callable[[Progress], dict[str, float]]) -> Timing:
    """Runs and measures; `run` returns the seconds of its stages."""
    memory = DeviceMemory(device)
    with memory.watching():
        seconds = run(memory.progress)
    return Timing(name, seconds, memory.peak_mib)


def fusion_timings(views: Views, device: torch.device, settings: GpuBenchmark) -> list[Timing]:
    """Views to a textured mesh with each preset; the first run includes kernel compilation.

    The names say so if the fusion runs on the CPU instead of the device.
    """
    suffix = ", on the CPU" if choose_fusion_device(device).reason else ""

    def run(config: FuseConfig) -> Callable[[Progress], dict[str, float]]:
        return lambda progress: fuse_views(views, config, progress, device).seconds

    if settings.quick:
        levels = tuple(
            replace(level, steps=2) for level in SdfFusionConfig("draft").complete().levels
        )
        short = FuseConfig(sdf=SdfFusionConfig("draft", levels=levels, check_inputs=False))
        short = replace(short, bake=replace(short.bake, texture_px=256))
        return [timed(f"fusion, draft, shortened{suffix}", device, run(short))]
    return [
        timed(f"fusion, {preset}{suffix}", device, run(FuseConfig(sdf=SdfFusionConfig(preset))))
        for preset in settings.presets
    ]


def sampling_timings(device: torch.device, settings: GpuBenchmark) -> list[Timing]:
    """Sampling with the built-in model in each dtype, without loading the weights."""
    steps = 1 if settings.quick else None
    dtypes = settings.dtypes[:1] if settings.quick else settings.dtypes

    def run(dtype: torch.dtype) -> Callable[[Progress], dict[str, float]]:
        return lambda progress: {"total": generate(device, dtype, steps, progress)[1]}

    return [
        timed(f"sampling, built-in model, {name}", device, run(getattr(torch, name)))
        for name in dtypes
    ]


# Result page


def result_page(device: torch.device, checks: list[Check], timings: list[Timing]) -> ResultPage:
    """The page of comparisons, times and memory."""
    comparison = [
        [
            check.name,
            check.difference,
            f"{check.tolerance:g} {check.unit}".strip(),
            "passed" if check.passed else "FAILED",
        ]
        for check in checks
    ]
    seconds = [[timing.name, *item] for timing in timings for item in timing.seconds.items()]
    memory = [[timing.name, *item] for timing in timings for item in timing.peak_mib.items()]
    columns = [("compared with the CPU", ""), ("difference", ".2g"), ("tolerance", ""), ("", "")]
    return ResultPage(
        title="GPU against CPU",
        summary="Results on the device compared with the CPU, and times and peak memory there.",
        tables=[
            Table(columns, comparison, "Differences"),
            Table([("run", ""), ("stage", ""), ("seconds", ".2f")], seconds, "Times"),
            Table([("run", ""), ("stage", ""), ("peak MiB", ".0f")], memory, "Peak memory"),
        ],
        command="python dev.py bench gpu",
        machine={**machine(), "device": device_name(device)},
        date=time.strftime("%Y-%m-%d"),
        details={
            "checks": [{**asdict(check), "passed": check.passed} for check in checks],
            "timings": [asdict(timing) for timing in timings],
        },
    )


def device_name(device: torch.device) -> str:
    """Name of the GPU, or of the device type."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(GpuBenchmark, description=__doc__)))
