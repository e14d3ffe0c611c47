"""Measures Gaussian splats: against the fused mesh, on views that bend, and as views for a fusion.

    python dev.py bench splats --meshes DIR

objects: splats and mesh of the same 18 views, compared with the truth from poses in between.
bent: views that are bent smoothly, fitted with and without the alignment that is to explain that.
fusion: meshes fused from renders of the fitted splats, and from the 18 views directly.
Writes splats.json and splats.md into the output folder after each run. Runs that the folder already
contains are not repeated, so that an interrupted benchmark continues where it stopped.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal, get_args

import numpy as np
import torch
import tyro
from fusion import TARGET_OBJECTS
from known_meshes import check_names, mesh_files
from measure import machine
from results import ResultPage, save_page
from splat_tables import (
    BEND_GAIN,
    BEND_NODES,
    BEND_PX,
    FUSION_AZIMUTHS,
    FUSION_ELEVATIONS_DEG,
    FUSION_METHODS,
    INPUT_VIEWS,
    WITH_NORMALS,
    Row,
    bent_tables,
    fusion_tables,
    objects_tables,
)
from tqdm import tqdm

from nova3d_core.cameras.cameras import Cameras, cameras_at, orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import InputError, Nova3DError
from nova3d_core.evaluation.config import EvaluateConfig
from nova3d_core.evaluation.distortions import displaced, smooth_field
from nova3d_core.evaluation.metrics.image import mask_iou, psnr, ssim
from nova3d_core.evaluation.protocol import evaluate_mesh
from nova3d_core.imaging.join import join_views
from nova3d_core.io.files.atomic import atomic_file
from nova3d_core.io.mesh.read import read_mesh
from nova3d_core.io.mesh.write import write_glb
from nova3d_core.io.splats.files import read_splats, write_splats
from nova3d_core.io.views.transforms_json import read_views, write_views
from nova3d_core.mesh import Mesh
from nova3d_core.pipeline.config import FuseConfig
from nova3d_core.pipeline.fuse import fuse_views
from nova3d_core.rendering.views import render_views
from nova3d_core.splats import Splats
from nova3d_core.splatting.config import SplatFitConfig
from nova3d_core.splatting.fit import fit_splats
from nova3d_core.splatting.render import splat_views
from nova3d_core.views import Views

ROOT = Path(__file__).resolve().parents[1]
Part = Literal["objects", "bent", "fusion"]
PARTS: tuple[Part, ...] = get_args(Part)

HELD_OUT_ELEVATIONS_DEG = (0.0, 20.0)
"""Held-out views have azimuths midway between the input views."""


@dataclass(frozen=True)
class SplatBenchmark:
    """Settings of the benchmark."""

    meshes: Path
    """Folder of mesh files. With a manifest.json, its "objects" give name, file and up_axis."""
    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = ROOT / "benchmark_output" / "splats"
    """Output folder; its runs are kept."""
    parts: tuple[Part, ...] = PARTS
    """Measurements to make."""
    objects: tuple[str, ...] = TARGET_OBJECTS
    """Objects of the comparison with the mesh."""
    bent_objects: tuple[str, ...] = ("animal_bull", "dino_crested", "character_knight")
    """Objects of the bent views."""
    fusion_objects: tuple[str, ...] = (
        "animal_bull", "toy_bunny_racer", "dino_crested", "lunch_box", "character_knight",
    )  # fmt: skip
    """Objects of the fusion; their row with normals is that of `objects`."""
    size_px: int = 256
    """Width and height of the views."""
    bent_size_px: int = 128
    """Width and height of the bent views."""
    seeds: int = 3
    """Number of seeds of the bent views."""
    fit: SplatFitConfig = field(default_factory=SplatFitConfig)
    """Settings of the fit."""
    bent_fit: SplatFitConfig = field(default_factory=lambda: SplatFitConfig(count=6_000, steps=400))
    """Settings of the fit of bent views."""


class Runs:
    """Results of finished runs, by part and name, in a file that is written after each run."""

    def __init__(self, folder: Path, settings: SplatBenchmark):
        self._path = folder / "runs.json"
        self._settings = {
            key: value
            for key, value in asdict(settings).items()
            if key in ("size_px", "bent_size_px", "fit", "bent_fit")
        }
        self.rows: dict[str, Row] = {}
        if not self._path.is_file():
            return
        document = json.loads(self._path.read_text(encoding="utf-8"))
        if document["settings"] != self._settings:
            raise InputError(
                f"{folder} contains runs with other settings.", "Choose another --output."
            )
        self.rows = document["rows"]

    def add(self, key: str, row: Row) -> None:
        """Stores the result of a run."""
        self.rows[key] = row
        document = {"settings": self._settings, "rows": self.rows}
        with atomic_file(self._path, overwrite=True) as part:
            part.write_text(json.dumps(document, indent=1), encoding="utf-8")

    def of(self, part: Part) -> list[Row]:
        """The results of a part."""
        return [row for key, row in self.rows.items() if key.startswith(f"{part}/")]


def main(settings: SplatBenchmark) -> None:
    logging.basicConfig(level=logging.WARNING, format="note: %(message)s")
    files = {each.name: each for each in mesh_files(settings.meshes, "+Y")}
    used = (*settings.objects, *settings.bent_objects, *settings.fusion_objects)
    check_names(used, list(files))
    settings.output.mkdir(parents=True, exist_ok=True)
    runs = Runs(settings.output, settings)

    def reference_of(name: str) -> Mesh:
        return files[name].read()

    tasks = [task for task in planned_tasks(settings, reference_of) if task[0] not in runs.rows]
    failures: list[str] = []
    for key, task in tqdm(tasks, file=sys.stderr):
        try:
            runs.add(key, task())
        except Nova3DError as error:  # the remaining runs are still useful
            failures.append(f"error: {key}: {error}")
            tqdm.write(failures[-1], file=sys.stderr)
        if runs.rows:
            save_page(settings.output, "splats", result_page(runs, settings))
    if runs.rows:
        page = save_page(settings.output, "splats", result_page(runs, settings))
        print(page.read_text(encoding="utf-8"))
    if failures:
        raise SystemExit("\n".join(failures))


def planned_tasks(
    settings: SplatBenchmark, reference_of: Callable[[str], Mesh]
) -> Iterator[tuple[str, Callable[[], Row]]]:
    """All runs: their key, and a function that makes the row."""
    if "objects" in settings.parts:
        for name in settings.objects:
            for method in (splat_row, mesh_row):
                key = f"objects/{name}/{method.__name__}"
                yield key, lambda name=name, method=method: method(name, reference_of, settings)
    if "bent" in settings.parts:
        for name in settings.bent_objects:
            for seed in range(settings.seeds):
                for bent in (True, False):
                    key = f"bent/{name}/{seed}/{'bent' if bent else 'exact'}"
                    yield (
                        key,
                        lambda name=name, seed=seed, bent=bent: bent_row(
                            name, reference_of(name), seed, bent, settings
                        ),
                    )
    if "fusion" in settings.parts:
        for name in settings.fusion_objects:
            for method in FUSION_METHODS:
                key = f"fusion/{name}/{method}"
                yield (
                    key,
                    lambda name=name, method=method: fusion_row(
                        name, reference_of(name), method, settings
                    ),
                )


def rig(size_px: int, **options: float) -> RigConfig:
    """The rig of the input views."""
    return RigConfig(count=INPUT_VIEWS, width_px=size_px, height_px=size_px, **options)


def input_views(reference: Mesh, size_px: int) -> Views:
    """The input views as users have them: written to a folder and read back, in 8 bits."""
    views = render_views(reference, orbit_cameras(rig(size_px))).views
    with tempfile.TemporaryDirectory() as folder:
        return read_views(write_views(views, Path(folder, "views")))


def held_out_cameras(size_px: int, elevation_deg: float) -> Cameras:
    """Cameras midway in azimuth between the input views."""
    options = {"azimuth_start_deg": 180.0 / INPUT_VIEWS, "elevation_deg": elevation_deg}
    return orbit_cameras(rig(size_px, **options))


def held_out_metrics(
    render: Callable[[Cameras], Views], reference: Mesh, size_px: int
) -> dict[str, float]:
    """Mean PSNR, SSIM and mask IoU at each elevation and over both: "psnr_0", "psnr_mean"."""
    metrics: dict[str, float] = {}
    for elevation in HELD_OUT_ELEVATIONS_DEG:
        cameras = held_out_cameras(size_px, elevation)
        result, truth = render(cameras), render_views(reference, cameras).views
        pairs = range(len(cameras))
        values = {
            "psnr": [psnr(result.colour[i], truth.colour[i]) for i in pairs],
            "ssim": [ssim(result.colour[i], truth.colour[i]) for i in pairs],
            "mask_iou": [mask_iou(result.masks[i], truth.masks[i]) for i in pairs],
        }
        for name, each in values.items():
            metrics[f"{name}_{elevation:.0f}"] = sum(each) / len(each)
    for name in ("psnr", "ssim", "mask_iou"):
        of_elevations = [metrics[f"{name}_{each:.0f}"] for each in HELD_OUT_ELEVATIONS_DEG]
        metrics[f"{name}_mean"] = sum(of_elevations) / len(of_elevations)
    return metrics


@contextmanager
def timed(row: Row) -> Iterator[None]:
    """Adds the wall time and the CPU time of the `with` block, worker processes included."""
    start, cpu_start = time.perf_counter(), sum(os.times()[:4])
    yield
    row["seconds"] = time.perf_counter() - start
    row["cpu_seconds"] = sum(os.times()[:4]) - cpu_start


def splat_row(name: str, reference_of: Callable[[str], Mesh], settings: SplatBenchmark) -> Row:
    """Fits splats to the input views, with their normals; the .ply file stays in the output
    folder."""
    reference = reference_of(name)
    views = input_views(reference, settings.size_px)
    few = SplatFitConfig(count=200, steps=2, init="hull")
    fit_splats(views, few)  # compiles the kernels
    row: Row = {"object": name, "method": "splats"}
    path = settings.output / f"{name}.ply"
    path.unlink(missing_ok=True)
    with timed(row):
        fit = fit_splats(views, settings.fit)
        write_splats(fit.splats, path)
    splats = read_splats(path)
    metrics = held_out_metrics(
        lambda cameras: splat_views(splats, cameras), reference, settings.size_px
    )
    return {**row, **metrics, "count": len(splats), "report": fit.report.to_dict()}


def splats_of_colours(name: str, views: Views, settings: SplatBenchmark) -> Splats:
    """Splats of views without normals, from a file in the output folder or fitted now."""
    path = settings.output / f"{name}_colours.ply"
    if not path.is_file():
        write_splats(fit_splats(views, settings.fit).splats, path)
    return read_splats(path)


def mesh_row(name: str, reference_of: Callable[[str], Mesh], settings: SplatBenchmark) -> Row:
    """Fuses the input views, with their normals, into a textured mesh."""
    reference = reference_of(name)
    views = input_views(reference, settings.size_px)
    row: Row = {"object": name, "method": "mesh"}
    with tempfile.TemporaryDirectory() as folder:
        with timed(row):
            path = write_glb(fuse_views(views, FuseConfig()).mesh, Path(folder, "mesh.glb"))
        mesh = read_mesh(path)
    metrics = held_out_metrics(
        lambda cameras: render_views(mesh, cameras).views, reference, settings.size_px
    )
    geometry = geometry_metrics(mesh, reference) if name in settings.fusion_objects else {}
    return {**row, **metrics, "count": len(mesh.faces), **geometry}


def bent_row(name: str, reference: Mesh, seed: int, is_bent: bool, settings: SplatBenchmark) -> Row:
    """Fits views with and without alignment."""
    size_px = settings.bent_size_px
    exact = input_views(reference, size_px).without_normals()
    views = bent_views(exact, seed) if is_bent else exact
    row: Row = {"object": name, "seed": seed, "views": "bent" if is_bent else "exact"}
    row["input_psnr"] = None
    if is_bent:
        pairs = zip(views.colour[1:], exact.colour[1:], strict=True)
        row["input_psnr"] = sum(psnr(*pair) for pair in pairs) / (len(views) - 1)
    for label, perceptual in (("plain", "none"), ("aligned", "aligned")):
        config = replace(
            settings.bent_fit,
            perceptual=perceptual,
            match_exposure=perceptual == "aligned",
            seed=seed,
        )
        fit = fit_splats(views, config)
        metrics = held_out_metrics(
            lambda cameras, fit=fit: splat_views(fit.splats, cameras), reference, size_px
        )
        row.update({f"{label}_{key}": value for key, value in metrics.items()})
        row[f"{label}_warp_px"] = fit.report.warp_px
    return row


def bent_views(views: Views, seed: int) -> Views:
    """Views whose images are bent smoothly and tinted as by a generator, except view 0."""
    random = np.random.default_rng(seed)
    height, width = views.colour.shape[1:3]
    colour, masks = views.colour.clone(), views.masks.clone()
    for view in range(1, len(views)):
        nodes_px = random.uniform(-BEND_PX, BEND_PX, (2, BEND_NODES, BEND_NODES))
        gain = torch.from_numpy(random.uniform(1.0 - BEND_GAIN, 1.0 + BEND_GAIN, 3)).float()
        shift_px = smooth_field(nodes_px, height, width)  # (H, W, 2)
        mask = displaced(views.masks[view, ..., None], shift_px).clamp(0.0, 1.0)
        white = 1.0 - mask
        colour[view] = (displaced(views.colour[view], shift_px) - white) * gain + white
        masks[view] = mask[..., 0]
    return replace(views, colour=colour.clamp(0.0, 1.0), masks=masks)


def fusion_views(name: str, reference: Mesh, method: str, settings: SplatBenchmark) -> Views:
    """The views that a method of `FUSION_METHODS` fuses."""
    plain = input_views(reference, settings.size_px).without_normals()
    if method == "views":
        return plain
    splats = splats_of_colours(name, plain, settings)
    step = 360.0 / FUSION_AZIMUTHS
    azimuths = [step * (i + 0.25) for i in range(FUSION_AZIMUTHS)]  # no pose of another set
    poses = [(azimuth, elevation) for elevation in FUSION_ELEVATIONS_DEG for azimuth in azimuths]
    cameras = cameras_at(*map(list, zip(*poses, strict=True)), rig(settings.size_px))
    rendered = splat_views(splats, cameras)
    return rendered if method == "splats" else join_views([plain, rendered])


def fusion_row(name: str, reference: Mesh, method: str, settings: SplatBenchmark) -> Row:
    """Fuses the views of a method and evaluates the mesh."""
    views = fusion_views(name, reference, method, settings)
    row: Row = {"object": name, "method": method, "views": len(views)}
    with timed(row):
        mesh = fuse_views(views, FuseConfig()).mesh
    return {**row, **geometry_metrics(mesh, reference)}


def geometry_metrics(mesh: Mesh, reference: Mesh) -> dict[str, float]:
    """Metrics of the strict protocol."""
    report = evaluate_mesh(mesh, reference, EvaluateConfig()).metrics
    return {
        "visible_cd": report["visible"]["cd_l1"],
        "visible_f": report["visible"]["f_at_0.005"],
        "cd": report["surface"]["cd_l1"],
        "normal_error_deg": report["images_all"]["normal_error_deg"],
        "images_psnr_0": report["images_el0"]["psnr"],
        "images_psnr_25": report["images_el25"]["psnr"],
    }


def result_page(runs: Runs, settings: SplatBenchmark) -> ResultPage:
    """Tables of all runs so far."""
    meshes = [
        {**row, "method": WITH_NORMALS, "views": INPUT_VIEWS}
        for row in runs.of("objects")
        if "visible_cd" in row
    ]
    rows = {part: runs.of(part) for part in PARTS}
    rows["fusion"] = [*meshes, *rows["fusion"]] if rows["fusion"] else []
    makers = {"objects": objects_tables, "bent": bent_tables, "fusion": fusion_tables}
    tables = [table for part in PARTS if rows[part] for table in makers[part](rows[part])]
    fit = settings.fit.complete()
    return ResultPage(
        title="Gaussian splats",
        summary=(
            f"{INPUT_VIEWS} level views of each object with exact poses, {settings.size_px} x "
            f"{settings.size_px} px, 8 bits, on white. Splats: preset `{fit.preset}`, {fit.count} "
            f"splats, {fit.steps} steps. Held-out views have azimuths midway between the input "
            "views."
        ),
        tables=tables,
        command="python dev.py bench splats --meshes DIR",
        machine=machine(),
        date=time.strftime("%Y-%m-%d"),
        details={"runs": runs.rows},
    )


if __name__ == "__main__":
    try:
        main(tyro.cli(SplatBenchmark, description=__doc__))
    except Nova3DError as error:
        raise SystemExit(f"error: {error}") from error
