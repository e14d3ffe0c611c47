"""Light taken out of views before baking, and the orbit that shows tops and bottoms.

    python dev.py bench light --meshes DIR [--parts light orbit]

light: objects with known albedo are rendered under synthetic lights from the orbit sv3d_sine and
fused; their textures are baked with and without removing the light, and compared with the albedo
of the nearest point on the true surface. orbit: the meshes fused from the level orbit of SV3D and
from its sine orbit are compared with the true ones. See design note 037. Writes light.json and
light.md into the output folder after each run.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from known_meshes import mesh_files
from measure import machine
from results import ResultPage, Table, save_page
from tqdm import tqdm

from nova3d_core.cameras.cameras import Cameras, cameras_from_orbit
from nova3d_core.cameras.orbits import preset_orbit
from nova3d_core.evaluation.config import EvaluateConfig
from nova3d_core.evaluation.lights import (
    LIGHTS,
    albedo_error,
    lit_views,
    log_correlation,
    nearest_surface,
)
from nova3d_core.evaluation.protocol import evaluate_mesh
from nova3d_core.fusion.config import SdfFusionConfig
from nova3d_core.io.images.images import write_image
from nova3d_core.io.mesh.read import read_mesh
from nova3d_core.mesh import Mesh
from nova3d_core.meshing.unwrap.unwrap import unwrap
from nova3d_core.pipeline.config import FuseConfig
from nova3d_core.pipeline.fuse import fuse_views
from nova3d_core.pipeline.stages import bake_views, extract_mesh, fuse_to_surface
from nova3d_core.rendering.shading import surface_colour
from nova3d_core.rendering.views import render_views
from nova3d_core.texturing.config import UnlightConfig
from nova3d_core.texturing.lighting.images import light_image, shading_images
from nova3d_core.texturing.lighting.observe import sample_points
from nova3d_core.texturing.lighting.unlight import Unlit, unlight
from nova3d_core.texturing.visibility import observed_vertices
from nova3d_core.training.procedural.catalog import procedural_object
from nova3d_core.views import Views

ROOT = Path(__file__).resolve().parents[1]
KNIGHT = ROOT / "nova3d_core" / "assets" / "character_knight.glb"
PROCEDURAL = {"robot": 3, "vase": 2}
"""Kind and seed of the procedural objects."""
PROCEDURAL_CELLS = 128
TARGET_OBJECTS = (
    "shoe_boat", "toy_school_bus", "animal_bull", "toy_bunny_racer", "mug_white_yellow",
    "toy_two_headed_dragon", "dino_crested", "lunch_box", "character_knight",
)  # fmt: skip
SAMPLES = 30_000
"""Points on the fused mesh whose colours are compared."""
MAX_ERROR_RATIO, MIN_CORRELATION, MAX_FORCED_ERROR = 0.4, 0.9, 0.03


@dataclass(frozen=True)
class LightBenchmark:
    """Settings of the benchmark."""

    meshes: Path | None = None
    """Folder with the meshes of the fusion benchmark, for the orbit part."""
    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = ROOT / "benchmark_output" / "light"
    """Output folder."""
    parts: tuple[Literal["light", "orbit"], ...] = ("light", "orbit")
    """What to measure."""
    objects: tuple[str, ...] = ()
    """Names of the objects to measure; empty: all. Rows of the others are kept."""
    lights: tuple[Literal["soft", "key", "unlit"], ...] = ("soft", "key", "unlit")
    """Lights to measure; rows of the others are kept."""
    image_px: int = 256
    """Width and height of the views."""
    texture_px: int = 1024
    """Texture size of the light part."""


def main(settings: LightBenchmark) -> None:
    parts = {"light": measure_light, "orbit": measure_orbits}
    for name in settings.parts:
        parts[name](settings)


def orbit(preset: str, size_px: int) -> Cameras:
    return cameras_from_orbit(preset_orbit(preset, size_px, size_px))


def rounded(views: Views) -> Views:
    """The views as 8-bit images, without normals."""
    colour, masks = ((each * 255.0).round() / 255.0 for each in (views.colour, views.masks))
    return replace(views, colour=colour, masks=masks, normals=None, normal_frame=None)


def measure_orbits(settings: LightBenchmark) -> None:
    """Rows: object, whole surface and visible CD-L1 of the level and the sine orbit."""
    files = {each.name: each for each in mesh_files(settings.meshes, "+Y")}
    fuse = FuseConfig(sdf=SdfFusionConfig(preset="draft"))
    names = [name for name in TARGET_OBJECTS if name in settings.objects or not settings.objects]
    for name in tqdm(names, file=sys.stderr):
        reference = files[name].read()
        row: list = [name]
        for preset in ("sv3d", "sv3d_sine"):
            views = rounded(render_views(reference, orbit(preset, settings.image_px)).views)
            mesh = fuse_views(views, fuse).mesh
            report = evaluate_mesh(mesh, reference, EvaluateConfig(with_images=False))
            row += [report.metrics["surface"][key] for key in ("cd_l1", "iou")]
        save(settings, "orbit", [row[0], row[1], row[3], row[3] - row[1], row[2], row[4]])


def light_objects(chosen: Sequence[str]) -> dict[str, Mesh]:
    """The chosen objects with known albedo; all of them if none is named."""
    meshes = {"knight": read_mesh(KNIGHT, "+Y").normalised()}
    for kind, seed in PROCEDURAL.items():
        meshes[kind] = procedural_object(seed, kind, PROCEDURAL_CELLS)
    return {name: mesh for name, mesh in meshes.items() if not chosen or name in chosen}


def measure_light(settings: LightBenchmark) -> None:
    """Rows of each object under each light, and of unlit views."""
    for name, reference in light_objects(settings.objects).items():
        cameras = orbit("sv3d_sine", settings.image_px)
        for light in settings.lights:
            if light == "unlit":
                views = render_views(reference, cameras).views
            else:
                views = lit_views(reference, cameras, LIGHTS[light])
            row = measure_views(settings, name, light, reference, rounded(views))
            save(settings, "light", [name, light, *row])


def measure_views(
    settings: LightBenchmark, name: str, light: str, reference: Mesh, views: Views
) -> list:
    """One row: errors baked in, with the paper's fit, unlit and with the gate open, and more."""
    fuse = FuseConfig(sdf=SdfFusionConfig(preset="fast"))
    fuse = replace(fuse, bake=replace(fuse.bake, texture_px=settings.texture_px))
    surface, refined = fuse_to_surface(views, fuse)
    shape = extract_mesh(surface, fuse.meshing)
    mesh = unwrap(shape, fuse.unwrap, texture_px=settings.texture_px).mesh.with_smooth_normals()
    comparison = AlbedoComparison(mesh, reference, refined.cameras)

    def bake(given: Views) -> Mesh:
        return bake_views(mesh, given, fuse, surface, keep_colour=False, check_fit=False).mesh

    start = time.process_time()
    found = unlight(refined, mesh)
    seconds = time.process_time() - start
    baked, unlit = bake(refined), bake(found.views)
    forced = found
    if not found.report.is_applied:
        forced = unlight(refined, mesh, UnlightConfig(gate=0.0))
    write_images(settings.output, f"{name}_{light}", refined, forced)
    before, after = comparison.error(baked), comparison.error(unlit)
    correlation = None
    if light != "unlit":
        truth = LIGHTS[light].shading(comparison.true_normals)
        correlation = log_correlation(comparison.shading(found), truth)
    return [
        before,
        comparison.error(bake(forced.views)),
        after / before,
        correlation,
        found.report.spread,
        found.report.evidence,
        found.report.is_applied,
        torch.equal(baked.texture, unlit.texture),
        seconds,
    ]


