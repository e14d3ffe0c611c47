"""Evaluation of splats by their images; metrics of geometry do not apply to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..cameras.cameras import Cameras
from ..errors import InputError
from ..evaluation.config import EvaluateConfig
from ..evaluation.protocol import evaluate_renders
from ..evaluation.report import Report
from ..mesh import Mesh
from ..perceptual.lpips import Lpips
from ..progress import SILENT, Progress
from ..rendering.views import Rendering
from ..splats import Splats
from .render import splat_views_with_depth

NO_GEOMETRY = "No distances, volume or normals: splats have no surface, only their images count."
_NOTES = {
    "none": "The reference is centred, its longest side is 1. The splats are not aligned.",
    "bbox": "The reference and the splats are centred, the longest side of each is 1.",
}


def evaluate_splats(
    splats: Splats,
    reference: Mesh,
    config: EvaluateConfig | None = None,
    progress: Progress = SILENT,
    lpips_nets: Sequence[Lpips] = (),
) -> tuple[Report, Tensor]:
    """Compares images of splats with those of a mesh, from the poses of `evaluate_mesh`.

    Args:
        splats: +Y up, fitted to views of the normalised reference (or see `align`).
        reference: the true shape, as for `evaluate_mesh`.
        config: its image and reference settings, and `align` (none or bbox).
        progress: receives each step.
        lpips_nets: as for `evaluate_mesh`.

    Returns:
        The report with PSNR, SSIM, mask IoU and LPIPS, and a comparison grid (H, W, 3).

    Raises:
        InputError: settings that need a surface; splats or a mesh without extent.
        Cancelled: cancelled through `progress`.
    """
    config = config or EvaluateConfig()
    if config.protocol != "strict" or not config.with_images or config.align not in _NOTES:
        raise InputError(
            "splats are evaluated by their images alone: they need the protocol strict, images, "
            "and the alignment none or bbox.",
            "Change these settings, or evaluate a mesh that was fused from renders of the splats.",
        )
    splats = splats.normalised() if config.align == "bbox" else splats

    def render(cameras: Cameras) -> Rendering:
        result = splat_views_with_depth(splats, cameras, progress=progress)
        depth_z = torch.where(result.depths > 0, result.depths, torch.inf)
        return Rendering(result.views, depth_z)

    report, grid = evaluate_renders(render, reference, config, progress, lpips_nets)
    return replace(report, notes=(_NOTES[config.align], NO_GEOMETRY, *report.notes)), grid
