"""Conflict between views: H of eq. 4 and 5, and the exposure of each view.

Eq. 4 makes h a function of the view index l and the position x, among others. Here f_psi is a
smooth map per view, sampled where x projects to: H_p of eq. 5 is then the map's value at p, because
h hardly changes within the band. No gradient of it reaches geometry or colour.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..cameras.cameras import Cameras
from .config import ConflictConfig
from .losses import free_conflict

_INITIAL_LOGIT = -4.0
"""H starts at 0.018."""
_LR = 0.35
_BETAS = (0.8, 0.95)
_BUDGET_WEIGHT = 4.0
_GAIN_MOMENTUM = 0.8
_GAIN_PRIOR = 0.02
"""Weight of the prior gain of 1, relative to a view's pixels."""
_GAIN_RANGE = (0.6, 1.6)


@dataclass(frozen=True, eq=False)
class _MapSamples:
    """Bilinear samples of the maps of H at R pixels."""

    view: Tensor
    """(R,)"""
    pixel: Tensor
    """(R, 2)"""
    index: Tensor
    """(4, R) flat indices of the cells around each pixel: left and right of the row above, then of
    the row below."""
    fraction: Tensor
    """(R, 2) bilinear weights to the right and down."""
    conflict: Tensor
    """(R,) H: sigmoid of the bilinear value."""


class ConflictModel:
    """H of all views, optimised with eq. 5 together with the surface.

    Args:
        cameras: V views.
        config: mode, schedule of lambda0, limits.
    """

    def __init__(self, cameras: Cameras, config: ConflictConfig):
        device = cameras.world_to_camera.device
        rows, columns = (
            max(2, round(n / config.map_stride_px)) for n in (cameras.height, cameras.width)
        )
        self._config = config
        self._size = torch.tensor([cameras.width, cameras.height], device=device)
        self._cells = torch.tensor([columns, rows], device=device)
        self._last = torch.tensor([columns - 1.001, rows - 1.001], device=device)
        self._corner_offsets = torch.tensor([[0], [1], [columns], [columns + 1]], device=device)
        self._samples: _MapSamples | None = None
        self._logits = torch.full((len(cameras), 1, rows, columns), _INITIAL_LOGIT, device=device)
        self._moments = [torch.zeros_like(self._logits) for _ in range(2)]
        self._steps = 0
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
        """(R,) H at pixels (R, 2) of views (R,), given the colour distance (R,) if needed."""
        config = self._config
        if config.mode == "off" or done < config.start_fraction:
            return torch.zeros_like(pixel[:, 0])
        if config.mode == "robust":
            return free_conflict(distance, self.lambda0(done))
        return self._limit_front_view(self._sample(view, pixel).conflict, view)

    def fitted(self, view: Tensor, pixel: Tensor, done: float) -> Tensor:
        """(R,) H at pixels (R, 2) of views (R,) from their last colour distances."""
        distance = self._distances.view(-1).index_select(0, self._flat_index(view, pixel))
        return self.at(view, pixel, distance, done)

    def _flat_index(self, view: Tensor, pixel: Tensor) -> Tensor:
        """(R,) flat indices of pixels (R, 2) of views (R,) in `_distances`."""
        height, width = self._distances.shape[1:]
        column, row = pixel.long().unbind(dim=1)
        return (view * height + row) * width + column

    def _limit_front_view(self, conflict: Tensor, view: Tensor) -> Tensor:
        return torch.where(view == 0, conflict.clamp_max(self._config.front_view_max), conflict)

    def _sample(self, view: Tensor, pixel: Tensor) -> _MapSamples:
        """Samples the maps at pixels (R, 2) of views (R,); cached for the same rays of a step."""
        last = self._samples
        if last is not None and last.view is view and last.pixel is pixel:
            return last
        rows, columns = self._logits.shape[2:]
        position = pixel / self._size * self._cells - 0.5
        position = torch.minimum(position.clamp_min(0.0), self._last)
        corner = position.long()
        fraction = position - corner
        base = (view * rows + corner[:, 1]) * columns + corner[:, 0]
        index = base + self._corner_offsets  # (4, R)
        values = self._logits.view(-1).index_select(0, index.view(-1)).view_as(index)
        top, bottom = torch.lerp(values[0::2], values[1::2], fraction[:, 0])
        conflict = torch.sigmoid(torch.lerp(top, bottom, fraction[:, 1]))
        self._samples = _MapSamples(view, pixel, index, fraction, conflict)
        return self._samples

    def step(
        self, view: Tensor, pixel: Tensor, distance: Tensor, mask: Tensor, done: float
    ) -> None:
        """One Adam step of H on eq. 5 for given colour distances (R,)."""
        config = self._config
        self._distances.view(-1).index_copy_(0, self._flat_index(view, pixel), distance)
        if config.mode != "model" or done < config.start_fraction:
            return
        samples = self._sample(view, pixel)
        grad_conflict = self._grad_conflict(
            view, samples.conflict, distance, mask, self.lambda0(done)
        )
        self._adam(self._grad_logits(samples, grad_conflict))
        self._samples = None

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

    def _grad_logits(self, samples: _MapSamples, grad_conflict: Tensor) -> Tensor:
        """(V, 1, rows, columns) gradient of the maps from the one (R,) of their samples."""
        grad_value = torch.ops.aten.sigmoid_backward(grad_conflict, samples.conflict)
        weights = torch.stack([1.0 - samples.fraction, samples.fraction])  # (2, R, 2)
        grad_rows = grad_value * weights[:, None, :, 1]  # (2, 1, R)
        grad_corners = (grad_rows * weights[None, :, :, 0]).flatten(0, 1)  # (4, R)
        sums = grad_value.new_zeros(4, self._logits.numel()).scatter_add_(
            1, samples.index, grad_corners
        )
        total = sums[3] + sums[2] + sums[1] + sums[0]
        return total.view_as(self._logits)

    def _adam(self, grad: Tensor) -> None:
        # torch.optim would import torch._dynamo at its first step: seconds of a short fusion
        self._steps += 1
        size = []
        for index, (beta, value) in enumerate(zip(_BETAS, (grad, grad.square()), strict=True)):
            self._moments[index] = beta * self._moments[index] + (1 - beta) * value
            size.append(self._moments[index] / (1 - beta**self._steps))
        self._logits = self._logits - _LR * size[0] / (size[1].sqrt() + 1e-12)

    def maps(self) -> Tensor:
        """(V, H, W) final H of every pixel."""
        config = self._config
        height, width = self._distances.shape[1:]
        if config.mode == "off":
            return torch.zeros_like(self._distances)
        if config.mode == "robust":
            return free_conflict(self._distances, config.lambda0_end)
        size = (height, width)
        logits = torch.nn.functional.interpolate(self._logits, size, mode="bilinear")[:, 0]
        maps = torch.sigmoid(logits)
        maps[0] = maps[0].clamp_max(config.front_view_max)
        return maps

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