class AlbedoComparison:
    """Points of a fused mesh that cameras see, with the albedo of the nearest true surface."""

    def __init__(self, mesh: Mesh, reference: Mesh, cameras: Cameras):
        points = sample_points(mesh, SAMPLES, seed=1)
        is_seen = observed_vertices(mesh, cameras, 0.2)[mesh.faces[points.face]].all(dim=1)
        self.points = points.select(torch.nonzero(is_seen)[:, 0])
        nearest = nearest_surface(reference, self.points.position)
        self.albedo, self.true_normals = nearest.colour, nearest.normal

    def error(self, mesh: Mesh) -> float:
        """Mean absolute sRGB difference from the albedo after the best common scale."""
        return albedo_error(
            surface_colour(mesh, self.points.face, self.points.barycentric), self.albedo
        )

    def shading(self, unlit: Unlit) -> torch.Tensor:
        """(N,) estimated shading of the points."""
        return unlit.light.shading_in_chunks(self.points.normal)


def write_images(folder: Path, name: str, views: Views, unlit: Unlit) -> None:
    """Some views before and after, their shading, and the light."""
    chosen = [0, 7, 14]
    rows = (views.colour, unlit.views.colour, shading_images(unlit))
    grid = torch.cat([torch.cat([row[view] for view in chosen], dim=1) for row in rows])
    folder.mkdir(parents=True, exist_ok=True)
    write_image(folder / f"{name}.png", grid)
    write_image(folder / f"{name}_light.png", light_image(unlit.light)[0])


def save(settings: LightBenchmark, part: str, row: list) -> None:
    """Adds or replaces a row in rows.json, and writes the page of all rows."""
    path = settings.output / "rows.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    keys = 2 if part == "light" else 1
    others = [each for each in found.get(part, []) if each[:keys] != row[:keys]]
    order = ["knight", *PROCEDURAL, *TARGET_OBJECTS, *LIGHTS, "unlit"]
    found[part] = sorted([*others, row], key=lambda each: [order.index(k) for k in each[:keys]])
    settings.output.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found), encoding="utf-8")
    save_page(settings.output, "light", result_page(found, settings))


