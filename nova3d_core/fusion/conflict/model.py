"""Conflict between views: eq. 5 and its schedule, which both estimates of H share; exposures.

Two classes estimate H, with the same methods: `ConflictMaps` as a map per view, for any field, and
`ConflictField` with the network of eq. 4, rendered along the rays, for fields that have one. No
gradient of either reaches geometry or colour.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...cameras.cameras import Cameras
from ...progress import SILENT, Progress
from ..config import ConflictConfig
from ..losses import free_conflict

_BUDGET_WEIGHT = 4.0
_GAIN_MOMENTUM = 0.8
_GAIN_PRIOR = 0.02
"""Weight of the prior gain of 1, relative to a view's pixels."""
_GAIN_RANGE = (0.6, 1.6)


class ConflictModel:
    """H of all views, optimised with eq. 5 together with the surface; exposure gains.

    The modes "robust" and "off" need no estimate of H and are complete here.

    Args:
        cameras: V views.
        config: mode, schedule of lambda0, limits.
    """

    def __init__(self, cameras: Cameras, config: ConflictConfig):
        device = cameras.world_to_camera.device
        self._config = config
        self._distances = torch.zeros(len(cameras), cameras.height, cameras.width, device=device)
        """Colour distance of each pixel when it was last sampled."""
        self.gains = torch.ones(len(cameras), 3, device=device)
        """(V, 3) exposure of each view relative to view 0."""

    def lambda0(self, done: float) -> float:
        """lambda0 after a fraction of all steps; decays exponentially once H may grow."""
        config = self._config
        progress = min(
            max((done - config.start_fraction) / max(1.0 - config.start_fraction, 1e-6), 0.0), 1.0
        )
        return config.lambda0_start * (config.lambda0_end / config.lambda0_start) ** progress

    @property
    def needs_distance(self) -> bool:
        """Whether `at` depends on the colour distance."""
        return self._config.mode == "robust"

    def at(self, view: Tensor, pixel: Tensor, distance: Tensor | None, done: float) -> Tensor:
        """(R,) H at pixels (R, 2) of views (R,), given the colour distance (R,) if needed.

        In the mode "field" these must be the rays of the field's last `render`.
        """
        config = self._config
        if config.mode == "off" or done < config.start_fraction:
            return torch.zeros_like(pixel[:, 0])
        if config.mode == "robust":
            return free_conflict(distance, self.lambda0(done))
        return self._limit_front_view(self._estimate(view, pixel), view)

    def fitted(self, view: Tensor, pixel: Tensor, done: float) -> Tensor:
        """(R,) H at any pixels (R, 2) of views (R,), from what was learned so far."""
        distance = self._distances.view(-1).index_select(0, self._flat_index(view, pixel))
        return self.at(view, pixel, distance, done)

    def step(
        self, view: Tensor, pixel: Tensor, distance: Tensor, mask: Tensor, done: float
    ) -> None:
        """Adam on eq. 5 for H, given the colour distances (R,) of the rays of `at`."""
        config = self._config
        self._distances.view(-1).index_copy_(0, self._flat_index(view, pixel), distance)
        if config.mode in ("robust", "off") or done < config.start_fraction:
            return
        self._fit(view, pixel, distance, mask, self.lambda0(done))

    def maps(self, progress: Progress = SILENT) -> Tensor:
        """(V, H, W) final H of every pixel.

        Raises:
            Cancelled: through `progress`.
        """
        if self._config.mode == "off":
            return torch.zeros_like(self._distances)
        if self._config.mode == "robust":
            return free_conflict(self._distances, self._config.lambda0_end)
        maps = self._final_maps(progress)
        maps[0] = maps[0].clamp_max(self._config.front_view_max)
        return maps

    def _estimate(self, view: Tensor, pixel: Tensor) -> Tensor:
        """(R,) learned H at pixels (R, 2) of views (R,); not differentiable."""
        raise NotImplementedError

    def _fit(
        self, view: Tensor, pixel: Tensor, distance: Tensor, mask: Tensor, lambda0: float
    ) -> None:
        """Adam on eq. 5 for the learned H."""
        raise NotImplementedError

    def _final_maps(self, progress: Progress) -> Tensor:
        """(V, H, W) learned H of every pixel, a new tensor."""
        raise NotImplementedError

    def _flat_index(self, view: Tensor, pixel: Tensor) -> Tensor:
        """(R,) flat indices of pixels (R, 2) of views (R,) in `_distances`."""
        height, width = self._distances.shape[1:]
        column, row = pixel.long().unbind(dim=1)
        return (view * height + row) * width + column

    def _limit_front_view(self, conflict: Tensor, view: Tensor) -> Tensor:
        return torch.where(view == 0, conflict.clamp_max(self._config.front_view_max), conflict)

    def _grad_conflict(
        self, view: Tensor, conflict: Tensor, distance: Tensor, mask: Tensor, lambda0: float
    ) -> Tensor:
        """(R,) gradient with respect to H of eq. 5 inside the masks, and of the budget penalty.

        The loss is the sum over rays of lambda0 H^2 - H e, plus for each view of n rays
        _BUDGET_WEIGHT n max(0, mean H - mean_budget)^2.
        """
        inside = (mask > 0.5).float()
        zero = conflict.new_zeros(len(self.gains))  # (V,)
        count = zero.index_add(0, view, inside)
        total = zero.index_add(0, view, inside * conflict)
        divisor = count.clamp_min(1.0)
        excess = (total / divisor - self._config.mean_budget).clamp_min(0.0)
        grad_total = _BUDGET_WEIGHT * count * (2.0 * excess) / divisor
        grad_budget = grad_total.index_select(0, view) * inside
        return grad_budget - inside * distance + inside * lambda0 * (2.0 * conflict)

    def match_exposure(
        self, view: Tensor, rendered: Tensor, target: Tensor, conflict: Tensor
    ) -> None:
        """Moves each view's gains towards the fit of rendered colours to targets (R, 3)."""
        if not self._config.match_exposure:
            return
        weight = (1.0 - conflict)[:, None]
        parts = torch.cat([weight * rendered * target, weight * rendered.square()], dim=1)
        sums = parts.new_zeros(len(self.gains), 6).index_add_(0, view, parts)
        product, square = sums.split(3, dim=1)  # (V, 3) each
        prior = _GAIN_PRIOR * square.mean(dim=1, keepdim=True) + 1e-9
        fitted = ((product + prior) / (square + prior)).clamp(*_GAIN_RANGE)
        self.gains = _GAIN_MOMENTUM * self.gains + (1 - _GAIN_MOMENTUM) * fitted
        # only ratios are observable: without a mean of 1 all would drift from view 0 together
        others = self.gains[1:]
        self.gains[1:] = others / others.log().mean(dim=0).exp()
        self.gains[0] = 1.0
