"""Preview images of a field during optimisation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from ..cameras.cameras import Cameras
from ..cameras.pixels import pixel_centres
from ..conventions import encode_normals
from .fields.base import Field
from .poses.pose_table import PoseTable
from .rays import rays_of

PREVIEW_PX = 128
PREVIEW_INTERVAL_S = 1.0


class PreviewClock:
    """Schedules previews, the first at once, then at most one per second, and their views."""

    def __init__(self, interval_s: float = PREVIEW_INTERVAL_S):
        self._interval_s, self._last, self._count = interval_s, -math.inf, 0

    def is_due(self) -> bool:
        """Whether there was no preview for the interval; if so, restarts it."""
        now = time.perf_counter()
        if now - self._last < self._interval_s:
            return False
        self._last = now
        return True

    def next_view(self) -> int:
        """Index of the next preview's view, one after the other."""
        self._count += 1
        return self._count - 1


def preview_image(
    field: Field, cameras: Cameras, poses: PoseTable, index: int
) -> Callable[[], Tensor]:
    """Deferred rendering of normals and colour of one view side by side, (H, 2 W, 3) in 0..1.

    Nothing is rendered until the returned function is called, which shows the field at that time.
    """
    view = index % len(cameras)

    def render() -> Tensor:
        scale = PREVIEW_PX / max(cameras.width, cameras.height)
        width, height = (max(1, round(n * scale)) for n in (cameras.width, cameras.height))
        small = cameras.resized(width, height)
        device = cameras.world_to_camera.device
        pixel = pixel_centres(height, width, device).reshape(-1, 2)
        which = torch.full((len(pixel),), view, device=device)
        rays = poses.transform_rays(which, *rays_of(small, which, pixel))
        with torch.no_grad():
            rendered = field.render(*rays, with_backward=False)
        white = (1.0 - rendered.opacity.detach())[:, None]
        normal = torch.nn.functional.normalize(rendered.gradient.detach(), dim=1)
        normal = encode_normals(normal) * (1.0 - white) + white
        colour = rendered.colour.detach() + white
        parts = [part.reshape(height, width, 3) for part in (normal, colour)]
        return torch.cat(parts, dim=1).clamp(0.0, 1.0).cpu()

    return render
