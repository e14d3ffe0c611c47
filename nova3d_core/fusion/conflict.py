"""Conflict between views: H of eq. 4 and 5, and the exposure of each view.

Eq. 4 makes h a function of the view's index l and the place x, among others. Here f_psi is a smooth
map for each view, read where x projects to: H_p of eq. 5 is then the map's value at p, because h
hardly changes within the band. Its derivative never reaches geometry or colour.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..cameras import Cameras
from .losses import free_conflict
from .sdf_config import ConflictConfig

_START = -4.0
"""Logit of H at first: H = 0.018."""
_RATE = 0.35
_BETAS = (0.8, 0.95)
_BUDGET_PRICE = 4.0
_GAIN_KEEP = 0.8
_GAIN_PRIOR = 0.02
"""Weight of "no gain" among a view's pixels, as a share of them."""
_GAIN_RANGE = (0.6, 1.6)


class ConflictModel:
    """H of all views, learnt with eq. 5 while the surface is.

    Args:
        cameras: V views.
        config: mode, prices, limits.
    """

    def __init__(self, cameras: Cameras, config: ConflictConfig):
        device = cameras.world_to_camera.device
        self._size = cameras.intrinsics.new_tensor([cameras.width, cameras.height])
        rows, columns = (max(2, round(n / config.cell_px)) for n in (cameras.height, cameras.width))
        self._config = config
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
        into = min(max((done - config.begin) / max(1.0 - config.begin, 1e-6), 0.0), 1.0)
        return config.price_start * (config.price_end / config.price_start) ** into

    def at(self, view: Tensor, pixel: Tensor, distance: Tensor, done: float) -> Tensor:
        """(R,) H at pixels (R, 2) of views (R,), given the colours' distance (R,)."""
        config = self._config
        if config.mode == "off" or done < config.begin:
            return torch.zeros_like(distance)
        if config.mode == "robust":
            return free_conflict(distance, self.price(done))
        return self._capped(self._read(self._logits, view, pixel), view)

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
        return torch.where(view == 0, conflict.clamp_max(self._config.front_cap), conflict)

    def _read(self, logits: Tensor, view: Tensor, pixel: Tensor) -> Tensor:
        """(R,) sigmoid of the bilinear value of the views' maps."""
        rows, columns = logits.shape[2:]
        place = pixel / self._size * pixel.new_tensor([columns, rows]) - 0.5
        limit = pixel.new_tensor([columns - 1.001, rows - 1.001])
        place = torch.minimum(place.clamp_min(0.0), limit)
        corner = place.long()
        share = place - corner
        base = (view * rows + corner[:, 1]) * columns + corner[:, 0]
        flat = logits.reshape(-1)
        values = [flat.index_select(0, base + step) for step in (0, 1, columns, columns + 1)]
        top, bottom = (torch.lerp(*pair, share[:, 0]) for pair in (values[:2], values[2:]))
        return torch.sigmoid(torch.lerp(top, bottom, share[:, 1]))

    def learn(
        self, view: Tensor, pixel: Tensor, distance: Tensor, mask: Tensor, done: float
    ) -> None:
        """One Adam step of H on eq. 5 with the colours' distances (R,) as they are."""
        config = self._config
        self._distances.view(-1).index_copy_(0, self._place(view, pixel), distance)
        if config.mode != "model" or done < config.begin:
            return
        logits = self._logits.requires_grad_(True)
        with torch.enable_grad():
            conflict = self._read(logits, view, pixel)
            inside = (mask > 0.5).float()
            price = self.price(done)
            loss = inside * (price * conflict.square() - conflict * distance)
            count = len(self.gains)
            share = torch.zeros(count, device=mask.device).index_add(0, view, inside)
            total = torch.zeros_like(share).index_add(0, view, inside * conflict)
            beyond = (total / share.clamp_min(1.0) - config.budget).clamp_min(0.0)
            loss = loss.sum() + _BUDGET_PRICE * (share * beyond.square()).sum()
            slope = torch.autograd.grad(loss, logits)[0]
        self._logits = logits.detach()
        self._adam(slope)

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
            return free_conflict(self._distances, config.price_end)
        size = (height, width)
        logits = torch.nn.functional.interpolate(self._logits, size, mode="bilinear")[:, 0]
        maps = torch.sigmoid(logits)
        maps[0] = maps[0].clamp_max(config.front_cap)
        return maps

    def match_exposure(
        self, view: Tensor, rendered: Tensor, target: Tensor, conflict: Tensor
    ) -> None:
        """Moves each view's gains towards what makes the rendered colours (R, 3) its own (R, 3)."""
        if not self._config.match_exposure:
            return
        weight = (1.0 - conflict)[:, None]
        product = torch.zeros_like(self.gains).index_add_(0, view, weight * rendered * target)
        square = torch.zeros_like(self.gains).index_add_(0, view, weight * rendered.square())
        prior = _GAIN_PRIOR * square.mean(dim=1, keepdim=True) + 1e-9
        found = ((product + prior) / (square + prior)).clamp(*_GAIN_RANGE)
        self.gains = _GAIN_KEEP * self.gains + (1 - _GAIN_KEEP) * found
        # only ratios show in pictures: the others' mean stays 1, or all drift from view 0 together
        others = self.gains[1:]
        self.gains[1:] = others / others.log().mean(dim=0).exp()
        self.gains[0] = 1.0
