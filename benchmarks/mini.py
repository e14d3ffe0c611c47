"""Quality of the built-in model on procedural objects held out from training.

    python dev.py bench mini [--run RUNS/MINI | --model FILE] [--objects 64 --fused 16]

All views of an object are generated from its first view and compared with the ground truth over the
15 others. The views of the first objects are also fused; the distance of the meshes to the true
surface is compared with that of a baseline: the input silhouette, extruded over the true depth.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from measure import machine
from results import ResultPage, Table, markdown_page, save_page

from nova3d_core.diffusion.families import FAMILIES
from nova3d_core.diffusion.model import MultiviewModel, OneDevice
from nova3d_core.diffusion.sampling.postprocess import upscale, views_from_samples
from nova3d_core.diffusion.sampling.trajectory import plan_trajectory
from nova3d_core.errors import Nova3DError
from nova3d_core.evaluation.config import EvaluateConfig
from nova3d_core.evaluation.protocol import evaluate_mesh
from nova3d_core.fusion.config import SdfFusionConfig
from nova3d_core.fusion.hull.silhouettes import Silhouettes
from nova3d_core.mesh import Mesh
from nova3d_core.meshing.isosurface import extract_surface
from nova3d_core.pipeline.config import FuseConfig
from nova3d_core.pipeline.fuse import fuse_views
from nova3d_core.sdf_grid import SdfGrid, grid_points
from nova3d_core.training.data.stream import object_seed
from nova3d_core.training.export import load_trained
from nova3d_core.training.object_sources import HELD_OUT_SEED, held_out_objects
from nova3d_core.training.presets import read_train_config
from nova3d_core.training.procedural import grid_cells, procedural_object
from nova3d_core.training.validation import ValidationResult, ValidationSample, validate
from nova3d_core.views import Views
from nova3d_core.weights.discovery.built_in import BUILT_IN_NAME, built_in_file
from nova3d_core.weights.load import load_model

METRICS = {
    "psnr": ("PSNR of the colours, dB", ".1f"),
    "normal_error_deg": ("normal error °", ".1f"),
    "silhouette_iou": ("silhouette IoU", ".3f"),
    "agreement_iou": ("IoU of colour and normal silhouettes", ".3f"),
    "ssim": ("SSIM of the colours", ".3f"),
}
"""Metrics of `training.validation`, with their headings and format specifications."""
TARGETS = {"psnr": 20.0, "normal_error_deg": 20.0, "silhouette_iou": 0.85}
LOWER_IS_BETTER = ("normal_error_deg",)
MIN_RATIO = 2.0
"""Target: Chamfer distance of the baseline over that of the fused meshes."""
GRID_RESOLUTION = 144
"""Cells along the side of the baseline's grid."""
GRID_HALF_SIDE = 0.9
"""Objects have a longest side of 1; with perspective the extrusion widens behind them."""


@dataclass(frozen=True)
class MiniBenchmark:
    """Settings of the benchmark."""

    model: Path | None = None
    """Model file; default is the built-in model."""
    run: Path | None = None
    """Folder of a training run; its newest checkpoint is used."""
    objects: int = 64
    """Number of held-out objects."""
    fused: int = 16
    """Number of objects to fuse."""
    preset: str = "draft"
    """Fusion preset."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder for mini.json and mini.md."""


def load_benchmark_model(bench: MiniBenchmark) -> MultiviewModel:
    """The model under test."""
    if bench.run is not None:
        return load_trained(bench.run).module.model()
    return load_model(bench.model or built_in_file(), dtype=torch.float32)


def extruded_silhouette(truth: ValidationSample, views: Views, depth: tuple[float, float]) -> Mesh:
    """Extrusion of the first view's silhouette between two depths along +Z."""
    first = Views(views.cameras[[0]], truth.colour[:1], truth.mask[:1])
    spacing = 2 * GRID_HALF_SIDE / GRID_RESOLUTION
    origin = torch.full((3,), -GRID_HALF_SIDE)
    points = grid_points(origin, spacing, (GRID_RESOLUTION + 1,) * 3)
    centre, half = (depth[0] + depth[1]) / 2, (depth[1] - depth[0]) / 2
    inside = Silhouettes.of(first).sdf(points).maximum((points[:, 2] - centre).abs() - half)
    return extract_surface(SdfGrid(inside.reshape((GRID_RESOLUTION + 1,) * 3), origin, spacing))


