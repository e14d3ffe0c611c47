"""Quality and time of the model files on this machine, against a known mesh.

    python dev.py bench with_weights --folder ComfyUI/models --device cuda [-o results]

Finds the model files and, with each that can be sampled, generates the views of a mesh from its
rendered front view. All other views are compared with renderings of the mesh from the same cameras.
The front view is rendered by the model's own camera and keeps its framing, so that generated and
rendered views need no alignment. What was not found, and what failed, is listed too.

Without weights, the built-in model is measured alone.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from measure import machine
from results import ResultPage, Table, markdown_page, save_page
from torch import Tensor

from nova3d_core.cameras.cameras import Cameras
from nova3d_core.compute.devices import resolve_device
from nova3d_core.conventions import UpAxis
from nova3d_core.diffusion.families import FAMILIES, Family
from nova3d_core.diffusion.model import UNET, OneDevice
from nova3d_core.diffusion.sampling.config import SampleConfig, SamplerName
from nova3d_core.diffusion.sampling.pipeline import Sample, sample
from nova3d_core.diffusion.sampling.trajectory import plan_trajectory
from nova3d_core.errors import Nova3DError
from nova3d_core.evaluation.metrics.image import (
    mask_iou,
    mean_metrics,
    normal_error_deg,
    psnr,
    ssim,
)
from nova3d_core.io.images.images import write_image
from nova3d_core.io.mesh.read import read_mesh
from nova3d_core.mesh import Mesh
from nova3d_core.rendering.views import render_views
from nova3d_core.views import Views
from nova3d_core.weights.discovery.built_in import BUILT_IN_NAME, built_in_file, is_shipped
from nova3d_core.weights.discovery.locate import FoundFile, find_models, missing_files
from nova3d_core.weights.load import load_model

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[1]
MESH = ROOT / "nova3d_core" / "assets" / "character_knight.glb"
MIN_SSIM_PX = 11
"""Size of SSIM's window."""
COLUMNS = (
    ("model", ""),
    ("file", ""),
    ("size, GB", ".2f"),
    ("dtype", ""),
    ("views", ""),
    ("steps", ""),
    ("loading, s", ".1f"),
    ("sampling, s", ".1f"),
    ("GPU memory, GiB", ".1f"),
    ("PSNR of the colours, dB", ".2f"),
    ("SSIM", ".3f"),
    ("mask IoU", ".3f"),
    ("normal error °", ".1f"),
)


@dataclass(frozen=True)
class WithWeights:
    """Settings of the benchmark."""

    folder: tuple[Path, ...] = ()
    """Model folders; NOVA3D_MODELS, or those of ComfyUI, if none are given."""
    mesh: Path = MESH
    """The known mesh, upright and facing +Z."""
    up_axis: UpAxis = "+Y"
    """Up axis of the mesh."""
    device: str = "cpu"
    """Device of the models: cpu, cuda, cuda:1, mps."""
    elevation_deg: float = 0.0
    """Elevation of the camera of the front view."""
    steps: int | None = None
    """Denoising steps; each model's default if omitted."""
    sampler: SamplerName = "euler"
    """ODE solver."""
    size_px: int | None = None
    """Width and height of the views; each model's training size if omitted."""
    seed: int = 0
    """Random seed."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder for with_weights.json, with_weights.md and one image per row, with its
    number: the generated views above the rendered ones."""


def usable_files(found: Sequence[FoundFile]) -> list[FoundFile]:
    """The found files that can be sampled: with the UNet of a multi-view model."""
    return [
        file
        for file in found
        if file.problem is None
        and file.identity is not None
        and file.family in FAMILIES
        and UNET in file.identity.parts
    ]


def front_view(
    mesh: Mesh, family: Family, size_px: int, elevation_deg: float
) -> tuple[Tensor, Tensor]:
    """Image (S, S, 3) and mask (S, S) of the mesh from the family's camera of the input view."""
    trajectory = plan_trajectory(family, size_px, elevation_deg)
    views = render_views(mesh, trajectory.cameras_input_view_first()[0]).views
    return views.colour[0], views.masks[0]


def unseen_view_metrics(generated: Views, reference: Views) -> dict[str, float | None]:
    """Means over all views but the first, which is the input; metrics that need masks or normals
    which the model does not generate are None."""
    generated, reference = generated.with_world_normals(), reference.with_world_normals()
    rows: list[dict[str, float | None]] = []
    for view in range(1, len(generated)):
        colours = generated.colour[view], reference.colour[view]
        row: dict[str, float | None] = {"psnr": psnr(*colours), "ssim": None}
        if min(colours[0].shape[:2]) >= MIN_SSIM_PX:
            row["ssim"] = ssim(*colours)
        row["mask_iou"] = row["normal_error_deg"] = None
        if generated.masks is not None:
            row["mask_iou"] = mask_iou(generated.masks[view], reference.masks[view])
        if generated.normals is not None:
            inside = reference.masks[view] > 0.5
            normals = generated.normals[view], reference.normals[view]
            row["normal_error_deg"] = normal_error_deg(*normals, inside)
        rows.append(row)
    return mean_metrics(rows)


