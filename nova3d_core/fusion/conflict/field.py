"""H of eq. 4 as in the paper: the field's network f_psi, rendered along the rays."""

from __future__ import annotations

import torch
from torch import Tensor

from ...cameras.cameras import Cameras
from ...progress import Progress
from ..config import ConflictConfig
from ..fields.base import ConflictRenderer
from ..poses.pose_table import PoseTable
from ..rays import RayDataset
from .model import ConflictModel

_STAGE = "rendering conflict maps"
_STEPS_PER_RENDER = 2
"""Adam steps of f_psi on the same rays: it is cheap, and needs more of them than the surface."""


class ConflictField(ConflictModel):
    """H_p = sum w_i f_psi(f_c, f_g, d(v), l, x_i), optimised with eq. 5 together with the surface.

    `at` and `step` take the rays of the field's last `render`.

    Args:
        cameras: V views.
        config: schedule of lambda0, limits.
        field: the field with the network.
        rays: all rays of the fusion under the input poses; H is 0 elsewhere.
        poses: motions of the views.
        chunk_size: rays that `maps` renders together.
    """

    def __init__(
        self,
        cameras: Cameras,
        config: ConflictConfig,
        field: ConflictRenderer,
        rays: RayDataset,
        poses: PoseTable,
        chunk_size: int,
    ):
        super().__init__(cameras, config)
        self._field, self._rays, self._poses = field, rays, poses
        self._chunk_size = chunk_size
        self._last_conflict = torch.zeros_like(self._distances)
        """H of each pixel when it was last sampled."""

    def fitted(self, view: Tensor, pixel: Tensor, done: float) -> Tensor:
        """(R,) H at any pixels (R, 2) of views (R,) when they were last sampled."""
        if done < self._config.start_fraction:
            return torch.zeros_like(pixel[:, 0])
        return self._last_conflict.view(-1).index_select(0, self._flat_index(view, pixel))

    def _estimate(self, view: Tensor, pixel: Tensor) -> Tensor:
        return self._field.render_conflict(view).detach()

    def _fit(
        self, view: Tensor, pixel: Tensor, distance: Tensor, mask: Tensor, lambda0: float
    ) -> None:
        for _ in range(_STEPS_PER_RENDER):
            conflict = self._field.render_conflict(view)
            values = conflict.detach()
            grad_conflict = self._grad_conflict(view, values, distance, mask, lambda0)
            self._field.step_conflict(conflict, grad_conflict)
        limited = self._limit_front_view(values, view)
        self._last_conflict.view(-1).index_copy_(0, self._flat_index(view, pixel), limited)

    def _final_maps(self, progress: Progress) -> Tensor:
        maps = torch.zeros_like(self._distances)
        chunks = torch.arange(len(self._rays), device=maps.device).split(self._chunk_size)
        with torch.no_grad():
            for ids in chunks:
                progress.check(_STAGE)
                rays = self._rays.at(ids)
                moved = self._poses.transform_rays(rays.view, rays.origin, rays.direction)
                self._field.render(*moved)
                conflict = self._field.render_conflict(rays.view)
                maps.view(-1).index_copy_(0, self._flat_index(rays.view, rays.pixel), conflict)
        return maps
