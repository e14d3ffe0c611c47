"""The fast field: a dense grid of signed distance and colour, cropped to the object.

Trilinear values, central differences for the gradient, so no network and no double backward: the
derivative by the gradient goes back through the differences. Steps are Adam's, on a derivative that
is blurred over neighbouring voxels.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from ....sdf_grid import SdfGrid
from ...config import LevelConfig
from ...losses import LossConfig
from ..base import BAND, RayGradients, RenderOutput
from . import warp_support
from .state import (
    bounds_of,
    bytes_a_voxel,
    distances,
    first_level,
    level_frame,
    level_spacing,
    next_level,
)

logger = logging.getLogger(__name__)


class DenseGrid:
    """The dense grid as a `Field`.

    Args:
        start: signed distances to begin with; outside they may be too small, never too large.
        device: where to compute.
        memory_gib: levels that would need more become coarser.
        compiled: warp's kernels, or the plain torch twin; None takes warp's where they run.
    """

    def __init__(
        self,
        start: SdfGrid,
        device: torch.device | str = "cpu",
        memory_gib: float = 3.0,
        compiled: bool | None = None,
    ):
        self.device = torch.device(device)
        self._start, self._memory_gib = start, memory_gib
        if compiled is None:
            compiled = warp_support.can_run_on(self.device)
            if not compiled:
                warp_support.warn_of_torch_twin(self.device)
        if compiled:
            from . import warp_impl as steps
        else:
            from . import torch_impl as steps
        self._steps = steps
        self._state = None
        self._last: tuple | None = None
        self.area_weights = 1.0
        """World area that a unit of the summed derivatives stands for; the caller's scale."""

    @property
    def spacing(self) -> float:
        """World size of a cell."""
        return self._state.spacing

    def begin_level(self, level: LevelConfig) -> None:
        """Resamples distances and colours to a level's resolution."""
        resolution = self._affordable(level.resolution)
        if self._state is None:
            self._state = first_level(self._start, resolution, self.device)
        else:
            self._state = next_level(self._state, level_spacing(self._start, resolution))
        self._level = level
        self._sharpness = level.sharpness / self.spacing
        self._band = BAND / self._sharpness
        self._steps.redistance(self._state)

    def render(self, origins: Tensor, directions: Tensor) -> RenderOutput:
        """Renders R world rays; see `Field`."""
        state = self._state
        in_cells = ((origins - state.origin_here) / state.spacing).contiguous()
        directions = directions.contiguous()
        settings = (self._sharpness, self._band)
        geo, col, *path = self._steps.march(state, in_cells, directions, *settings)
        self._last = ((in_cells, directions, *path), settings, (geo, col))
        return RenderOutput(geo[:, 0], geo[:, 1:], col[:, :3], col[:, 3] * state.spacing)

    def backward(
        self, grad_opacity: Tensor, grad_gradient: Tensor, grad_colour: Tensor, with_rays: bool
    ) -> RayGradients | None:
        """Takes the derivatives by the last `render`'s outputs; see `Field`."""
        rays, settings, outputs = self._last
        grad_out_geo = torch.cat([grad_opacity[:, None], grad_gradient], dim=1).contiguous()
        grad_out_col = torch.nn.functional.pad(grad_colour, (0, 1)).contiguous()
        grad_outputs = (grad_out_geo, grad_out_col)
        moved = self._steps.march_back(
            self._state, rays, settings, outputs, grad_outputs, with_rays
        )
        if not with_rays:
            return None
        return RayGradients(moved[0] / self.spacing, moved[1])

    def step(self, loss: LossConfig, decay: float) -> None:
        """Adds the regularisers, as integrals over the band, and moves."""
        cell = self.spacing
        share = cell**3 / (2 * self._band)
        weights = (loss.eikonal * share, loss.sparse * share, loss.smooth * share / cell**4)
        level = self._level
        rate = level.sdf_lr_cells * cell * decay
        self._steps.move(self._state, weights, rate, level.colour_lr * decay)

    def redistance(self) -> None:
        """Makes f a distance again and chooses the voxels near the surface anew."""
        self._steps.redistance(self._state)

    def is_finite(self) -> bool:
        """Whether all distances and colours are finite."""
        return bool(torch.isfinite(self._state.geo.sum() + self._state.col.sum()))

    def to_grid(self) -> SdfGrid:
        """The signed distances on the CPU."""
        return distances(self._state)

    def _affordable(self, resolution: int) -> int:
        """The largest resolution up to the wanted one whose grid fits the memory budget."""
        held = self._start if self._state is None else distances(self._state)
        low, high = bounds_of(held)
        wanted = resolution
        while resolution > 16:
            spacing = level_spacing(self._start, resolution)
            cells = torch.tensor(level_frame(low, high, spacing)[1]).prod()
            if float(cells) * bytes_a_voxel(self.device) <= self._memory_gib * 2**30 * GRID_SHARE:
                break
            resolution = int(resolution * 0.9)
        if resolution < wanted:
            logger.warning(
                "a grid of %d cells does not fit the memory budget of %.1f GiB: taking %d",
                wanted,
                self._memory_gib,
                resolution,
            )
        return resolution


GRID_SHARE = 0.6
"""Of the memory budget, what the grid may take: rays, the level before it and torch need some."""
