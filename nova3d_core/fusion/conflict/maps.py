"""H as a smooth map per view, for any field.

Eq. 4 makes h a function of the view index l and the position x, among others. Here f_psi is a
smooth map per view, sampled where x projects to: H_p of eq. 5 is then the map's value at p, because
h hardly changes within the band.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...cameras.cameras import Cameras
from ...progress import Progress
from ..config import ConflictConfig
from .model import ConflictModel

_INITIAL_LOGIT = -4.0
"""H starts at 0.018."""
_LR = 0.35
_BETAS = (0.8, 0.95)


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


class ConflictMaps(ConflictModel):
    """H of all views as bilinear maps, optimised with eq. 5 together with the surface.

    Args:
        cameras: V views.
        config: mode, schedule of lambda0, limits.
    """

    def __init__(self, cameras: Cameras, config: ConflictConfig):
        super().__init__(cameras, config)
        device = cameras.world_to_camera.device
        rows, columns = (
            max(2, round(n / config.map_stride_px)) for n in (cameras.height, cameras.width)
        )
        self._size = torch.tensor([cameras.width, cameras.height], device=device)
        self._cells = torch.tensor([columns, rows], device=device)
        self._last = torch.tensor([columns - 1.001, rows - 1.001], device=device)
        self._corner_offsets = torch.tensor([[0], [1], [columns], [columns + 1]], device=device)
        self._samples: _MapSamples | None = None
        self._logits = torch.full((len(cameras), 1, rows, columns), _INITIAL_LOGIT, device=device)
        self._moments = [torch.zeros_like(self._logits) for _ in range(2)]
        self._steps = 0

    def _estimate(self, view: Tensor, pixel: Tensor) -> Tensor:
        return self._sample(view, pixel).conflict

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

    def _fit(
        self, view: Tensor, pixel: Tensor, distance: Tensor, mask: Tensor, lambda0: float
    ) -> None:
        samples = self._sample(view, pixel)
        grad_conflict = self._grad_conflict(view, samples.conflict, distance, mask, lambda0)
        self._adam(self._grad_logits(samples, grad_conflict))
        self._samples = None

    def _final_maps(self, progress: Progress) -> Tensor:
        size = self._distances.shape[1:]
        logits = torch.nn.functional.interpolate(self._logits, size, mode="bilinear")[:, 0]
        return torch.sigmoid(logits)

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
