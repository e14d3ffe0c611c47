"""Images of a field while it is optimised."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from ..cameras.cameras import Cameras
from ..conventions import encode_normals
from .fields.base import Field
from .poses.pose_table import PoseTable
from .rays import rays_of

PREVIEW_PX = 128
EVERY_S = 1.0


class PreviewClock:
    """Says when a preview is due, at most every second, and of which view."""

    def __init__(self, every_s: float = EVERY_S):
        self._every_s, self._last, self._count = every_s, time.perf_counter(), 0

    def is_due(self) -> bool:
        """True if the last preview was offered long enough ago."""
        now = time.perf_counter()
        if now - self._last < self._every_s:
            return False
        self._last = now
        return True

    def next_view(self) -> int:
        """Goes round the object, one view a preview."""
        self._count += 1
        return self._count - 1


def preview_image(
    field: Field, cameras: Cameras, poses: PoseTable, index: int
) -> Callable[[], Tensor]:
    """A function that renders normals and colour of one view side by side, (H, 2 W, 3) in 0..1.

    Nothing is rendered before it is called; call it at once, as the field moves on.
    """
    view = index % len(cameras)

    def make() -> Tensor:
        scale = PREVIEW_PX / max(cameras.width, cameras.height)
        width, height = (max(1, round(n * scale)) for n in (cameras.width, cameras.height))
        small = cameras.resized(width, height)
        device = cameras.world_to_camera.device
        rows, columns = torch.meshgrid(
            torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
        )
        pixel = torch.stack([columns.reshape(-1), rows.reshape(-1)], dim=1) + 0.5
        which = torch.full((len(pixel),), view, device=device)
        rays = poses.moved(which, *rays_of(small, which, pixel))
        with torch.no_grad():
            rendered = field.render(*rays)
        white = (1.0 - rendered.opacity.detach())[:, None]
        normal = torch.nn.functional.normalize(rendered.gradient.detach(), dim=1)
        normal = encode_normals(normal) * (1.0 - white) + white
        colour = rendered.colour.detach() + white
        parts = [part.reshape(height, width, 3) for part in (normal, colour)]
        return torch.cat(parts, dim=1).clamp(0.0, 1.0).cpu()

    return make
