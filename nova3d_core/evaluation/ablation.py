"""What each part of the fusion is worth: the same views fused with one part after another left out.

Every variant gets the same views and is measured against the same reference, so a row differs from
"full" by the part that its name says, and by nothing else.
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
from ..mesh import Mesh
from ..pipeline.config import FuseConfig
from ..pipeline.fuse import fuse_views
from ..pipeline.stages import FusionResult, with_masks
from ..progress import SILENT, Progress
from ..rendering.config import RenderConfig
from ..rendering.views import Rendering, render_views
from ..views import Views
from .comparison_grid import TITLE_PX, comparison_sheet
from .config import EvaluateConfig
from .metrics.conflict import conflict_auc
from .metrics.poses import pose_motion
from .protocol import evaluate_mesh, normalised_reference
from .report import COLUMNS, Report

logger = logging.getLogger(__name__)

FULL = "full"
VARIANTS: dict[str, dict[str, Any]] = {
    FULL: {},
    "without-conflict": {"sdf.conflict.mode": "off"},
    "robust-instead": {"sdf.conflict.mode": "robust"},
    "without-poses": {"sdf.poses.refine": False},
    "without-normals": {"sdf.loss.normal": 0.0, "sdf.use_normals": False},
    "without-hull-start": {"sdf.start": "sphere"},
}
"""Name of the variant -> the settings of the fusion that it changes."""

HEADINGS = (
    "CD-L1",
    "IoU",
    "visible CD-L1",
    "visible F@.005",
    "PSNR el 0",
    "PSNR el ±25",
    "normal error °",
)
"""The ruler's columns that the table shows."""
SHEET_AZIMUTHS_DEG, SHEET_ELEVATIONS_DEG = (11.25, 225.0), (0.0, 25.0)
"""The sheet looks from near the front and from behind above, where the default rig has no view."""


@dataclass(frozen=True)
class Outcome:
    """What one variant gave."""

    report: Report | None
    """Its figures; None where the fusion failed."""
    fuse_seconds: float
    """Wall time from views to mesh."""
    moved: dict[str, Any] | None = None
    """How far pose refinement moved the views; None where the fusion has no poses of its own."""
    conflict_mean: float | None = None
    """Mean conflict over the foreground of all views; None without conflict maps."""
    failure: str = ""
    """Why there are no figures."""

    def to_dict(self) -> dict[str, Any]:
        """The outcome as plain containers."""
        report = None if self.report is None else self.report.to_dict()
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {**fields, "report": report}


@dataclass(frozen=True, eq=False)
class Ablation:
    """The outcomes of all variants and an image of them."""

    outcomes: dict[str, Outcome]
    sheet: Tensor
    """(H, W, 3) in 0..1: a row for each variant that did not fail, beside the truth."""

    def to_dict(self) -> dict[str, Any]:
        """The outcomes as plain containers."""
        return {name: outcome.to_dict() for name, outcome in self.outcomes.items()}

    def table(self) -> str:
        """A Markdown table with one row a variant; failures stand below it."""
        columns = [column for column in COLUMNS if column[0] in HEADINGS]
        more = ["moved °, median", "mean H", "fuse s"]
        rows = [["variant", *(heading for heading, *_ in columns), *more]]
        rows.append(["---"] + ["---:"] * (len(rows[0]) - 1))
        for name, outcome in self.outcomes.items():
            figures = outcome.report.figures if outcome.report else {}
            cells = [_cell(figures.get(part, {}).get(key), f) for _, part, key, f in columns]
            moved = (outcome.moved or {}).get("rotation_deg_median")
            cells += [_cell(moved, ".2f"), _cell(outcome.conflict_mean, ".3f")]
            rows.append([spoken(name), *cells, f"{outcome.fuse_seconds:.1f}"])
        text = "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"
        failed = [
            f"\n{spoken(name)} failed: {outcome.failure}\n"
            for name, outcome in self.outcomes.items()
            if outcome.failure
        ]
        return text + "".join(failed)


def ablation_configs(config: FuseConfig, variants: Sequence[str] = ()) -> dict[str, FuseConfig]:
    """The settings of each variant.

    Args:
        config: the settings of "full"; the others differ from it as `VARIANTS` says.
        variants: only these; all without any.

    Raises:
        InputError: an unknown variant, or a fusion that has no such parts.
    """
    unknown = sorted(set(variants) - set(VARIANTS))
    if unknown:
        raise InputError(f"variant '{unknown[0]}' is unknown.", f"Known are {', '.join(VARIANTS)}.")
    if config.method == "hull":
        raise InputError(
            "fuse method is 'hull', which has no parts to leave out.", "Use another method."
        )
    configs: dict[str, FuseConfig] = {}
    for name in VARIANTS:
        if name in variants or not variants:
            changed = config
            for path, value in VARIANTS[name].items():
                changed = _with_setting(changed, path.split("."), value)
            configs[name] = changed
    return configs


