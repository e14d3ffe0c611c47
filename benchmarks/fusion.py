"""Fuses every object of the shared data folder under each condition and measures the result.

    python dev.py bench fusion --conditions clean noisy conflict noisy+conflict

Each object is rendered, written to a views folder and read back (images of eight bits, as users
have them), fused, written as GLB, read back and measured against the truth; so are the refined
poses and the conflict maps, where the fusion gives them. Also, the truth's own geometry is textured
from the clean views ("texture" rows): what baking alone can reach.
Writes report.json, report.md, an image sheet for each run and its conflict maps into the output
folder; both reports are written anew after each run, so that a long one that is stopped keeps what
it measured.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from measure import EVERY, StageMemory, Target, machine, targets_table
from tqdm import tqdm

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.errors import InputError, Nova3DError
from nova3d_core.evaluation.config import PERTURBATIONS, EvaluateConfig, PerturbationConfig
from nova3d_core.evaluation.metrics.conflict import conflict_metrics
from nova3d_core.evaluation.metrics.poses import pose_errors, pose_motion
from nova3d_core.evaluation.perturbations import PerturbedViews, render_perturbed_views
from nova3d_core.evaluation.protocol import evaluate_mesh_with_grid
from nova3d_core.evaluation.report import Report, markdown_table
from nova3d_core.io.files.atomic import atomic_file, check_can_write_folder, translate_os_errors
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

SUMMARY_OBJECTS = (
    "shoe_boat", "toy_school_bus", "animal_bull", "toy_bunny_racer", "mug_white_yellow",
    "toy_two_headed_dragon", "dino_crested", "lunch_box", "character_knight",
)  # fmt: skip
"""The targets' means are over these."""

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
    Target("noisy", "after.shift_percent_median", "worst", "<", 0.2),
    Target("noisy+conflict", "after.rotation_deg_median", "worst", "<", 0.25),
    Target("noisy+conflict", "after.shift_percent_median", "worst", "<", 0.2),
    Target("clean", "moved.rotation_deg_max", "worst", "<=", 0.3),
    Target("conflict", "moved.rotation_deg_max", "worst", "<=", 0.3),
    Target("conflict", "conflict.auc", "mean", ">=", 0.9),
    Target("noisy+conflict", "conflict.auc", "mean", ">=", 0.9),
    Target("clean", "conflict.mean", "mean", "<", 0.05),
    Target(EVERY, "peak_gb", "worst", "<=", 3.0),
)
"""What the fusion shall reach with the preset `fast` on two CPU cores, as the issue states it."""
SECONDS_TARGETS = {"draft": 15.0, "fast": 40.0, "quality": 30.0}
"""Mean seconds from the views folder to the GLB; draft and fast on two CPU cores with warm caches,
quality on a GPU."""

COLUMNS = (
    ("visible CD-L1", "visible.cd_l1", ".4f"),
    ("visible F@.005", "visible.f_at_0.005", ".3f"),
    ("CD-L1", "surface.cd_l1", ".4f"),
    ("IoU (closed ones)", "surface.iou", ".3f"),
    ("normal error °", "images_all.normal_error_deg", ".2f"),
    ("PSNR el 0", "images_el0.psnr", ".2f"),
    ("PSNR el ±25", "images_el25.psnr", ".2f"),
    ("total s", "seconds.total", ".1f"),
    ("peak GB", "peak_gb", ".2f"),
)
POSE_COLUMNS = (
    ("rot ° before, median", "before.rotation_deg_median", ".2f"),
    ("max", "before.rotation_deg_max", ".2f"),
    ("rot ° after, median", "after.rotation_deg_median", ".3f"),
    ("max", "after.rotation_deg_max", ".3f"),
    ("shift % before, median", "before.shift_percent_median", ".2f"),
    ("shift % after, median", "after.shift_percent_median", ".3f"),
    ("max", "after.shift_percent_max", ".3f"),
    ("depth % after, median", "after.depth_percent_median", ".3f"),
    ("moved °, max", "moved.rotation_deg_max", ".3f"),
)
CONFLICT_COLUMNS = (
    ("AUC", "conflict.auc", ".3f"),
    ("mean H", "conflict.mean", ".4f"),
    ("mean H, view 0", "conflict.mean_view0", ".4f"),
    ("H > .5 %", "conflict.percent_high", ".2f"),
)
Columns = tuple[tuple[str, str, str], ...]
"""Heading, figure, number format."""


