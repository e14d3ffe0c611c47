"""What the small model paints of objects that no training has seen, and their meshes' worth.

    python dev.py bench mini [--run RUNS/MINI | --model FILE] [--objects 64 --fused 16]

Every object is painted from its first view and compared with the truth over the 15 others. Of the
first ones the painted views are fused; the meshes' distance to the true surface is set against what
the image's silhouette alone gives: the silhouette, extruded over the object's true depth.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import tyro
from measure import write_figures

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
from nova3d_core.training.data.object_sources import HELD_OUT_SEED, held_out_objects
from nova3d_core.training.data.stream import object_seed
from nova3d_core.training.export import load_trained
from nova3d_core.training.presets import read_train_config
from nova3d_core.training.procedural import cells_for, procedural_object
from nova3d_core.training.validation import ValidationSample, ValidationResult, validate
from nova3d_core.views import Views
from nova3d_core.weights.discovery.built_in import NAME, built_in_file
from nova3d_core.weights.load import load_model

TARGETS = {
    "psnr": ("PSNR of the colours, dB", 20.0, "at least"),
    "normal_error_deg": ("normal error, degrees", 20.0, "at most"),
    "silhouette_iou": ("IoU of the silhouettes", 0.85, "at least"),
    "agreement_iou": ("IoU of the colours' and the normals' silhouettes", None, ""),
    "ssim": ("SSIM of the colours", None, ""),
}
GRID = 144
"""Cells along the extruded silhouette's side."""
REACH = 0.9
"""Half of that side: objects have a longest side of 1, and behind it the prism grows wider."""


@dataclass(frozen=True)
class MiniBenchmark:
    """Settings of the benchmark."""

    model: Path | None = None
    """A model's file; the built-in one if neither this nor a run is given."""
    run: Path | None = None
    """A training run's folder: its newest checkpoint."""
    objects: int = 64
    """Unseen objects that are painted."""
    fused: int = 16
    """Of these, how many are fused."""
    preset: str = "draft"
    """Of the fusion."""
    output: Path | None = None
    """Also write figures.json and table.md to this folder."""


def model_of(bench: MiniBenchmark) -> MultiviewModel:
    """What is measured."""
    if bench.run is not None:
        return load_trained(bench.run).module.model()
    return load_model(bench.model or built_in_file(), dtype=torch.float32)


def extruded(truth: ValidationSample, views: Views, depth: tuple[float, float]) -> Mesh:
    """The prism over the first view's silhouette, between two depths along +Z."""
    first = Views(views.cameras[[0]], truth.colour[:1], truth.mask[:1])
    spacing = 2 * REACH / GRID
    origin = torch.full((3,), -REACH)
    points = grid_points(origin, spacing, (GRID + 1,) * 3)
    middle, half = (depth[0] + depth[1]) / 2, (depth[1] - depth[0]) / 2
    inside = Silhouettes.of(first).sdf(points).maximum((points[:, 2] - middle).abs() - half)
    return extract_surface(SdfGrid(inside.reshape((GRID + 1,) * 3), origin, spacing))


def fused_figures(
    bench: MiniBenchmark, number: int, truth: ValidationSample, painted: torch.Tensor
) -> dict[str, float | str]:
    """Distances to the true surface of the fused mesh and of the extruded silhouette."""
    family = FAMILIES[NAME]
    size = truth.colour.shape[1]
    mesh = procedural_object(object_seed(HELD_OUT_SEED, number), cells=cells_for(size))
    ruler = EvaluateConfig(with_images=False)
    cameras = plan_trajectory(family, size).cameras_input_view_first()
    views = views_from_samples(cameras, painted[0], painted[1])
    depth = mesh.vertices[:, 2]
    prism = extruded(truth, views, (float(depth.min()), float(depth.max())))
    found: dict[str, float | str] = {
        "extruded": evaluate_mesh(prism, mesh, ruler).metrics["surface"]["cd_l1"]
    }
    started = time.perf_counter()
    try:
        config = FuseConfig(sdf=SdfFusionConfig(preset=bench.preset))
        fused = fuse_views(upscale(views, family.upscale), config)
    except Nova3DError as error:
        return {**found, "failed": error.message}
    found["seconds"] = time.perf_counter() - started
    found["fused"] = evaluate_mesh(fused.mesh, mesh, ruler).metrics["surface"]["cd_l1"]
    return found


def table(found: ValidationResult, meshes: list[dict], seconds: float) -> str:
    """Means and spreads, with the targets."""
    rows = ["| figure | mean | worst tenth | target |", "| --- | ---: | ---: | --- |"]
    for name, (title, target, word) in TARGETS.items():
        values = sorted(each[name] for each in found.objects if each[name] is not None)
        worst = values[-(len(values) // 10 + 1)] if word == "at most" else values[len(values) // 10]
        aim = "" if target is None else f"{word} {target:g}"
        rows.append(f"| {title} | {found.means[name]:.3f} | {worst:.3f} | {aim} |")
    rows.append(f"| seconds an object | {seconds:.2f} | | |")
    done = [each for each in meshes if "fused" in each]
    if done:
        ours = statistics.mean(each["fused"] for each in done)
        prism = statistics.mean(each["extruded"] for each in done)
        better = sum(each["fused"] < each["extruded"] for each in done)
        rows += [
            f"| CD of {len(done)} fused meshes | {ours:.4f} | | |",
            f"| CD of the extruded silhouettes | {prism:.4f} | | |",
            f"| ratio ({better} of {len(done)} closer) | {prism / ours:.2f} | | at least 2 |",
            f"| fusions that failed | {len(meshes) - len(done)} | | |",
        ]
    return "\n".join(rows) + "\n"


def main(bench: MiniBenchmark) -> None:
    model = model_of(bench)
    truths = held_out_objects(read_train_config("mini"), FAMILIES[NAME], bench.objects)
    started = time.perf_counter()
    found = validate(model, truths, OneDevice(model, torch.device("cpu")))
    seconds = (time.perf_counter() - started) / max(len(truths), 1)
    pairs = list(zip(truths, found.generated, strict=True))  # none was left out
    meshes = [
        fused_figures(bench, number, *pair) for number, pair in enumerate(pairs[: bench.fused])
    ]
    text = table(found, meshes, seconds)
    if bench.output is not None:
        document = {
            "settings": {k: str(v) for k, v in asdict(bench).items()},
            "means": found.means,
            "objects": [dict(metrics) for metrics in found.objects],
            "meshes": meshes,
        }
        write_figures(bench.output, document, text)
    print(text)


if __name__ == "__main__":
    main(tyro.cli(MiniBenchmark, description=__doc__))