def mesh_distances(
    bench: MiniBenchmark, index: int, truth: ValidationSample, generated: torch.Tensor
) -> dict[str, float | str]:
    """Chamfer distances of the fused mesh and of the baseline to the true surface."""
    family = FAMILIES[BUILT_IN_NAME]
    size = truth.colour.shape[1]
    mesh = procedural_object(object_seed(HELD_OUT_SEED, index), cells=grid_cells(size))
    evaluate = EvaluateConfig(with_images=False)
    cameras = plan_trajectory(family, size).cameras_input_view_first()
    views = views_from_samples(cameras, generated[0], generated[1])
    depth = mesh.vertices[:, 2]
    baseline = extruded_silhouette(truth, views, (float(depth.min()), float(depth.max())))
    distances: dict[str, float | str] = {
        "baseline": evaluate_mesh(baseline, mesh, evaluate).metrics["surface"]["cd_l1"]
    }
    start = time.perf_counter()
    try:
        config = FuseConfig(sdf=SdfFusionConfig(preset=bench.preset))
        fused = fuse_views(upscale(views, family.upscale), config)
    except Nova3DError as error:
        return {**distances, "failed": error.message}
    distances["seconds"] = time.perf_counter() - start
    distances["fused"] = evaluate_mesh(fused.mesh, mesh, evaluate).metrics["surface"]["cd_l1"]
    return distances


def metrics_table(result: ValidationResult) -> Table:
    """Means and worst tenths of the metrics, with the targets."""
    rows: dict[str, list[Any]] = {"mean": [], "worst tenth": [], "target": [], "verdict": []}
    for name in METRICS:
        values = sorted(each[name] for each in result.objects if each[name] is not None)
        lower = name in LOWER_IS_BETTER
        mean, target = result.means[name], TARGETS.get(name)
        rows["mean"].append(mean)
        rows["worst tenth"].append(
            values[-(len(values) // 10 + 1)] if lower else values[len(values) // 10]
        )
        rows["target"].append("" if target is None else f"{'<=' if lower else '>='} {target:g}")
        met = target is not None and (mean <= target if lower else mean >= target)
        rows["verdict"].append("" if target is None else "met" if met else "missed")
    return Table([("", ""), *METRICS.values()], [[name, *row] for name, row in rows.items()])


def mesh_table(meshes: list[dict[str, float | str]]) -> Table:
    """Mean Chamfer distances of the fused meshes and the baseline."""
    fused = [each for each in meshes if "fused" in each]
    ours = statistics.mean(each["fused"] for each in fused)
    baseline = statistics.mean(each["baseline"] for each in fused)
    closer = sum(each["fused"] < each["baseline"] for each in fused)
    ratio = baseline / ours
    columns = [("fused meshes, CD-L1", ".4f"), ("extruded silhouettes, CD-L1", ".4f")]
    columns += [("ratio", ".2f"), ("target", ""), ("verdict", ""), ("closer", ""), ("failed", "d")]
    row = [ours, baseline, ratio, f">= {MIN_RATIO:g}", "met" if ratio >= MIN_RATIO else "missed"]
    row += [f"{closer} of {len(fused)}", len(meshes) - len(fused)]
    return Table(columns, [row], "Fused meshes")


def main(bench: MiniBenchmark) -> None:
    model = load_benchmark_model(bench)
    samples = held_out_objects(read_train_config("mini"), FAMILIES[BUILT_IN_NAME], bench.objects)
    start = time.perf_counter()
    result = validate(model, samples, OneDevice(model, torch.device("cpu")))
    seconds = (time.perf_counter() - start) / max(len(samples), 1)
    pairs = list(zip(samples, result.generated, strict=True))  # none was skipped
    meshes = [
        mesh_distances(bench, index, *pair) for index, pair in enumerate(pairs[: bench.fused])
    ]
    tables = [metrics_table(result)]
    if any("fused" in each for each in meshes):
        tables.append(mesh_table(meshes))
    page = ResultPage(
        title="The built-in model nova3d-mini",
        summary=f"Views generated from the first view of {len(samples)} procedural objects held "
        "out from training: means over the 15 other views, then over objects. "
        f"{seconds:.2f} s per object.",
        tables=tables,
        command=f"python dev.py bench mini --objects {bench.objects} --fused {bench.fused}",
        machine=machine(),
        date=time.strftime("%Y-%m-%d"),
        details={
            "settings": {key: str(value) for key, value in asdict(bench).items()},
            "means": result.means,
            "objects": [dict(metrics) for metrics in result.objects],
            "meshes": meshes,
        },
    )
    if bench.output is not None:
        save_page(bench.output, "mini", page)
    print(markdown_page(page, "mini.json"))


if __name__ == "__main__":
    main(tyro.cli(MiniBenchmark, description=__doc__))
