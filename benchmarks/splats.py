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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import torch
import tyro
from fusion import TARGET_OBJECTS, check_names, mesh_files
from measure import machine
from results import ResultPage, Table, save_page
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
from nova3d_core.splatting.config import SplatFitConfig
from nova3d_core.splatting.fit import fit_splats
from nova3d_core.splatting.render import splat_views
from nova3d_core.views import Views

ROOT = Path(__file__).resolve().parents[1]
Part = Literal["objects", "bent", "fusion"]
PARTS: tuple[Part, ...] = get_args(Part)

INPUT_VIEWS = 18
"""Level views, as V3D generates them."""
HELD_OUT_ELEVATIONS_DEG = (0.0, 20.0)
"""Held-out views have azimuths midway between the input views."""
MIN_GAIN_DB = 0.5
"""Target: mean PSNR of the splats above that of the mesh."""
MIN_BENT_GAIN_DB, MAX_CLEAN_LOSS_DB = 1.2, 0.3
"""Targets: mean PSNR of the alignment relative to fits without it, on bent and on exact views."""
BEND_NODES, BEND_PX, BEND_GAIN = 4, 3.0, 0.05
"""Bent views: displacements at nodes x nodes points, uniform within +-px, bicubic in between;
factors of the colour channels within 1 +- gain. View 0 stays exact."""
FUSION_ELEVATIONS_DEG = (-30.0, 0.0, 30.0, 60.0)
FUSION_AZIMUTHS = 16
"""Renders of the splats that are fused: this many azimuths at each elevation."""

Row = dict[str, Any]


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
    """Objects of the fusion; they must be among `objects`."""
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
        return read_mesh(files[name].path, files[name].up_axis).normalised()

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
    """Fits splats to the input views; the .ply file stays in the output folder."""
    reference = reference_of(name)
    views = input_views(reference, settings.size_px).without_normals()
    fit_splats(views, SplatFitConfig(count=200, steps=2))  # compiles the kernels
    row: Row = {"object": name, "method": "splats"}
    path = splat_path(name, settings)
    path.unlink(missing_ok=True)
    with timed(row):
        fit = fit_splats(views, settings.fit)
        write_splats(fit.splats, path)
    splats = read_splats(path)
    metrics = held_out_metrics(
        lambda cameras: splat_views(splats, cameras), reference, settings.size_px
    )
    return {**row, **metrics, "count": len(splats), "report": fit.report.to_dict()}


def splat_path(name: str, settings: SplatBenchmark) -> Path:
    return settings.output / f"{name}.ply"


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
    return {**row, **metrics, "count": len(mesh.faces)}


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
    views = input_views(reference, settings.size_px)
    if method == "views with normals":
        return views
    plain = views.without_normals()
    if method == "views":
        return plain
    splats = read_splats(splat_path(name, settings))
    azimuths = [360.0 / FUSION_AZIMUTHS * i for i in range(FUSION_AZIMUTHS)]
    poses = [(azimuth, elevation) for elevation in FUSION_ELEVATIONS_DEG for azimuth in azimuths]
    cameras = cameras_at(*map(list, zip(*poses, strict=True)), rig(settings.size_px))
    rendered = splat_views(splats, cameras)
    return rendered if method == "splats" else join_views([plain, rendered])


FUSION_METHODS = ("views with normals", "views", "splats", "views and splats")
"""What is fused: the input views, 64 renders of the splats, or both."""


def fusion_row(name: str, reference: Mesh, method: str, settings: SplatBenchmark) -> Row:
    """Fuses the views of a method and evaluates the mesh."""
    views = fusion_views(name, reference, method, settings)
    row: Row = {"object": name, "method": method, "views": len(views)}
    with timed(row):
        mesh = fuse_views(views, FuseConfig()).mesh
    report = evaluate_mesh(mesh, reference, EvaluateConfig()).metrics
    return {
        **row,
        "visible_cd": report["visible"]["cd_l1"],
        "visible_f": report["visible"]["f_at_0.005"],
        "cd": report["surface"]["cd_l1"],
        "normal_error_deg": report["images_all"]["normal_error_deg"],
        "psnr_0": report["images_el0"]["psnr"],
        "psnr_25": report["images_el25"]["psnr"],
    }


def result_page(runs: Runs, settings: SplatBenchmark) -> ResultPage:
    """Tables of all runs so far."""
    makers = {"objects": objects_tables, "bent": bent_tables, "fusion": fusion_tables}
    tables = [table for part in PARTS if runs.of(part) for table in makers[part](runs.of(part))]
    fit = settings.fit.complete()
    return ResultPage(
        title="Gaussian splats",
        summary=(
            f"{INPUT_VIEWS} level views of each object with exact poses, {settings.size_px} x "
            f"{settings.size_px} px, 8 bits, on white. Splats: preset `{fit.preset}`, {fit.count} "
            f"splats, {fit.steps} steps, from colours and masks. Held-out views have azimuths "
            "midway between the input views."
        ),
        tables=tables,
        command="python dev.py bench splats --meshes DIR",
        machine=machine(),
        date=time.strftime("%Y-%m-%d"),
        details={"runs": runs.rows},
    )