@dataclass(frozen=True)
class FusionBenchmark:
    """Measures the fusion on every object of the shared data folder."""

    data: Path = ROOT.parent / "shared" / "data" / "objects"
    """A folder with a manifest.json that lists objects: name, file, up_axis."""
    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = ROOT / "benchmark_output" / "fusion"
    """The folder to write; it must not exist yet or be empty."""
    objects: tuple[str, ...] = ()
    """Only these objects; all without any."""
    conditions: tuple[str, ...] = ("clean", "noisy", "conflict", "noisy+conflict")
    """clean: true images; noisy: wrong poses; conflict: views that contradict each other."""
    seed: int = 0
    """Start of the random numbers of the conditions."""
    keep_views: bool = False
    """Keep each views folder, with the true poses and the conflicts' masks beside it."""
    texture: bool = True
    """Also texture the truth's own geometry from the clean views."""
    fuse: Annotated[FuseConfig, tyro.conf.arg(name="")] = field(default_factory=FuseConfig)
    """The fusion."""


@dataclass(frozen=True)
class Run:
    """What one object gave under one condition."""

    condition: str
    name: str
    report: Report
    seconds: dict[str, float]
    peak_mib: dict[str, float]
    unwrap_method: str
    faces: int
    extra: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Where there is a refined surface: the poses' errors `before` and `after`, how far they
    `moved`, and the `conflict` maps' figures."""

    def metrics(self) -> dict[str, float | None]:
        """All figures as "part.figure"."""
        parts = {**self.report.metrics, **self.extra, "seconds": self.seconds}
        flat = {
            f"{part}.{name}": value
            for part, metrics in parts.items()
            for name, value in metrics.items()
        }
        return {**flat, "peak_gb": max(self.peak_mib.values()) * 2**20 / 1e9}


def main(settings: FusionBenchmark) -> None:
    logging.basicConfig(level=logging.WARNING, format="note: %(message)s")
    if not (settings.data / "manifest.json").is_file():
        raise InputError(f"{settings.data} holds no manifest.json.", "Name a folder with --data.")
    manifest = json.loads((settings.data / "manifest.json").read_text(encoding="utf-8"))
    check_names(settings, [entry["name"] for entry in manifest["objects"]])
    chosen = [
        o for o in manifest["objects"] if o["name"] in settings.objects or not settings.objects
    ]
    conditions = [*settings.conditions, *([TEXTURE] if settings.texture else [])]
    check_can_write_folder(settings.output, False, ())
    with translate_os_errors(settings.output):
        settings.output.mkdir(parents=True, exist_ok=True)
    runs: list[Run] = []
    failures: list[str] = []
    with tqdm(total=len(chosen) * len(conditions), file=sys.stderr) as bar:
        for entry in chosen:
            truth = read_mesh(settings.data / entry["file"], entry["up_axis"]).normalised()
            for condition in conditions:
                label = f"{entry['name']} {condition}"
                bar.set_description(label)
                try:
                    runs.append(run_one(entry["name"], truth, condition, settings))
                except Nova3DError as error:  # the others are still worth measuring
                    failures.append(f"{label}: {error}")
                bar.update()
                write_reports(runs, failures, bar.total, settings)
    print(report_text(runs, failures, bar.total, settings))
    if failures:
        raise SystemExit(f"error: {len(failures)} of {bar.total} runs failed.")


def check_names(settings: FusionBenchmark, objects: list[str]) -> None:
    """Raises InputError for an object or a condition that does not exist."""
    for given, known in ((settings.objects, objects), (settings.conditions, PERTURBATIONS)):
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise InputError(f"'{unknown[0]}' is unknown.", f"Known are {', '.join(known)}.")


