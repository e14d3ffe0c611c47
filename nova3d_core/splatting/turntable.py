"""Turntable animations of splats: colour and depth side by side."""

from __future__ import annotations

import torch
from torch import Tensor

from ..cameras.cameras import orbit_cameras
from ..cameras.rigs import RigConfig
from ..progress import SILENT, Progress
from ..rendering.turntable import TURNTABLE_RIG
from ..splats import Splats
from .render import depth_images, splat_views_with_depth


def splat_turntable(
    splats: Splats, rig: RigConfig | None = None, progress: Progress = SILENT
) -> Tensor:
    """Frames (V, H, 2 W, 3) in 0..1 of one orbit around splats: colour left, depth right.

    Args:
        splats: N splats; they are centred and scaled to fill the image.
        rig: one camera per frame; by default that of `rendering.turntable.turntable`.
        progress: receives each frame.
    """
    cameras = orbit_cameras(rig or TURNTABLE_RIG)
    result = splat_views_with_depth(splats.normalised(), cameras, progress=progress)
    covered = result.views.masks[..., None]
    depths = depth_images(result.depths) * covered + (1.0 - covered)
    return torch.cat([result.views.colour, depths], dim=2)