def measure(bench: WithWeights, file: FoundFile, mesh: Mesh) -> tuple[list[Any], Sample]:
    """A row of the table, and the sample of one file."""
    device = resolve_device(bench.device)
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    start = time.perf_counter()
    load_dtype = None if device.type == "cpu" else dtype
    model = load_model(file.path, dtype=load_dtype, folders=bench.folder)
    loading = time.perf_counter() - start
    family = model.family
    config = SampleConfig(
        seed=bench.seed,
        steps=bench.steps,
        sampler=bench.sampler,
        size_px=bench.size_px,
        framing="image",
        elevation_deg=bench.elevation_deg,
    )
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    size_px = bench.size_px or family.size_px
    image, mask = front_view(mesh, family, size_px, bench.elevation_deg)
    start = time.perf_counter()
    result = sample(model, image, mask, config, placement=OneDevice(model, device, dtype))
    seconds = time.perf_counter() - start
    memory = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
    views = result.views.to("cpu")
    metrics = unseen_view_metrics(views, rendered(mesh, views.cameras))
    row = [
        family.label,
        file.path.name,
        file.bytes / 1e9,
        str(dtype).removeprefix("torch."),
        f"{family.views} of {size_px} px",
        str(bench.steps or family.steps),
        loading,
        seconds,
        memory,
        *(metrics[name] for name in ("psnr", "ssim", "mask_iou", "normal_error_deg")),
    ]
    return row, result


def rendered(mesh: Mesh, cameras: Cameras) -> Views:
    """The mesh from the cameras of the generated views."""
    return render_views(mesh, cameras).views


def save_comparison(folder: Path, name: str, generated: Views, reference: Views) -> None:
    """Writes an image of the generated views above the rendered ones."""
    rows = [torch.cat(list(views.colour), dim=1) for views in (generated, reference)]
    name = re.sub(r"[^\w.-]+", "_", name)
    write_image(folder / f"with_weights_{name}.png", torch.cat(rows), overwrite=True)


def missing_families(found: Sequence[FoundFile]) -> list[str]:
    """One sentence for each family without a usable file, naming the published ones."""
    present = {file.family for file in usable_files(found)}
    sentences = []
    for family in FAMILIES.values():
        if family.name in present or family.name == BUILT_IN_NAME:
            continue
        files = [each for each in missing_files(found) if each.family == family.name]
        names = ", ".join(f"{each.source}/{each.file}" for each in files)
        published = f": {names}" if names else "; no weights are published"
        sentences.append(f"{family.label}: not found{published}.")
    return sentences


def described(file: FoundFile, problem: str, folders: Sequence[Path]) -> str:
    """A problem with the name of its file, without the folders of this machine."""
    problem = problem.replace(str(file.path), "it")
    for folder in (*file.path.parents[:2], *folders):
        if folder.name:
            problem = problem.replace(f"{folder}{os.sep}", "").replace(str(folder), folder.name)
    return f"{file.path.name}: {problem}"


def measured_page(bench: WithWeights) -> ResultPage:
    """Measures all files; errors of one file are listed and do not stop the others."""
    resolve_device(bench.device)
    mesh = read_mesh(bench.mesh, bench.up_axis).normalised()
    found = find_models(bench.folder)
    files = usable_files(found)
    if is_shipped():
        files = [*usable_files(find_models([built_in_file()])), *files]
    rows, failures = [], []
    for file in files:
        try:
            row, result = measure(bench, file, mesh)
        except Nova3DError as error:
            failures.append(described(file, str(error), bench.folder))
            continue
        except Exception as error:  # such as memory that ran out: other files may fit
            logger.warning("measuring %s failed.", file.path, exc_info=error)
            reason = (str(error).splitlines() or [""])[0]
            failures.append(described(file, f"{type(error).__name__}: {reason}", bench.folder))
            continue
        rows.append(row)
        if bench.output is not None:
            views = result.views.to("cpu")
            save_comparison(
                bench.output, f"{len(rows)}_{file.path.stem}", views, rendered(mesh, views.cameras)
            )
    unusable = [described(file, file.problem, bench.folder) for file in found if file.problem]
    return ResultPage(
        title="Model files on this machine",
        summary=f"Views generated from the rendered front view of {bench.mesh.name} at an "
        f"elevation of {bench.elevation_deg:g} degrees, compared with renderings from the same "
        "cameras: means over all views but the input. Colours are compared on white, without "
        "alignment; the camera distance of SV3D is not published, which lowers its figures.",
        tables=[
            Table(COLUMNS, rows, "Measured", notes=failures),
            Table(
                [("not measured", "")],
                [[line] for line in (*missing_families(found), *unusable)] or [["-"]],
                "Not found",
            ),
        ],
        command="python dev.py bench with_weights --device " + bench.device,
        machine={**machine(), **device_name(bench.device)},
        date=time.strftime("%Y-%m-%d"),
        details={"sampler": bench.sampler, "seed": bench.seed},
    )


def device_name(device: str) -> dict[str, str]:
    """The GPU's name, for the page."""
    if not device.startswith("cuda"):
        return {}
    return {"device": torch.cuda.get_device_name(resolve_device(device))}


def main(bench: WithWeights) -> None:
    if bench.output is not None:
        bench.output.mkdir(parents=True, exist_ok=True)
    try:
        page = measured_page(bench)
    except Nova3DError as error:
        raise SystemExit(str(error)) from error
    if bench.output is not None:
        save_page(bench.output, "with_weights", page)
    print(markdown_page(page, "with_weights.json"))


if __name__ == "__main__":
    main(tyro.cli(WithWeights, description=__doc__))
