"""Fuses every object of the shared data folder under each condition and measures the result.

    python dev.py bench fusion --conditions clean noisy conflict noisy+conflict

Each object is rendered, written to a views folder and read back (pictures of eight bits, as users
have them), fused, written as GLB, read back and measured against the truth. Also, the truth's own
geometry is textured from the clean views ("texture" rows): what baking alone can reach.
Writes report.json, report.md and a picture sheet for each run into the output folder.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from measure import StageMemory, machine
from tqdm import tqdm

from nova3d_core.cameras import orbit_cameras
from nova3d_core.errors import InputError, Nova3DError
from nova3d_core.evaluation.conditions import ConditionedViews, make_condition
from nova3d_core.evaluation.config import CONDITIONS, ConditionConfig, EvaluateConfig
from nova3d_core.evaluation.protocol import evaluate_mesh_with_sheet
from nova3d_core.evaluation.report import Report, markdown_table
from nova3d_core.io.atomic import new_folder
from nova3d_core.io.images import write_image
from nova3d_core.io.meshes import read_mesh, write_glb
from nova3d_core.io.transforms_json import read_views, write_views
from nova3d_core.mesh import Mesh
from nova3d_core.pipeline import StageClock, fuse_views, texture_mesh
from nova3d_core.pipeline_config import FuseConfig

ROOT = Path(__file__).resolve().parents[1]


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
    """clean: true pictures; noisy: wrong poses; conflict: views that contradict each other."""
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


def main(settings: FusionBenchmark) -> None:
    logging.basicConfig(level=logging.WARNING, format="note: %(message)s")
    if not (settings.data / "manifest.json").is_file():
        raise InputError(f"{settings.data} holds no manifest.json.", "Name a folder with --data.")
    manifest = json.loads((settings.data / "manifest.json").read_text(encoding="utf-8"))
    check_names(settings, [entry["name"] for entry in manifest["objects"]])
    chosen = [
        o for o in manifest["objects"] if o["name"] in settings.objects or not settings.objects
    ]
    conditions = [*settings.conditions, *(["texture"] if settings.texture else [])]
    runs = []
    with new_folder(settings.output) as folder:
        with tqdm(total=len(chosen) * len(conditions), file=sys.stderr) as bar:
            for entry in chosen:
                truth = read_mesh(settings.data / entry["file"], entry["up_axis"]).normalised()
                for condition in conditions:
                    bar.set_description(f"{entry['name']} {condition}")
                    runs.append(run_one(entry["name"], truth, condition, settings, folder))
                    bar.update()
        document = report_document(runs, settings)
        (folder / "report.json").write_text(json.dumps(document, indent=2), encoding="utf-8")
        text = report_text(runs, conditions)
        (folder / "report.md").write_text(text, encoding="utf-8")
    print(text)


def check_names(settings: FusionBenchmark, objects: list[str]) -> None:
    """Raises InputError for an object or a condition that does not exist."""
    for given, known in ((settings.objects, objects), (settings.conditions, CONDITIONS)):
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise InputError(f"'{unknown[0]}' is unknown.", f"Known are {', '.join(known)}.")


def run_one(name: str, truth: Mesh, condition: str, settings: FusionBenchmark, folder: Path) -> Run:
    """Makes the views, fuses them, measures the mesh."""
    made = make_condition(
        truth,
        orbit_cameras(),
        ConditionConfig("clean" if condition == "texture" else condition, settings.seed),
    )
    memory, clock = StageMemory(), StageClock()
    if settings.keep_views:
        write_truth(made, write_views(made.views, folder / f"{name}-{condition}" / "views").parent)
    with tempfile.TemporaryDirectory() as place, memory.watching():
        write_views(made.views, Path(place, "views"))
        start = time.perf_counter()
        with clock.stage("reading"):
            views = read_views(Path(place, "views"), memory.progress)
        if condition == "texture":
            fused = texture_mesh(truth.welded(), views, settings.fuse, clock, memory.progress)
        else:
            fused = fuse_views(views, settings.fuse, memory.progress)
        with clock.stage("writing"):
            path = write_glb(fused.mesh, Path(place, "mesh.glb"))
        seconds = {**clock.seconds, **fused.seconds, "total": time.perf_counter() - start}
        mesh = read_mesh(path)
    report, sheet = evaluate_mesh_with_sheet(mesh, truth, EvaluateConfig())
    write_image(folder / f"{name}-{condition}.png", sheet)
    return Run(
        condition, name, report, seconds, memory.peak_mib, fused.unwrap_method, len(mesh.faces)
    )


def write_truth(made: ConditionedViews, folder: Path) -> None:
    """True poses and conflict masks, beside the views that hide them."""
    poses = made.true_cameras.world_to_camera.tolist()
    truth = {"world_to_camera_opencv": poses}
    (folder / "true_poses.json").write_text(json.dumps(truth), encoding="utf-8")
    for view, blob in enumerate(made.blob_masks):
        write_image(folder / "conflict" / f"{view:03d}.png", blob.float())


def report_document(runs: list[Run], settings: FusionBenchmark) -> dict[str, Any]:
    """All figures, for machines."""
    return {
        "machine": machine(),
        "fuse": asdict(settings.fuse),
        "seed": settings.seed,
        "runs": [{**asdict(run), "report": run.report.to_dict()} for run in runs],
    }


def report_text(runs: list[Run], conditions: list[str]) -> str:
    """All figures, for people: a table of quality and one of cost for each condition."""
    parts = [f"Machine: {json.dumps(machine())}\n"]
    for condition in conditions:
        some = [run for run in runs if run.condition == condition]
        parts.append(f"## {condition}\n")
        parts.append(markdown_table({run.name: run.report for run in some}))
        parts.append(cost_table(some))
    return "\n".join(parts)


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
