"""Conflict between views: H of eq. 4 and 5, and the exposure of each view.

Eq. 4 makes h a function of the view's index l and the place x, among others. Here f_psi is a smooth
map for each view, read where x projects to: H_p of eq. 5 is then the map's value at p, because h
hardly changes within the band. Its derivative never reaches geometry or colour.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..cameras.cameras import Cameras
from .config import ConflictConfig
from .losses import free_conflict

_START = -4.0
"""Logit of H at first: H = 0.018."""
_RATE = 0.35
_BETAS = (0.8, 0.95)
_BUDGET_PRICE = 4.0
_GAIN_KEEP = 0.8
_GAIN_PRIOR = 0.02
"""Weight of "no gain" among a view's pixels, as a share of them."""
_GAIN_RANGE = (0.6, 1.6)


@dataclass(frozen=True, eq=False)
class _Reading:
    """What R rays read of the maps of H."""

    view: Tensor
    """(R,)"""
    pixel: Tensor
    """(R, 2)"""
    index: Tensor
    """(4, R) the four cells about each pixel, as indices into all maps: left and right of the row
    above, then of the row below."""
    share: Tensor
    """(R, 2) how far to the right and down between them."""
    conflict: Tensor
    """(R,) H: sigmoid of the bilinear value."""


class ConflictModel:
    """H of all views, learnt with eq. 5 while the surface is.

    Args:
        cameras: V views.
        config: mode, prices, limits.
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
        self._steps_to_corners = torch.tensor([[0], [1], [columns], [columns + 1]], device=device)
        self._reading: _Reading | None = None
        self._logits = torch.full((len(cameras), 1, rows, columns), _START, device=device)
        self._moments = [torch.zeros_like(self._logits) for _ in range(2)]
        self._steps = 0
        self._distances = torch.zeros(len(cameras), cameras.height, cameras.width, device=device)
        """Colour distance of each pixel when it was last looked at."""
        self.gains = torch.ones(len(cameras), 3, device=device)
        """(V, 3) exposure of each view relative to view 0."""

    def price(self, done: float) -> float:
        """lambda0 after a share of all steps: falls by a constant factor once H may grow."""
        config = self._config
        into = min(
            max((done - config.start_fraction) / max(1.0 - config.start_fraction, 1e-6), 0.0), 1.0
        )
        return config.lambda0_start * (config.lambda0_end / config.lambda0_start) ** into

    @property
    def needs_distance(self) -> bool:
        """Whether `at` depends on the colours' distance."""
        return self._config.mode == "robust"

    def at(self, view: Tensor, pixel: Tensor, distance: Tensor | None, done: float) -> Tensor:
        """(R,) H at pixels (R, 2) of views (R,), given the colours' distance (R,) if needed."""
        config = self._config
        if config.mode == "off" or done < config.start_fraction:
            return torch.zeros_like(pixel[:, 0])
        if config.mode == "robust":
            return free_conflict(distance, self.price(done))
        return self._capped(self._read(view, pixel).conflict, view)

    def learnt(self, view: Tensor, pixel: Tensor, done: float) -> Tensor:
        """(R,) H at pixels (R, 2) of views (R,) from the colours' distances when last looked at."""
        distance = self._distances.view(-1).index_select(0, self._place(view, pixel))
        return self.at(view, pixel, distance, done)

    def _place(self, view: Tensor, pixel: Tensor) -> Tensor:
        """(R,) where pixels (R, 2) of views (R,) stand in `_distances`."""
        height, width = self._distances.shape[1:]
        column, row = pixel.long().unbind(dim=1)
        return (view * height + row) * width + column

    def _capped(self, conflict: Tensor, view: Tensor) -> Tensor:
        return torch.where(view == 0, conflict.clamp_max(self._config.front_view_max), conflict)

    def _read(self, view: Tensor, pixel: Tensor) -> _Reading:
        """The views' maps at pixels (R, 2) of views (R,); the same rays are read once a step."""
        last = self._reading
        if last is not None and last.view is view and last.pixel is pixel:
            return last
        rows, columns = self._logits.shape[2:]
        place = pixel / self._size * self._cells - 0.5
        place = torch.minimum(place.clamp_min(0.0), self._last)
        corner = place.long()
        share = place - corner
        base = (view * rows + corner[:, 1]) * columns + corner[:, 0]
        index = base + self._steps_to_corners  # (4, R)
        values = self._logits.view(-1).index_select(0, index.view(-1)).view_as(index)
        top, bottom = torch.lerp(values[0::2], values[1::2], share[:, 0])
        conflict = torch.sigmoid(torch.lerp(top, bottom, share[:, 1]))
        self._reading = _Reading(view, pixel, index, share, conflict)
        return self._reading

    def learn(
        self, view: Tensor, pixel: Tensor, distance: Tensor, mask: Tensor, done: float
    ) -> None:
        """One Adam step of H on eq. 5 with the colours' distances (R,) as they are."""
        config = self._config
        self._distances.view(-1).index_copy_(0, self._place(view, pixel), distance)
        if config.mode != "model" or done < config.start_fraction:
            return
        reading = self._read(view, pixel)
        by_conflict = self._slope(view, reading.conflict, distance, mask, self.price(done))
        self._adam(self._by_logits(reading, by_conflict))
        self._reading = None

    def _slope(
        self, view: Tensor, conflict: Tensor, distance: Tensor, mask: Tensor, price: float
    ) -> Tensor:
        """(R,) derivative by H of eq. 5 within the masks, and of what exceeds a view's budget.

        The loss is the sum over rays of price H^2 - H e, plus for each view of n rays
        _BUDGET_PRICE n max(0, mean H - budget)^2.
        """
        inside = (mask > 0.5).float()
        zero = conflict.new_zeros(len(self.gains))  # (V,)
        count = zero.index_add(0, view, inside)
        total = zero.index_add(0, view, inside * conflict)
        divisor = count.clamp_min(1.0)
        beyond = (total / divisor - self._config.mean_budget).clamp_min(0.0)
        by_total = _BUDGET_PRICE * count * (2.0 * beyond) / divisor
        by_budget = by_total.index_select(0, view) * inside
        return by_budget - inside * distance + inside * price * (2.0 * conflict)

    def _by_logits(self, reading: _Reading, by_conflict: Tensor) -> Tensor:
        """(V, 1, rows, columns) derivative by the maps, of one (R,) by what was read."""
        by_value = torch.ops.aten.sigmoid_backward(by_conflict, reading.conflict)
        shares = torch.stack([1.0 - reading.share, reading.share])  # (2, R, 2)
        by_rows = by_value * shares[:, None, :, 1]  # (2, 1, R)
        by_corners = (by_rows * shares[None, :, :, 0]).flatten(0, 1)  # (4, R)
        sums = by_value.new_zeros(4, self._logits.numel()).scatter_add_(
            1, reading.index, by_corners
        )
        total = sums[3] + sums[2] + sums[1] + sums[0]
        return total.view_as(self._logits)

    def _adam(self, slope: Tensor) -> None:
        self._steps += 1
        size = []
        for index, (beta, value) in enumerate(zip(_BETAS, (slope, slope.square()), strict=True)):
            self._moments[index] = beta * self._moments[index] + (1 - beta) * value
            size.append(self._moments[index] / (1 - beta**self._steps))
        self._logits = self._logits - _RATE * size[0] / (size[1].sqrt() + 1e-12)

    def maps(self) -> Tensor:
        """(V, H, W) H of every pixel at the end."""
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
        """Moves each view's gains towards what makes the rendered colours (R, 3) its own (R, 3)."""
        if not self._config.match_exposure:
            return
        weight = (1.0 - conflict)[:, None]
        parts = torch.cat([weight * rendered * target, weight * rendered.square()], dim=1)
        sums = parts.new_zeros(len(self.gains), 6).index_add_(0, view, parts)
        product, square = sums.split(3, dim=1)  # (V, 3) each
        prior = _GAIN_PRIOR * square.mean(dim=1, keepdim=True) + 1e-9
        found = ((product + prior) / (square + prior)).clamp(*_GAIN_RANGE)
        self.gains = _GAIN_KEEP * self.gains + (1 - _GAIN_KEEP) * found
        # only ratios show in images: the others' mean stays 1, or all drift from view 0 together
        others = self.gains[1:]
        self.gains[1:] = others / others.log().mean(dim=0).exp()
        self.gains[0] = 1.0