def ablate(
    views: Views,
    reference: Mesh,
    configs: Mapping[str, FuseConfig],
    evaluate: EvaluateConfig | None = None,
    progress: Progress = SILENT,
) -> Ablation:
    """Fuses the same views under each variant and measures what comes out.

    A variant whose fusion fails is a result too: its row says why, and the others go on.

    Args:
        views: two or more.
        reference: the truth, as `evaluate_mesh` takes it.
        configs: name of the variant -> its settings, as `ablation_configs` makes them.
        evaluate: how the meshes are measured.
        progress: told about each step of each variant, under the variant's name.

    Raises:
        InputError: views or reference cannot be used, or there are no variants.
        StageError: every variant failed; the first one's error.
        Cancelled: if so asked.
    """
    if not configs:
        raise InputError("an ablation needs variants, but there are none.")
    evaluate = evaluate or EvaluateConfig()
    views = with_masks(views)
    truth = _rendered(normalised_reference(reference, evaluate.reference_up_axis), evaluate)
    outcomes: dict[str, Outcome] = {}
    images: list[Tensor] = []
    first_error: StageError | None = None
    for name, config in configs.items():
        told = _under_name(progress, spoken(name))
        start = time.perf_counter()
        try:
            fused = fuse_views(views, config, told)
        except StageError as error:
            logger.warning("%s failed: %s", spoken(name), error)
            first_error = first_error or error
            outcomes[name] = Outcome(None, time.perf_counter() - start, failure=str(error))
            continue
        seconds = time.perf_counter() - start
        report = evaluate_mesh(fused.mesh, reference, evaluate, told)
        outcomes[name] = Outcome(report, seconds, *_surface_figures(fused, views))
        rendering = _rendered(fused.mesh, evaluate, told)
        images.append(_sheet_row(spoken(name), truth, rendering))
    if not images and first_error is not None:
        raise first_error
    return Ablation(outcomes, torch.cat(images))


def spoken(name: str) -> str:
    """A variant's name as people read it."""
    return name.replace("-", " ")


def _with_setting(config: Any, path: Sequence[str], value: Any) -> Any:
    """The same settings with the one at a path of field names replaced."""
    first, *rest = path
    if rest:
        value = _with_setting(getattr(config, first), rest, value)
    return dataclasses.replace(config, **{first: value})


def _under_name(progress: Progress, name: str) -> Progress:
    """A progress that puts a name before each stage."""

    def is_cancelled() -> bool:
        progress.check(name)  # raises if so asked
        return False

    return Progress(
        lambda event: progress.update(
            f"{name}: {event.stage}", event.step, event.total, event.preview
        ),
        is_cancelled,
    )


def _surface_figures(
    fused: FusionResult, views: Views
) -> tuple[dict[str, Any] | None, float | None]:
    """How far the poses moved, and the mean conflict; None where the fusion tells neither."""
    surface = getattr(fused, "surface", None)
    if surface is None or surface.report.steps == 0:
        return None, None
    moved = pose_motion(views.cameras, surface.cameras).to_dict()
    nowhere = torch.zeros_like(surface.conflict, dtype=torch.bool)
    return moved, conflict_auc(surface.conflict, nowhere, views.masks).mean


def _rendered(mesh: Mesh, evaluate: EvaluateConfig, progress: Progress = SILENT) -> Rendering:
    """A mesh from the sheet's poses."""
    rig = RigConfig(width_px=evaluate.image_px, height_px=evaluate.image_px)
    cameras = cameras_at(SHEET_AZIMUTHS_DEG, SHEET_ELEVATIONS_DEG, rig)
    return render_views(mesh.to("cpu"), cameras, RenderConfig(evaluate.supersample), progress)


def _sheet_row(name: str, truth: Rendering, result: Rendering) -> Tensor:
    """One variant's row (H, W, 3): its name, and below it, pose beside pose, truth and result."""
    poses = [comparison_sheet(truth, result, rows=[view]) for view in range(len(truth.views))]
    row = torch.cat(poses, dim=1)
    return torch.cat([_title(name, row.shape[1]), row])


def _title(text: str, width: int) -> Tensor:
    """Black text on white (18, width, 3)."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (width, TITLE_PX), "white")
    ImageDraw.Draw(image).text((4, 3), text.upper(), fill="black", font=ImageFont.load_default())
    return torch.from_numpy(np.array(image)).float() / 255.0


def _cell(value: Any, number_format: str) -> str:
    return "-" if value is None else format(value, number_format)
