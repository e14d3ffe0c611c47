"""Fuses Wonder3D's 6 views, rendered from known meshes: what few views can show at best.

    python dev.py bench six_views --meshes DIR

Each mesh is rendered from Wonder3D's 6 orthographic cameras at 256 px, with normals, as a perfect
Wonder3D would generate it. The views are fused at that size and enlarged as the sampling does, and
compared with the same mesh from the default rig of 16 views.
Writes six_views.json and six_views.md into the output folder after each fusion.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from known_meshes import KnownMeshes
from measure import machine
from results import ResultPage, Table, save_page
from tqdm import tqdm

from nova3d_core.cameras.cameras import cameras_from_orbit
from nova3d_core.cameras.orbits import preset_orbit
from nova3d_core.conventions import encode_normals
from nova3d_core.diffusion.families import FAMILIES
from nova3d_core.diffusion.sampling.postprocess import upscale, views_from_samples
from nova3d_core.evaluation.config import EvaluateConfig
from nova3d_core.evaluation.protocol import evaluate_mesh
from nova3d_core.fusion.config import SdfFusionConfig
from nova3d_core.mesh import Mesh
from nova3d_core.pipeline.config import FuseConfig
from nova3d_core.pipeline.fuse import fuse_views
from nova3d_core.rendering.views import render_views
from nova3d_core.views import Views

ROOT = Path(__file__).resolve().parents[1]


def generated_views(mesh: Mesh, family: str, factor: int) -> Views:
    """The views that a perfect model of a family generates, as 8-bit images on white."""
    model = FAMILIES[family]
    cameras = cameras_from_orbit(preset_orbit(model.orbit, model.size_px, model.size_px))
    views = render_views(mesh, cameras).views.with_normals_in("front_view")
    normals = encode_normals(views.normals)
    covered = views.masks[..., None]
    normals = covered * normals + (1.0 - covered)
    colour, normals = ((images * 255.0).round() / 255.0 for images in (views.colour, normals))
    return upscale(views_from_samples(cameras, colour, normals), factor)


VARIANTS: dict[str, Callable[[Mesh], Views]] = {
    "Wonder3D, 6 views, enlarged 2x": lambda mesh: generated_views(mesh, "wonder3d", 2),
    "NOVA3D, 16 views": lambda mesh: generated_views(mesh, "nova3d", 1),
    "Wonder3D, 6 views": lambda mesh: generated_views(mesh, "wonder3d", 1),
}


@dataclass(frozen=True)
class SixViewsBenchmark(KnownMeshes):
    """Settings of the benchmark."""

    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = (
        ROOT / "benchmark_output" / "six_views"
    )
    """Output folder."""
    sdf: SdfFusionConfig = field(default_factory=SdfFusionConfig)
    """Settings of the fusion."""


def main(settings: SixViewsBenchmark) -> None:
    rows: list[list] = []
    with tqdm(total=len(settings.objects) * len(VARIANTS), file=sys.stderr) as bar:
        for variant, make_views in VARIANTS.items():
            for name in settings.objects:
                bar.set_description(f"{name}, {variant}")
                reference = settings.reference(name)
                mesh = fuse_views(make_views(reference), FuseConfig(sdf=settings.sdf)).mesh
                report = evaluate_mesh(mesh, reference, EvaluateConfig()).metrics
                rows.append([
                    name, variant,
                    report["visible"]["cd_l1"], report["visible"]["f_at_0.005"],
                    report["surface"]["cd_l1"],
                    report["images_el0"]["normal_error_deg"],
                    report["images_el0"]["psnr"], report["images_el25"]["psnr"],
                ])  # fmt: skip
                save_page(settings.output, "six_views", result_page(rows, settings))
                bar.update()


def result_page(rows: list[list], settings: SixViewsBenchmark) -> ResultPage:
    """The table of all runs so far."""
    columns = (
        ("object", ""), ("views", ""), ("visible CD-L1", ".4f"), ("visible F@.005", ".3f"),
        ("CD-L1", ".4f"), ("normal error el 0 °", ".1f"), ("PSNR el 0", ".2f"),
        ("PSNR el ±25", ".2f"),
    )  # fmt: skip
    ordered = sorted(rows, key=lambda row: settings.objects.index(row[0]))
    return ResultPage(
        title="Six views of Wonder3D",
        summary=(
            "Renderings of known meshes from the cameras of Wonder3D and of NOVA3D, 256 x 256 px, "
            "colours and normals as 8-bit images on white: what the views of a perfect model give, "
            f"fused with the preset `{settings.sdf.preset}`. Visible means visible in the default "
            "rig of 16 views for both."
        ),
        tables=[
            Table(columns, ordered, notes=[
                "Between azimuths of 90 and 270 degrees Wonder3D has one view, the back: surfaces "
                "that face 135 and 225 degrees are seen at 45 degrees or not at all.",
                "No view is from above or below, so tops, undersides and cavities are closed "
                "smoothly.",
            ])
        ],
        command="python dev.py bench six_views --meshes DIR",
        machine=machine(),
        date=time.strftime("%Y-%m-%d"),
    )  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(SixViewsBenchmark, description=__doc__))
