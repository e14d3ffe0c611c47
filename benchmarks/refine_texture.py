"""Baked textures of views that contradict each other, before and after their refinement.

    python dev.py bench refine_texture --meshes DIR

The known mesh without its texture is unwrapped again; its texture is baked from 16 views of the
true object and refined. Bent views: each but the first is displaced smoothly by up to 3 px and its
colours are scaled. Compared are renders from the 32 evaluation poses. See design note 033. Writes
texture_refinement.json and texture_refinement.md into the output folder after each run.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from known_meshes import KnownMeshes
from measure import machine
from results import ResultPage, Table, save_page
from tqdm import tqdm

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.evaluation.distortions import displaced, smooth_field
from nova3d_core.evaluation.metrics.image import evaluation_cameras, psnr
from nova3d_core.mesh import Mesh
from nova3d_core.meshing.unwrap.unwrap import unwrap
from nova3d_core.rendering.views import render_views
from nova3d_core.texturing.bake import bake_texture
from nova3d_core.texturing.config import RefineConfig
from nova3d_core.texturing.refine import refine_texture
from nova3d_core.texturing.seams import seam_difference
from nova3d_core.views import Views

ROOT = Path(__file__).resolve().parents[1]
NODES, MAX_SHIFT_PX, GAIN_SIGMA = 4, 3.0, 0.05
"""Nodes along each axis of a displacement, bound at the nodes, spread of each channel's gain."""


@dataclass(frozen=True)
class RefineBenchmark(KnownMeshes):
    """Settings of the benchmark."""

    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = (
        ROOT / "benchmark_output" / "refine_texture"
    )
    """Output folder."""
    conditions: tuple[str, ...] = ("bent", "clean")
    """Views to bake from."""
    refine: RefineConfig = field(default_factory=RefineConfig)
    """Settings of the refinement."""
    seed: int = 1
    """Of the displacements and gains."""


def rounded(views: Views) -> Views:
    """The views as 8-bit images, without normals."""
    colour, masks = ((each * 255.0).round() / 255.0 for each in (views.colour, views.masks))
    return replace(views, colour=colour, masks=masks, normals=None)


def bent(views: Views, seed: int) -> Views:
    """Each view but the first displaced smoothly, and its colours scaled."""
    random = np.random.default_rng(seed)
    height, width = views.masks.shape[1:]
    colour, masks = views.colour.clone(), views.masks.clone()
    for view in range(1, len(views)):
        nodes = random.uniform(-MAX_SHIFT_PX, MAX_SHIFT_PX, (2, NODES, NODES))
        shift = smooth_field(nodes, height, width)
        gain = torch.from_numpy(1.0 + random.normal(0.0, GAIN_SIGMA, 3)).float()
        masks[view] = displaced(views.masks[view, ..., None], shift)[..., 0].clamp(0.0, 1.0)
        white = 1.0 - masks[view, ..., None]
        moved = displaced(views.colour[view], shift)
        colour[view] = (gain * (moved - white).clamp_min(0.0) + white).clamp(0.0, 1.0)
    return rounded(replace(views, colour=colour, masks=masks))


CONDITIONS: Mapping[str, Callable[[Views, int], Views]] = {
    "bent": bent,
    "clean": lambda views, seed: views,
}


def main(settings: RefineBenchmark) -> None:
    rows: list[list] = []
    with tqdm(total=len(settings.objects) * len(settings.conditions), file=sys.stderr) as bar:
        for name in settings.objects:
            reference = settings.reference(name)
            shape = replace(reference, texture=None, uv=None, vertex_colours=None, material=None)
            shape = unwrap(shape).mesh.with_smooth_normals()
            views = rounded(render_views(reference, orbit_cameras(RigConfig())).views)
            truth = render_views(reference, evaluation_cameras()).views
            for condition in settings.conditions:
                bar.set_description(f"{name}, {condition}")
                given = CONDITIONS[condition](views, settings.seed)
                rows.append([name, condition, *measure(shape, given, truth, settings.refine)])
                save_page(settings.output, "texture_refinement", result_page(rows, settings))
                bar.update()


def measure(shape: Mesh, views: Views, truth: Views, config: RefineConfig) -> list[float]:
    """One row of the table."""
    baked = bake_texture(shape, views).mesh
    start = time.process_time(), time.perf_counter()
    refined = refine_texture(baked, views, config)
    seconds = time.process_time() - start[0], time.perf_counter() - start[1]
    before, after = (mean_psnr(mesh, truth) for mesh in (baked, refined.mesh))
    seams = [1000.0 * seam_difference(mesh) for mesh in (baked, refined.mesh)]
    return [before, after, after - before, *seams, refined.warp_px, *seconds]


def mean_psnr(mesh: Mesh, truth: Views) -> float:
    """Mean PSNR of renders from the cameras of the true views."""
    found = render_views(mesh, truth.cameras).views.colour
    pairs = zip(found, truth.colour, strict=True)
    return sum(psnr(*pair) for pair in pairs) / len(truth)


def result_page(rows: list[list], settings: RefineBenchmark) -> ResultPage:
    """The table of all runs so far."""
    columns = (
        ("object", ""), ("views", ""), ("PSNR baked", ".2f"), ("PSNR refined", ".2f"),
        ("gain dB", "+.2f"), ("seams baked", ".2f"), ("seams refined", ".2f"),
        ("views moved px", ".2f"), ("CPU s", ".1f"), ("wall s", ".1f"),
    )  # fmt: skip
    return ResultPage(
        title="Refinement of baked textures",
        summary=(
            "The true geometry with new UVs; a texture of 1024 px baked from 16 views of 256 px, "
            f"and refined with `perceptual: {settings.refine.perceptual}` and "
            f"{settings.refine.steps} steps. Bent: each view but the first is displaced by up to "
            f"{MAX_SHIFT_PX:g} px at {NODES} x {NODES} nodes, and each channel scaled by a gain "
            f"with a standard deviation of {100 * GAIN_SIGMA:g} %. PSNR over the 32 evaluation "
            "poses, none of which is an input view. Seams: mean absolute difference of the colours "
            "on both sides of the UV seams, in thousandths."
        ),
        tables=[Table(columns, rows)],
        command="python dev.py bench refine_texture --meshes DIR",
        machine=machine(),
        date=time.strftime("%Y-%m-%d"),
    )


if __name__ == "__main__":
    main(tyro.cli(RefineBenchmark, description=__doc__))