def result_page(rows: dict[str, list[list]], settings: LightBenchmark) -> ResultPage:
    tables = []
    if "light" in rows:
        tables += light_tables(rows["light"])
    if "orbit" in rows:
        tables.append(orbit_table(rows["orbit"]))
    return ResultPage(
        title="Light in the views, and the orbit",
        summary=(
            f"21 views of {settings.image_px} px without normals, as 8-bit images, from the orbits "
            "`sv3d_sine` and `sv3d`. The views are renders of the true objects: none of this is "
            "measured on views of SV3D's public weights."
        ),
        tables=tables,
        command=(
            f"python dev.py bench light --meshes DIR --image-px {settings.image_px} "
            f"--texture-px {settings.texture_px}"
        ),
        machine=machine(),
        date=time.strftime("%Y-%m-%d"),
        details=rows,
    )


COLUMNS = {
    "object": ("object", ""), "light": ("light", ""), "baked": ("baked in", ".4f"),
    "forced": ("gate open", ".4f"), "ratio": ("ratio", ".2f"),
    "correlation": ("correlation of log L", ".3f"), "spread": ("spread", ".2f"),
    "evidence": ("evidence", ".2f"), "applied": ("applied", ""),
    "unchanged": ("texture unchanged", ""), "seconds": ("CPU s", ".1f"),
}  # fmt: skip
"""Keys of the columns of the light part, their headings and formats."""


def light_tables(rows: Sequence[Sequence]) -> list[Table]:
    """Every object and light, and the requirements."""
    table = Table(
        list(COLUMNS.values()),
        rows,
        title="Albedo of baked textures",
        text=(
            "Fused with the preset `fast`; the texture is baked with and without removing the "
            "light. Errors: mean absolute sRGB difference from the albedo of the nearest true "
            "point, after the best common scale, over the surface that the views see. Ratio: with "
            "the gate at its default over baked in. Lights without cast shadows; the knight's own "
            "texture has baked-in shading."
        ),
    )
    requirements = Table(
        (("requirement", ""), ("value", ".3f"), ("target", ""), ("met", "")),
        light_requirements([dict(zip(COLUMNS, row, strict=True)) for row in rows]),
        title="Requirements",
    )
    return [table, requirements]


def light_requirements(rows: Sequence[dict]) -> list[list]:
    """Rows 3 to 5 of the requirements, as far as they were measured."""
    checks: list[list] = []

    def check(name: str, value: float, target: str, is_met: bool) -> None:
        checks.append([name, value, target, is_met])

    lit = [row for row in rows if row["light"] != "unlit"]
    unlit = [row for row in rows if row["light"] == "unlit"]
    for light in LIGHTS:
        some = [row for row in lit if row["light"] == light]
        if some:
            after = sum(row["ratio"] * row["baked"] for row in some)
            ratio = after / sum(row["baked"] for row in some)
            name = f"{light}: mean error over the objects, relative to baked in"
            check(name, ratio, f"<= {MAX_ERROR_RATIO:g}", ratio <= MAX_ERROR_RATIO)
    for row in lit:
        name = f"{row['object']}, {row['light']}: error relative to baked in"
        check(name, row["ratio"], f"<= {MAX_ERROR_RATIO:g}", row["ratio"] <= MAX_ERROR_RATIO)
    if lit:
        worst = min(row["correlation"] for row in lit)
        is_met = worst >= MIN_CORRELATION
        check("smallest correlation of log L", worst, f">= {MIN_CORRELATION:g}", is_met)
    if unlit:
        unchanged = sum(row["unchanged"] for row in unlit)
        name = "unlit views: textures unchanged bit for bit"
        check(name, unchanged, str(len(unlit)), unchanged == len(unlit))
        worst = max(row["forced"] for row in unlit)
        is_met = worst <= MAX_FORCED_ERROR
        check("unlit views, gate open: largest error", worst, f"<= {MAX_FORCED_ERROR:g}", is_met)
    return checks


def orbit_table(rows: Sequence[Sequence]) -> Table:
    """CD-L1 and IoU of the level and the sine orbit."""
    count = len(rows)
    mean = ["mean", *(sum(row[index] for row in rows) / count for index in range(1, 6))]
    return Table(
        (
            ("object", ""), ("CD-L1 level", ".4f"), ("CD-L1 sine 30", ".4f"),
            ("difference", "+.4f"), ("IoU level", ".3f"), ("IoU sine 30", ".3f"),
        ),
        [*rows, mean],
        title="Level and sine orbit",
        text="Fused with the preset `draft`; Chamfer distance of the whole surface.",
    )  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(LightBenchmark, description=__doc__))
