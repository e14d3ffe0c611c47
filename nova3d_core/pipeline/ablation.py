"""Ablation study of the fusion: the same views fused with one component disabled at a time.

All variants use the same views and the same reference, so each row differs from "full" only in the
component that its name states.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..cameras.cameras import cameras_at
from ..cameras.rigs import RigConfig
from ..errors import InputError, StageError
from ..evaluation.comparison_grid import TITLE_PX, comparison_grid
from ..evaluation.config import EvaluateConfig
from ..evaluation.metrics.conflict import conflict_metrics
from ..evaluation.metrics.poses import pose_motion
from ..evaluation.protocol import evaluate_mesh, normalised_reference
from ..evaluation.report import COLUMNS, Report
from ..mesh import Mesh
from ..progress import SILENT, Progress
from ..rendering.config import RenderConfig
from ..rendering.views import Rendering, render_views
from ..views import Views
from .config import FuseConfig
from .fuse import fuse_views
from .stages import FusionResult, ensure_masks

logger = logging.getLogger(__name__)

FULL = "full"
VARIANTS: dict[str, dict[str, Any]] = {
    FULL: {},
    "without-conflict": {"sdf.conflict.mode": "off"},
    "robust-instead": {"sdf.conflict.mode": "robust"},
    "without-poses": {"sdf.refine_poses": False},
    "without-normals": {"sdf.losses.normal": 0.0, "sdf.use_normals": False},
    "without-hull-start": {"sdf.init": "sphere"},
}
"""Name of the variant -> fusion settings that it overrides."""

HEADINGS = (
    "CD-L1",
    "IoU",
    "visible CD-L1",
    "visible F@.005",
    "PSNR el 0",
    "PSNR el ±25",
    "normal error °",
)
"""Metrics shown in the table, by their column headings."""
GRID_AZIMUTHS_DEG, GRID_ELEVATIONS_DEG = (11.25, 225.0), (0.0, 25.0)
"""Poses of the image grid: near the front, and behind and above. Neither is in the default rig."""


@dataclass(frozen=True)
class VariantResult:
    """Result of one variant."""

    report: Report | None
    """Its metrics; None if the fusion failed."""
    fuse_seconds: float
    """Wall time from views to mesh."""
    pose_change: dict[str, Any] | None = None
    """How far pose refinement moved the views; None if the method does not refine poses."""
    conflict_mean: float | None = None
    """Mean conflict over the foreground of all views; None without conflict maps."""
    failure: str = ""
    """Error message of a failed fusion."""

    def to_dict(self) -> dict[str, Any]:
        """The result as plain containers."""
        report = None if self.report is None else self.report.to_dict()
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {**fields, "report": report}


@dataclass(frozen=True, eq=False)
class Ablation:
    """Results of all variants and an image grid of them."""

    results: dict[str, VariantResult]
    grid: Tensor
    """(H, W, 3) in 0..1: one row per successful variant, next to the reference."""

    def to_dict(self) -> dict[str, Any]:
        """The results as plain containers."""
        return {name: result.to_dict() for name, result in self.results.items()}

    def table(self) -> str:
        """Markdown table with one row per variant; failures are listed below it."""
        columns = [column for column in COLUMNS if column[0] in HEADINGS]
        extra = ["pose change °, median", "mean H", "fuse s"]
        rows = [["variant", *(heading for heading, *_ in columns), *extra]]
        rows.append(["---"] + ["---:"] * (len(rows[0]) - 1))
        for name, result in self.results.items():
            metrics = result.report.metrics if result.report else {}
            cells = [_cell(metrics.get(part, {}).get(key), f) for _, part, key, f in columns]
            pose_change = (result.pose_change or {}).get("rotation_deg_median")
            cells += [_cell(pose_change, ".2f"), _cell(result.conflict_mean, ".3f")]
            rows.append([display_name(name), *cells, f"{result.fuse_seconds:.1f}"])
        text = "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"
        failed = [
            f"\n{display_name(name)} failed: {result.failure}\n"
            for name, result in self.results.items()
            if result.failure
        ]
        return text + "".join(failed)


def ablation_configs(config: FuseConfig, variants: Sequence[str] = ()) -> dict[str, FuseConfig]:
    """Fusion settings of each variant.

    Args:
        config: settings of "full"; the others override them as listed in `VARIANTS`.
        variants: names to include; empty means all.

    Raises:
        InputError: unknown variant, or a fusion method without these components.
    """
    unknown = sorted(set(variants) - set(VARIANTS))
    if unknown:
        raise InputError(
            f"variant '{unknown[0]}' is unknown.", f"Choose from {', '.join(VARIANTS)}."
        )
    if config.method == "hull":
        raise InputError(
            "fuse method is 'hull', which has no components to disable.", "Use another method."
        )
    configs: dict[str, FuseConfig] = {}
    for name in VARIANTS:
        if name in variants or not variants:
            variant = config
            for path, value in VARIANTS[name].items():
                variant = _with_setting(variant, path.split("."), value)
            configs[name] = variant
    return configs


def ablate(
    views: Views,
    reference: Mesh,
    configs: Mapping[str, FuseConfig],
    evaluate: EvaluateConfig | None = None,
    progress: Progress = SILENT,
) -> Ablation:
    """Fuses the same views with each variant and evaluates the resulting meshes.

    A failed fusion is recorded as the variant's result; the remaining variants still run.

    Args:
        views: two or more.
        reference: mesh of the true shape, see `evaluate_mesh`.
        configs: name of the variant -> its settings, see `ablation_configs`.
        evaluate: evaluation settings.
        progress: receives each step of each variant, prefixed with the variant's name.

    Raises:
        InputError: unusable views or reference, or no variants.
        StageError: every variant failed; the error of the first.
        Cancelled: cancelled through `progress`.
    """
    if not configs:
        raise InputError("an ablation needs variants, but there are none.")
    evaluate = evaluate or EvaluateConfig()
    views = ensure_masks(views)
    truth = _render(normalised_reference(reference, evaluate.reference_up_axis), evaluate)
    results: dict[str, VariantResult] = {}
    images: list[Tensor] = []
    first_error: StageError | None = None
    for name, config in configs.items():
        prefixed = _prefixed(progress, display_name(name))
        start = time.perf_counter()
        try:
            fused = fuse_views(views, config, prefixed)
        except StageError as error:
            logger.warning("%s failed: %s", display_name(name), error)
            first_error = first_error or error
            results[name] = VariantResult(None, time.perf_counter() - start, failure=str(error))
            continue
        seconds = time.perf_counter() - start
        report = evaluate_mesh(fused.mesh, reference, evaluate, prefixed)
        results[name] = VariantResult(report, seconds, *_surface_metrics(fused, views))
        rendering = _render(fused.mesh, evaluate, prefixed)
        images.append(_grid_row(display_name(name), truth, rendering))
    if not images and first_error is not None:
        raise first_error
    return Ablation(results, torch.cat(images))


def display_name(name: str) -> str:
    """Name of a variant in tables and messages."""
    return name.replace("-", " ")


def _with_setting(config: Any, path: Sequence[str], value: Any) -> Any:
    """Copy of nested settings with the field at `path` replaced."""
    first, *rest = path
    if rest:
        value = _with_setting(getattr(config, first), rest, value)
    return dataclasses.replace(config, **{first: value})


def _prefixed(progress: Progress, name: str) -> Progress:
    """A progress that prefixes each stage with a name."""
    return progress.with_reports(
        lambda event: progress.update(
            f"{name}: {event.stage}", event.step, event.total, event.preview
        ),
        name,
    )


def _surface_metrics(
    fused: FusionResult, views: Views
) -> tuple[dict[str, Any] | None, float | None]:
    """Pose change and mean conflict; both None for methods without an optimised surface."""
    surface = getattr(fused, "surface", None)
    if surface is None or surface.is_hull:
        return None, None
    pose_change = pose_motion(views.cameras, surface.cameras).to_dict()
    no_blobs = torch.zeros_like(surface.conflict, dtype=torch.bool)
    return pose_change, conflict_metrics(surface.conflict, no_blobs, views.masks).mean


def _render(mesh: Mesh, evaluate: EvaluateConfig, progress: Progress = SILENT) -> Rendering:
    """Renders a mesh from the grid's poses."""
    rig = RigConfig(width_px=evaluate.image_px, height_px=evaluate.image_px)
    cameras = cameras_at(GRID_AZIMUTHS_DEG, GRID_ELEVATIONS_DEG, rig)
    return render_views(mesh.to("cpu"), cameras, RenderConfig(evaluate.supersample), progress)


def _grid_row(name: str, truth: Rendering, result: Rendering) -> Tensor:
    """Row of one variant (H, W, 3): its name above the comparison images of all poses."""
    poses = [comparison_grid(truth, result, rows=[view]) for view in range(len(truth.views))]
    row = torch.cat(poses, dim=1)
    return torch.cat([_title(name, row.shape[1]), row])


def _title(text: str, width: int) -> Tensor:
    """Black text on white (18, width, 3)."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (width, TITLE_PX), "white")
    ImageDraw.Draw(image).text((4, 3), text.upper(), fill="black", font=ImageFont.load_default())
    return torch.from_numpy(np.array(image)).float() / 255.0


def _cell(value: Any, format_spec: str) -> str:
    return "-" if value is None else format(value, format_spec)
