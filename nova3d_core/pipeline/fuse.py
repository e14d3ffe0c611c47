"""The whole fusion pipeline, from views to a textured mesh."""

from __future__ import annotations

import torch

from ..progress import SILENT, Progress
from ..views import Views
from .config import FuseConfig
from .stages import FusionResult, StageTimer, bake_views, extract_mesh, fuse_to_surface


def fuse_views(
    views: Views,
    config: FuseConfig | None = None,
    progress: Progress = SILENT,
    device: torch.device | str = "cpu",
) -> FusionResult:
    """Fuses views into a textured mesh in the world frame of their cameras.

    Args:
        views: at least two; views without masks get mattes from their white background.
        config: settings of all stages.
        progress: reports each step of each stage.
        device: the device of the optimisation.

    Raises:
        InputError: the views cannot be fused, e.g. a mask is empty.
        StageError: a stage failed; the error names it.
    """
    config, timer = config or FuseConfig(), StageTimer()
    surface, refined = fuse_to_surface(views, config, progress, device, timer)
    mesh = extract_mesh(surface, config.meshing, progress=progress, timer=timer)
    return bake_views(
        mesh,
        refined,
        config,
        surface,
        keep_uv=False,
        progress=progress,
        timer=timer,
        check_fit=False,  # the mesh was made from these views
    )
