"""Fuses meshes' views under each perturbation and evaluates the results.

    python dev.py bench fusion --meshes DIR --perturbations clean noisy conflict noisy+conflict

Each mesh is rendered, written to a views folder and read back (8-bit images, as users have them),
fused, written as GLB, read back and evaluated against its reference, together with the refined
poses and the conflict maps. The reference geometry is also textured from the clean views
("texture" rows): the upper limit of baking.
`--concave N` adds N procedural concave sheets and bowls, whose depth silhouettes leave open; use
them with the perturbations clean and colour.
Writes fusion.json and fusion.md (hull.json and hull.md with `--method hull`), and a comparison grid
and the conflict maps of each run into the output folder. The pages are rewritten after each run, so
that an interrupted benchmark keeps its results; docs/results holds the published ones.
docs/results/objects.md lists the public sources of the meshes that the targets are set for.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from known_meshes import MeshFile, check_names, mesh_files
from measure import EVERY, StageMemory, Target, machine, targets_table
from results import ResultPage, Table, markdown_page, save_page
from tqdm import tqdm

from nova3d_core.conventions import UpAxis
from nova3d_core.errors import InputError, Nova3DError
from nova3d_core.evaluation.concave_surfaces import CONCAVE_KINDS, ConcaveKind, concave_surface
from nova3d_core.evaluation.config import PERTURBATIONS, EvaluateConfig, PerturbationConfig
from nova3d_core.evaluation.metrics.conflict import conflict_metrics
from nova3d_core.evaluation.metrics.poses import pose_errors, pose_motion
from nova3d_core.evaluation.perturbations import (
    PerturbedViews,
    perturbation_cameras,
    render_perturbed_views,
)
from nova3d_core.evaluation.protocol import evaluate_mesh_with_grid
from nova3d_core.evaluation.report import COLUMNS as REPORT_COLUMNS
from nova3d_core.evaluation.report import Report
from nova3d_core.io.files.atomic import check_can_write_folder, translate_os_errors
from nova3d_core.io.images.images import write_image
from nova3d_core.io.mesh.read import read_mesh
from nova3d_core.io.mesh.write import write_glb
from nova3d_core.io.views.transforms_json import read_views, write_views
from nova3d_core.mesh import Mesh
from nova3d_core.pipeline.config import FuseConfig
from nova3d_core.pipeline.fuse import fuse_views
from nova3d_core.pipeline.stages import FusionResult, StageTimer, bake_views

ROOT = Path(__file__).resolve().parents[1]
TEXTURE = "texture"

TARGET_OBJECTS = (
    "shoe_boat", "toy_school_bus", "animal_bull", "toy_bunny_racer", "mug_white_yellow",
    "toy_two_headed_dragon", "dino_crested", "lunch_box", "character_knight",
)  # fmt: skip
"""The targets are set for these objects, see docs/results/objects.md."""

TARGETS = (
    Target("clean", "visible.cd_l1", "mean", "<=", 0.0016),
    Target("clean", "visible.f_at_0.005", "mean", ">=", 0.945),
    Target("clean", "surface.cd_l1", "animal_bull", "<=", 0.0020),
    Target("clean", "surface.iou", "animal_bull", ">=", 0.985),
    Target("clean", "surface.cd_l1", "toy_bunny_racer", "<=", 0.0050),
    Target("clean", "surface.iou", "toy_bunny_racer", ">=", 0.955),
    Target("clean", "images_all.normal_error_deg", "mean", "<=", 4.5),
    Target("clean", "images_el0.psnr", "mean", ">=", 33.0),
    Target("clean", "images_el25.psnr", "mean", ">=", 27.0),
    Target("noisy+conflict", "visible.cd_l1", "mean", "<=", 0.0022),
    Target("noisy+conflict", "visible.f_at_0.005", "mean", ">=", 0.90),
    Target("noisy+conflict", "visible.cd_l1", "worst / clean", "<=", 2.0),
    Target("noisy+conflict", "images_el0.psnr", "mean", ">=", 29.0),
    Target("noisy", "visible.cd_l1", "mean", "<=", 0.0020),
    Target("conflict", "visible.cd_l1", "mean / clean", "<=", 1.15),
    Target("noisy", "after.rotation_deg_median", "worst", "<", 0.25),
    Target("noisy", "after.lateral_percent_median", "worst", "<", 0.2),
    Target("noisy+conflict", "after.rotation_deg_median", "worst", "<", 0.25),
    Target("noisy+conflict", "after.lateral_percent_median", "worst", "<", 0.2),
    Target("clean", "pose_change.rotation_deg_max", "worst", "<=", 0.3),
    Target("conflict", "pose_change.rotation_deg_max", "worst", "<=", 0.3),
    Target("conflict", "conflict.auc", "mean", ">=", 0.9),
    Target("noisy+conflict", "conflict.auc", "mean", ">=", 0.9),
    Target("clean", "conflict.mean", "mean", "<", 0.05),
    Target(EVERY, "peak_gb", "worst", "<=", 3.0),
)
"""Targets of the preset `fast` on two CPU cores."""
SECONDS_TARGETS = {"draft": 15.0, "fast": 40.0, "quality": 30.0}
"""Mean seconds from the views folder to the GLB; draft and fast on two CPU cores with warm caches,
quality on a GPU."""

MetricColumns = tuple[tuple[str, str, str], ...]
"""Heading, metric as "group.name", format specification."""
MEAN_COLUMNS: MetricColumns = (
    ("visible CD-L1", "visible.cd_l1", ".4f"),
    ("visible F@.005", "visible.f_at_0.005", ".3f"),
    ("CD-L1", "surface.cd_l1", ".4f"),
    ("IoU (watertight)", "surface.iou", ".3f"),
    ("normal error °", "images_all.normal_error_deg", ".2f"),
    ("PSNR el 0", "images_el0.psnr", ".2f"),
    ("PSNR el ±25", "images_el25.psnr", ".2f"),
    ("total s", "seconds.total", ".1f"),
    ("peak GB", "peak_gb", ".2f"),
)
OBJECT_COLUMNS: MetricColumns = tuple(
    (heading, f"{group}.{name}", spec) for heading, group, name, spec in REPORT_COLUMNS
)
POSE_COLUMNS: MetricColumns = (
    ("rotation before, median °", "before.rotation_deg_median", ".2f"),
    ("rotation before, max °", "before.rotation_deg_max", ".2f"),
    ("rotation after, median °", "after.rotation_deg_median", ".3f"),
    ("rotation after, max °", "after.rotation_deg_max", ".3f"),
    ("lateral before, median %", "before.lateral_percent_median", ".2f"),
    ("lateral after, median %", "after.lateral_percent_median", ".3f"),
    ("lateral after, max %", "after.lateral_percent_max", ".3f"),
    ("depth after, median %", "after.depth_percent_median", ".3f"),
    ("pose change, max °", "pose_change.rotation_deg_max", ".3f"),
    ("warps, mean px", "warps.mean_px", ".2f"),
    ("warps, max px", "warps.max_px", ".2f"),
)
CONFLICT_COLUMNS: MetricColumns = (
    ("AUC", "conflict.auc", ".3f"),
    ("mean H", "conflict.mean", ".4f"),
    ("mean H, view 0", "conflict.mean_view0", ".4f"),
    ("H > 0.5, %", "conflict.percent_high", ".2f"),
)

Metrics = Mapping[str, float | bool | str | None]
"""All metrics of a run, as "group.name"."""


@dataclass(frozen=True)
class FusionBenchmark:
    """Settings of the benchmark."""

    meshes: Path | None = None
    """Folder of mesh files. With a manifest.json, its "objects" give name, file and up_axis."""
    concave: int = 0
    """Number of procedural concave surfaces, alternately sheets and bowls."""
    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = ROOT / "benchmark_output" / "fusion"
    """Output folder; new or empty."""
    up_axis: UpAxis = "+Y"
    """Up axis of the meshes without a manifest."""
    objects: tuple[str, ...] = ()
    """Names of the meshes to use; default all."""
    perturbations: tuple[str, ...] = ("clean", "noisy", "conflict", "noisy+conflict")
    """clean: exact images; noisy: wrong poses; conflict: inconsistent views; or both; generated,
    generated_fine: smoothly distorted views; colour: exact views without normals; orbit576: the
    same, 21 views of 576 px at elevation 10."""
    seed: int = 0
    """Random seed of the perturbations."""
    keep_views: bool = False
    """Keep the views folders, with the true poses and the blob masks next to them."""
    texture: bool = True
    """Also texture the reference geometry from the clean views."""
    fuse: Annotated[FuseConfig, tyro.conf.arg(name="")] = field(default_factory=FuseConfig)
    """Settings of the fusion."""


@dataclass(frozen=True)
class ProceduralMesh:
    """A procedural concave surface of the benchmark."""

    name: str
    kind: ConcaveKind
    seed: int

    def read(self) -> Mesh:
        """The mesh, centred, with a longest side of 1."""
        return concave_surface(self.kind, self.seed)


@dataclass(frozen=True)
class Run:
    """Result of one object with one perturbation."""

    perturbation: str
    name: str
    report: Report
    seconds: dict[str, float]
    peak_mib: dict[str, float]
    unwrap_method: str
    faces: int
    surface: dict[str, dict[str, Any]] = field(default_factory=dict)
    """With an optimised surface: pose errors `before` and `after`, `pose_change`, `conflict`; rms
    displacements by `warps` where views contradict each other."""

    def metrics(self) -> Metrics:
        """All metrics as "group.name"."""
        groups = {**self.report.metrics, **self.surface, "seconds": self.seconds}
        flat = {
            f"{group}.{name}": value
            for group, metrics in groups.items()
            for name, value in metrics.items()
        }
        return {**flat, "peak_gb": max(self.peak_mib.values()) * 2**20 / 1e9}


def main(settings: FusionBenchmark) -> None:
    logging.basicConfig(level=logging.WARNING, format="note: %(message)s")
    meshes = benchmark_meshes(settings)
    check_names(settings.objects, [mesh.name for mesh in meshes])
    check_names(settings.perturbations, PERTURBATIONS)
    meshes = [mesh for mesh in meshes if mesh.name in settings.objects or not settings.objects]
    perturbations = [*settings.perturbations, *([TEXTURE] if settings.texture else [])]
    check_can_write_folder(settings.output, False, ())
    with translate_os_errors(settings.output):
        settings.output.mkdir(parents=True, exist_ok=True)
    runs: list[Run] = []
    failures: list[str] = []
    with tqdm(total=len(meshes) * len(perturbations), file=sys.stderr) as bar:
        for mesh in meshes:
            reference = mesh.read()
            for perturbation in perturbations:
                label = f"{mesh.name} {perturbation}"
                bar.set_description(label)
                try:
                    runs.append(run_one(mesh.name, reference, perturbation, settings))
                except Nova3DError as error:  # the remaining runs are still useful
                    failures.append(f"{label}: {error}")
                bar.update()
                page = result_page(runs, failures, bar.total, settings)
                save_page(settings.output, page_name(settings), page)
    print(markdown_page(page, f"{page_name(settings)}.json"))
    if failures:
        raise SystemExit(f"error: {len(failures)} of {bar.total} runs failed.")


def benchmark_meshes(settings: FusionBenchmark) -> list[MeshFile | ProceduralMesh]:
    """The meshes of the folder, and the procedural ones."""
    meshes: list[MeshFile | ProceduralMesh] = []
    if settings.meshes is not None:
        meshes += mesh_files(settings.meshes, settings.up_axis)
    for index in range(settings.concave):
        kind = CONCAVE_KINDS[index % len(CONCAVE_KINDS)]
        meshes.append(ProceduralMesh(f"{kind}_{index // len(CONCAVE_KINDS)}", kind, index))
    if not meshes:
        raise InputError("there are no meshes.", "Pass a folder with --meshes, or --concave 4.")
    return meshes


def run_one(name: str, reference: Mesh, perturbation: str, settings: FusionBenchmark) -> Run:
    """Renders the views, fuses them and evaluates the mesh."""
    kind = "clean" if perturbation == TEXTURE else perturbation
    cameras = perturbation_cameras(kind)
    perturbed = render_perturbed_views(reference, cameras, PerturbationConfig(kind, settings.seed))
    memory, timer = StageMemory(), StageTimer()
    output = settings.output / f"{name}-{perturbation}"
    if settings.keep_views:
        write_ground_truth(perturbed, write_views(perturbed.views, output / "views").parent)
    with tempfile.TemporaryDirectory() as folder, memory.watching():
        write_views(perturbed.views, Path(folder, "views"))
        start = time.perf_counter()
        with timer.stage("reading"):
            views = read_views(Path(folder, "views"), memory.progress)
        if perturbation == TEXTURE:
            fused = bake_views(
                reference.welded(),
                views,
                settings.fuse,
                keep_uv=False,
                progress=memory.progress,
                timer=timer,
            )
        else:
            fused = fuse_views(views, settings.fuse, memory.progress)
        with timer.stage("writing"):
            path = write_glb(fused.mesh, Path(folder, "mesh.glb"))
        seconds = {**timer.seconds, **fused.seconds, "total": time.perf_counter() - start}
        mesh = read_mesh(path)
    report, grid = evaluate_mesh_with_grid(mesh, reference, EvaluateConfig(image_px=cameras.width))
    write_image(output.with_name(f"{name}-{perturbation}.png"), grid)
    conflict = surface_attribute(fused, "conflict")
    if conflict is not None:
        strip = conflict.detach().cpu().permute(1, 0, 2).flatten(1)  # (H, V W)
        write_image(output.with_name(f"{name}-{perturbation}-conflict.png"), strip)
    return Run(
        perturbation,
        name,
        report,
        seconds,
        memory.peak_mib,
        fused.unwrap_method,
        len(mesh.faces),
        surface_metrics(fused, perturbed),
    )


def surface_attribute(fused: FusionResult, name: str) -> Any:
    """Refined cameras or conflict maps of the fused surface; None without an optimisation."""
    surface = getattr(fused, "surface", None)
    return getattr(surface, name) if surface is not None and not surface.is_hull else None


def surface_metrics(fused: FusionResult, perturbed: PerturbedViews) -> dict[str, dict[str, Any]]:
    """Metrics of the refined poses and the conflict maps."""
    metrics: dict[str, dict[str, Any]] = {}
    cameras, conflict = surface_attribute(fused, "cameras"), surface_attribute(fused, "conflict")
    if cameras is not None:
        given = perturbed.views.cameras
        metrics["before"] = pose_errors(given, perturbed.true_cameras).to_dict()
        metrics["after"] = pose_errors(cameras, perturbed.true_cameras).to_dict()
        metrics["pose_change"] = pose_motion(given, cameras).to_dict()
    report = surface_attribute(fused, "report")
    if report is not None and report.warp_px:
        of_others = report.warp_px[1:]  # view 0 is exact
        mean_px = sum(of_others) / len(of_others)
        metrics["warps"] = {"mean_px": mean_px, "max_px": max(of_others)}
    if conflict is not None:
        values = conflict_metrics(conflict, perturbed.blob_masks, perturbed.views.masks).to_dict()
        high = values["high_fraction"]
        metrics["conflict"] = {**values, "percent_high": None if high is None else 100.0 * high}
    return metrics


def write_ground_truth(perturbed: PerturbedViews, folder: Path) -> None:
    """Writes the true poses and the blob masks next to the views."""
    poses = perturbed.true_cameras.world_to_camera.tolist()
    document = {"world_to_camera_opencv": poses}
    (folder / "true_poses.json").write_text(json.dumps(document), encoding="utf-8")
    for view, blob in enumerate(perturbed.blob_masks):
        write_image(folder / "conflict" / f"{view:03d}.png", blob.float())


def page_name(settings: FusionBenchmark) -> str:
    return "hull" if settings.fuse.method == "hull" else "fusion"


def result_page(
    runs: list[Run], failures: list[str], total: int, settings: FusionBenchmark
) -> ResultPage:
    """All results so far: means, targets, and for each perturbation its objects."""
    hull = page_name(settings) == "hull"
    tables = summary_tables(runs, settings)
    for perturbation in dict.fromkeys(run.perturbation for run in runs):
        selected = [run for run in runs if run.perturbation == perturbation]
        rows = {run.name: run.metrics() for run in selected}
        tables.append(metrics_table("object", rows, OBJECT_COLUMNS, f"{perturbation}: metrics"))
        if any(run.surface for run in selected):
            columns = POSE_COLUMNS + CONFLICT_COLUMNS
            title = f"{perturbation}: poses and conflict maps"
            tables.append(metrics_table("object", rows, columns, title))
        tables.append(cost_table(selected, f"{perturbation}: seconds and memory"))
    return ResultPage(
        title="Visual hull with baked texture" if hull else "De-conflict fusion",
        summary=f"{len(runs)} of {total} runs, preset `{preset_of(settings)}`."
        + "".join(f" Failed: {failure}" for failure in failures),
        tables=tables,
        command=f"python dev.py bench fusion --meshes DIR{' --method hull' if hull else ''}"
        f" --perturbations {' '.join(settings.perturbations)}",
        machine=machine(),
        date=time.strftime("%Y-%m-%d"),
        details={
            "fuse": asdict(settings.fuse),
            "seed": settings.seed,
            "failures": failures,
            "runs": [{**asdict(run), "report": run.report.to_dict()} for run in runs],
        },
    )


def preset_of(settings: FusionBenchmark) -> str:
    """The preset of the fusion; `fast` by default."""
    return str(getattr(getattr(settings.fuse, "sdf", None), "preset", None) or "fast")


def summary_tables(runs: list[Run], settings: FusionBenchmark) -> list[Table]:
    """Means of each perturbation, and the targets if their objects were measured."""
    names = {run.name for run in runs}
    has_targets = page_name(settings) == "fusion" and bool(names & set(TARGET_OBJECTS))
    objects = TARGET_OBJECTS if has_targets else tuple(sorted(names))
    measured = {
        perturbation: {
            run.name: run.metrics()
            for run in runs
            if run.perturbation == perturbation and run.name in objects
        }
        for perturbation in settings.perturbations
    }
    if not any(measured.values()):
        return []
    counts = ", ".join(f"{len(rows)} {kind}" for kind, rows in measured.items())
    columns = MEAN_COLUMNS
    if any(run.surface for run in runs):
        columns += POSE_COLUMNS + CONFLICT_COLUMNS
    rows = {kind: mean_metrics(list(each.values())) for kind, each in measured.items()}
    title = "Means over the objects of the targets" if has_targets else "Means over the objects"
    tables = [metrics_table("perturbation", rows, columns, title, f"Measured: {counts}.", False)]
    if has_targets:
        targets, preset = list(TARGETS), preset_of(settings)
        if preset in SECONDS_TARGETS:
            targets.append(Target(EVERY, "seconds.total", "mean", "<=", SECONDS_TARGETS[preset]))
        tables.append(targets_table(targets, measured, objects))
    return tables


def mean_metrics(rows: Sequence[Metrics]) -> dict[str, float | None]:
    """Mean of each numeric metric over the rows that have it."""
    means: dict[str, float | None] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row[name] for row in rows if isinstance(row.get(name), int | float)]
        means[name] = sum(values) / len(values) if values else None
    return means


def metrics_table(
    corner: str,
    rows: dict[str, Metrics],
    columns: MetricColumns,
    title: str,
    text: str = "",
    with_means: bool = True,
) -> Table:
    """A table of selected metrics, with a row of means for two rows or more."""
    columns = tuple(each for each in columns if any(each[1] in row for row in rows.values()))
    lines = [[name, *(row.get(metric) for _, metric, _ in columns)] for name, row in rows.items()]
    if with_means and len(rows) > 1:
        values = [[row.get(metric) for row in rows.values()] for _, metric, _ in columns]
        specs = [spec for *_, spec in columns]
        lines.append(["mean", *map(mean_cell, values, specs)])
    headings = [(corner, ""), *((heading, spec) for heading, _, spec in columns)]
    return Table(headings, lines, title, text)


def mean_cell(values: Sequence[float | bool | str | None], spec: str) -> float | str | None:
    """Mean of the existing values, with their number if some are missing; booleans are counted."""
    existing = [value for value in values if isinstance(value, int | float)]
    if not existing:
        return None
    if isinstance(existing[0], bool):
        return f"{sum(existing)} of {len(existing)}"
    mean = sum(existing) / len(existing)
    return mean if len(existing) == len(values) else f"{mean:{spec}} ({len(existing)})"


def cost_table(runs: list[Run], title: str) -> Table:
    """Seconds and peak memory of each object, with means."""
    stages = list(dict.fromkeys(stage for run in runs for stage in run.seconds))
    rows: list[list[Any]] = []
    for run in runs:
        peak_stage = max(run.peak_mib, key=run.peak_mib.get)
        cells = [run.seconds.get(stage, 0.0) for stage in stages]
        row = [run.name, run.faces, run.unwrap_method, *cells, run.peak_mib[peak_stage], peak_stage]
        rows.append(row)
    means = [sum(run.seconds.get(stage, 0.0) for run in runs) / len(runs) for stage in stages]
    peak = max(max(run.peak_mib.values()) for run in runs)
    rows.append(["mean", "", "", *means, peak, "worst"])
    columns = [("object", ""), ("faces", "d"), ("unwrap method", "")]
    columns += [(f"{stage} s", ".2f") for stage in stages]
    columns += [("peak MiB", ".0f"), ("peak in stage", "")]
    return Table(columns, rows, title)


if __name__ == "__main__":
    try:
        main(tyro.cli(FusionBenchmark, description=__doc__))
    except Nova3DError as error:
        raise SystemExit(f"error: {error}") from error