def run_one(name: str, truth: Mesh, condition: str, settings: FusionBenchmark) -> Run:
    """Makes the views, fuses them, measures the mesh."""
    made = render_perturbed_views(
        truth,
        orbit_cameras(),
        PerturbationConfig("clean" if condition == TEXTURE else condition, settings.seed),
    )
    memory, clock = StageMemory(), StageTimer()
    place_of_run = settings.output / f"{name}-{condition}"
    if settings.keep_views:
        write_truth(made, write_views(made.views, place_of_run / "views").parent)
    with tempfile.TemporaryDirectory() as place, memory.watching():
        write_views(made.views, Path(place, "views"))
        start = time.perf_counter()
        with clock.stage("reading"):
            views = read_views(Path(place, "views"), memory.progress)
        if condition == TEXTURE:
            fused = bake_views(
                truth.welded(),
                views,
                settings.fuse,
                keep_uv=False,
                progress=memory.progress,
                timer=clock,
            )
        else:
            fused = fuse_views(views, settings.fuse, memory.progress)
        with clock.stage("writing"):
            path = write_glb(fused.mesh, Path(place, "mesh.glb"))
        seconds = {**clock.seconds, **fused.seconds, "total": time.perf_counter() - start}
        mesh = read_mesh(path)
    report, sheet = evaluate_mesh_with_grid(mesh, truth, EvaluateConfig())
    write_image(place_of_run.with_name(f"{name}-{condition}.png"), sheet)
    conflict = surface_part(fused, "conflict")
    if conflict is not None:
        strip = conflict.detach().cpu().permute(1, 0, 2).flatten(1)  # (H, V W)
        write_image(place_of_run.with_name(f"{name}-{condition}-conflict.png"), strip)
    return Run(
        condition,
        name,
        report,
        seconds,
        memory.peak_mib,
        fused.unwrap_method,
        len(mesh.faces),
        surface_figures(fused, made),
    )


def surface_part(fused: FusionResult, part: str) -> Any:
    """The fused surface's refined cameras or conflict maps; None where it has none."""
    return getattr(getattr(fused, "surface", None), part, None)


def surface_figures(fused: FusionResult, made: PerturbedViews) -> dict[str, dict[str, Any]]:
    """How good the refined poses and the conflict maps are, where the fusion gives them."""
    metrics: dict[str, dict[str, Any]] = {}
    cameras, conflict = surface_part(fused, "cameras"), surface_part(fused, "conflict")
    if cameras is not None:
        given = made.views.cameras
        metrics["before"] = pose_errors(given, made.true_cameras).to_dict()
        metrics["after"] = pose_errors(cameras, made.true_cameras).to_dict()
        metrics["moved"] = pose_motion(given, cameras).to_dict()
    if conflict is not None:
        found = conflict_metrics(conflict, made.blob_masks, made.views.masks).to_dict()
        share = found["high_fraction"]
        metrics["conflict"] = {**found, "percent_high": None if share is None else 100.0 * share}
    return metrics


def write_truth(made: PerturbedViews, folder: Path) -> None:
    """True poses and conflict masks, beside the views that hide them."""
    poses = made.true_cameras.world_to_camera.tolist()
    truth = {"world_to_camera_opencv": poses}
    (folder / "true_poses.json").write_text(json.dumps(truth), encoding="utf-8")
    for view, blob in enumerate(made.blob_masks):
        write_image(folder / "conflict" / f"{view:03d}.png", blob.float())


def write_reports(
    runs: list[Run], failures: list[str], wanted: int, settings: FusionBenchmark
) -> None:
    """Both reports of all runs so far; each file is replaced as a whole."""
    document = {
        "machine": machine(),
        "fuse": asdict(settings.fuse),
        "seed": settings.seed,
        "runs_wanted": wanted,
        "failures": failures,
        "runs": [{**asdict(run), "report": run.report.to_dict()} for run in runs],
    }
    with atomic_file(settings.output / "report.json", overwrite=True) as path:
        path.write_text(json.dumps(document, indent=2), encoding="utf-8")
    with atomic_file(settings.output / "report.md", overwrite=True) as path:
        path.write_text(report_text(runs, failures, wanted, settings), encoding="utf-8")