def objects_tables(rows: Sequence[Row]) -> list[Table]:
    """Splats and mesh of each object, and their means."""
    by_object: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_object.setdefault(row["object"], {})[row["method"]] = row
    both = {name: pair for name, pair in by_object.items() if len(pair) == 2}
    names = ("psnr_0", "psnr_20", "psnr_mean", "ssim_mean", "mask_iou_mean", "seconds")
    names += ("cpu_seconds",)
    headings = ("PSNR el 0", "PSNR el 20", "PSNR mean", "SSIM", "mask IoU", "seconds", "CPU s")
    specs = (".2f", ".2f", ".2f", ".4f", ".3f", ".0f", ".0f")
    columns = [("object", "")]
    columns += [
        (f"{heading}, splats / mesh", spec) for heading, spec in zip(headings, specs, strict=True)
    ]
    columns += [("splats", "d"), ("gain dB", ".2f")]
    lines: list[list] = []
    for name, pair in both.items():
        splats, mesh = pair["splats"], pair["mesh"]
        cells: list = [[splats[key], mesh[key]] for key in names]
        gain = splats["psnr_mean"] - mesh["psnr_mean"]
        lines.append([name, *cells, splats["count"], gain])
    notes = []
    if len(lines) > 1:
        means: list = [
            [mean(row[method][key] for row in both.values()) for method in ("splats", "mesh")]
            for key in names
        ]
        gain = mean(line[-1] for line in lines)
        count = round(mean(line[-2] for line in lines))
        lines.append(["mean", *means, count, gain])
        notes.append(
            f"Target: at least {MIN_GAIN_DB} dB above the mesh in the mean. Measured: {gain:+.2f} "
            f"dB, {'met' if gain >= MIN_GAIN_DB else 'missed'}."
        )
    text = (
        "The same views for both: splats from colours and masks, the mesh of the preset `fast` "
        "from colours, masks and normals. Seconds from the views to the file, warm caches."
    )
    return [Table(columns, lines, "Splats and mesh on held-out views", text, notes)]


def bent_tables(rows: Sequence[Row]) -> list[Table]:
    """Alignment against plain fits, on bent and on exact views."""
    columns = [
        ("object", ""), ("views", ""), ("seed", "d"), ("PSNR of the views", ".1f"),
        ("plain: PSNR el 0 / el 20", ".2f"), ("aligned: PSNR el 0 / el 20", ".2f"),
        ("plain / aligned: SSIM", ".3f"), ("plain / aligned: mask IoU", ".3f"),
        ("warp px", ".2f"), ("gain dB", ".2f"),
    ]  # fmt: skip
    lines, gains = [], {"bent": [], "exact": []}
    for row in sorted(rows, key=lambda row: row["views"]):
        gain = row["aligned_psnr_mean"] - row["plain_psnr_mean"]
        gains[row["views"]].append(gain)
        lines.append([
            row["object"], row["views"], row["seed"], row["input_psnr"],
            [row["plain_psnr_0"], row["plain_psnr_20"]],
            [row["aligned_psnr_0"], row["aligned_psnr_20"]],
            [row["plain_ssim_mean"], row["aligned_ssim_mean"]],
            [row["plain_mask_iou_mean"], row["aligned_mask_iou_mean"]],
            row["aligned_warp_px"], gain,
        ])  # fmt: skip
    notes = []
    for kind, least in (("bent", MIN_BENT_GAIN_DB), ("exact", -MAX_CLEAN_LOSS_DB)):
        if gains[kind]:
            gain = mean(gains[kind])
            notes.append(
                f"{kind.capitalize()} views: {gain:+.2f} dB in the mean; target at least "
                f"{least:+.1f} dB, {'met' if gain >= least else 'missed'}."
            )
    text = (
        f"Every view but the first is displaced by up to {BEND_PX:g} px at {BEND_NODES} x "
        f"{BEND_NODES} nodes, bicubic in between, and its colour channels are scaled by 1 ± "
        f"{BEND_GAIN:g}. Plain: 0.8 L1 + 0.2 SSIM; aligned: also a smooth warp of each view where "
        "views contradict each other. PSNR of the views is against exact ones."
    )
    return [Table(columns, lines, "Views that bend", text, notes)]


def fusion_tables(rows: Sequence[Row]) -> list[Table]:
    """Meshes of the input views and of renders of the splats."""
    keys = ("visible_cd", "visible_f", "cd", "normal_error_deg", "psnr_0", "psnr_25")
    columns = [
        ("object", ""), ("fused", ""), ("views", "d"), ("visible CD-L1", ".4f"),
        ("visible F@.005", ".3f"), ("CD-L1", ".4f"), ("normal error °", ".2f"),
        ("PSNR el 0", ".2f"), ("PSNR el ±25", ".2f"), ("CPU s", ".0f"),
    ]  # fmt: skip
    lines = [
        [row["object"], row["method"], row["views"], *(row[k] for k in keys), row["cpu_seconds"]]
        for row in rows
    ]
    for method in FUSION_METHODS:
        own = [row for row in rows if row["method"] == method]
        if len(own) > 1:
            values = [mean(row[key] for row in own) for key in (*keys, "cpu_seconds")]
            lines.append([f"mean of {len(own)}", method, own[0]["views"], *values])
    count = FUSION_AZIMUTHS * len(FUSION_ELEVATIONS_DEG)
    elevations = ", ".join(f"{each:g}" for each in FUSION_ELEVATIONS_DEG)
    text = (
        f"Meshes of the preset `fast` from the {INPUT_VIEWS} views and from {count} renders of the "
        f"fitted splats at elevations of {elevations} degrees. Only the first row of an object "
        "uses normals."
    )
    return [Table(columns, lines, "From splats to meshes", text)]


def mean(values) -> float:
    """Arithmetic mean of an iterable."""
    listed = list(values)
    return sum(listed) / len(listed)


if __name__ == "__main__":
    try:
        main(tyro.cli(SplatBenchmark, description=__doc__))
    except Nova3DError as error:
        raise SystemExit(f"error: {error}") from error