def report_text(
    runs: list[Run], failures: list[str], wanted: int, settings: FusionBenchmark
) -> str:
    """All figures, for people: targets, means, and for each condition its objects."""
    parts = [f"Machine: {json.dumps(machine())}\n"]
    if len(runs) < wanted:
        parts.append(f"{len(runs)} of {wanted} runs measured.\n")
    parts += [f"Failed: {failure}\n" for failure in failures]
    conditions = list(dict.fromkeys(run.condition for run in runs))
    parts += summary(runs, settings)
    for condition in conditions:
        some = [run for run in runs if run.condition == condition]
        parts.append(f"## {condition}\n")
        parts.append(markdown_table({run.name: run.report for run in some}))
        if any(run.extra for run in some):
            rows = {run.name: run.metrics() for run in some}
            parts.append(figures_table("object", rows, POSE_COLUMNS + CONFLICT_COLUMNS, True))
        parts.append(cost_table(some))
    return "\n".join(parts)


def preset_of(settings: FusionBenchmark) -> str:
    """The fusion's preset; `fast` where the settings name none."""
    return str(getattr(getattr(settings.fuse, "sdf", None), "preset", None) or "fast")


def summary(runs: list[Run], settings: FusionBenchmark) -> list[str]:
    """Each condition's means over the targets' objects, and the targets, met or missed."""
    measured = {
        condition: {
            run.name: run.metrics()
            for run in runs
            if run.condition == condition and run.name in SUMMARY_OBJECTS
        }
        for condition in settings.conditions
    }
    if not any(measured.values()):
        return []
    covered = ", ".join(f"{len(objects)} {condition}" for condition, objects in measured.items())
    columns = COLUMNS
    if any(run.extra for run in runs):
        columns += POSE_COLUMNS + CONFLICT_COLUMNS
    rows = {name: means(list(objects.values())) for name, objects in measured.items()}
    targets, preset = list(TARGETS), preset_of(settings)
    if preset in SECONDS_TARGETS:
        targets.append(Target(EVERY, "seconds.total", "mean", "<=", SECONDS_TARGETS[preset]))
    return [
        f"## Targets\n\nOf the {len(SUMMARY_OBJECTS)} objects they are set for: {covered}.\n",
        figures_table("means", rows, columns, False),
        targets_table(targets, measured, SUMMARY_OBJECTS),
    ]


def means(rows: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    """The mean of each figure that is a number somewhere, over the rows that have it."""
    result: dict[str, float | None] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row[name] for row in rows if isinstance(row.get(name), int | float)]
        result[name] = sum(values) / len(values) if values else None
    return result


def figures_table(
    corner: str, rows: dict[str, dict[str, float | None]], columns: Columns, with_means: bool
) -> str:
    """A Markdown table of chosen figures; "-" where a row has none."""
    if with_means and len(rows) > 1:
        rows = {**rows, "mean": means(list(rows.values()))}
    lines = [[corner, *(heading for heading, *_ in columns)], ["---"] + ["---:"] * len(columns)]
    for name, metrics in rows.items():
        values = [(metrics.get(figure), form) for _, figure, form in columns]
        lines.append([name, *("-" if v is None else format(v, form) for v, form in values)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def cost_table(runs: list[Run]) -> str:
    """Seconds and peak MiB a stage, one row an object, means below."""
    stages = list(dict.fromkeys(stage for run in runs for stage in run.seconds))
    rows = [["object", "faces", "unwrap", *(f"{s} s" for s in stages), "peak MiB", "in stage"]]
    rows.append(["---"] + ["---:"] * (len(rows[0]) - 1))
    for run in runs:
        peak_stage = max(run.peak_mib, key=run.peak_mib.get)
        cells = [f"{run.seconds.get(s, 0.0):.2f}" for s in stages]
        peak = f"{run.peak_mib[peak_stage]:.0f}"
        rows.append([run.name, str(run.faces), run.unwrap_method, *cells, peak, peak_stage])
    means = [sum(r.seconds.get(s, 0.0) for r in runs) / len(runs) for s in stages]
    worst = max(max(run.peak_mib.values()) for run in runs)
    rows.append(["mean", "", "", *(f"{m:.2f}" for m in means), f"{worst:.0f}", "worst"])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


if __name__ == "__main__":
    try:
        main(tyro.cli(FusionBenchmark, description=__doc__))
    except Nova3DError as error:
        raise SystemExit(f"error: {error}") from error
