"""Dense grid of signed distance and colour, cropped to the object: the fast field.

Values are trilinear and gradients are central differences, so there is no network and no double
backward: gradients backpropagate through the differences. Adam steps on gradients that are blurred
over neighbouring voxels.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from ....sdf_grid import SdfGrid
from ...config import LevelConfig
from ...losses import LossConfig
from ..base import BAND
from ..render_output import RayGradients, RenderOutput
from . import warp_support
from .constants import STORED_SAMPLES
from .state import (
    bytes_per_voxel,
    inside_bounds,
    level_box,
    level_spacing,
    make_first_level,
    make_next_level,
    to_sdf_grid,
)

logger = logging.getLogger(__name__)


class DenseGrid:
    """The dense grid as a `Field`.

    Args:
        start: initial signed distances; outside the object they may be too small, never too large.
        device: device of the grid.
        memory_gib: memory budget; levels that exceed it are made coarser.
        compiled: warp kernels, or the PyTorch implementation; None: warp where it runs.
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
                warp_support.warn_about_torch_fallback(self.device)
        if compiled:
            from . import warp_impl as backend
        else:
            from . import torch_impl as backend
        self._backend = backend
        self._state = None
        self._last: tuple | None = None
        self._compiled = compiled
        self._samples: Tensor | None = None
        """Buffer of the samples of a `render`, (R, S, 2, 4); reused to save time."""
        self.area_weights = 1.0
        """World area per ray, by which the caller scales gradients."""
        self.track_rays = True
        """Of the interface; saves nothing here, as `backward` computes these gradients."""

    @property
    def spacing(self) -> float:
        """World size of a cell."""
        return self._state.spacing

    def set_level(self, level: LevelConfig) -> None:
        """Resamples distances and colours to a level's resolution."""
        resolution = self._fit_memory(level.resolution)
        if self._state is None:
            self._state = make_first_level(self._start, resolution, self.device)
        else:
            self._state = make_next_level(self._state, level_spacing(self._start, resolution))
        self._level = level
        self._sharpness = level.sharpness / self.spacing
        self._band = BAND / self._sharpness
        self._backend.redistance(self._state)

    def render(
        self, origins: Tensor, directions: Tensor, with_backward: bool = True
    ) -> RenderOutput:
        """Renders R world rays; see `Field`."""
        state = self._state
        in_cells = ((origins - state.origin_here) / state.spacing).contiguous()
        directions = directions.contiguous()
        settings = (self._sharpness, self._band)
        samples = self._sample_buffer(len(origins)) if with_backward and self._compiled else None
        geo, col, *path = self._backend.march(state, in_cells, directions, *settings, samples)
        self._last = ((in_cells, directions, *path), settings, (geo, col), samples)
        return RenderOutput(geo[:, 0], geo[:, 1:], col[:, :3], col[:, 3] * state.spacing)

    def backward(
        self,
        grad_opacity: Tensor,
        grad_gradient: Tensor,
        grad_colour: Tensor,
        with_rays: bool,
        grad_depth: Tensor | None = None,
    ) -> RayGradients | None:
        """Backpropagates gradients of the last `render`'s outputs; see `Field`."""
        rays, settings, outputs, samples = self._last
        grad_out_geo = torch.cat([grad_opacity[:, None], grad_gradient], dim=1).contiguous()
        grad_out_col = torch.nn.functional.pad(grad_colour, (0, 1)).contiguous()
        if grad_depth is not None:
            grad_out_col[:, 3] = grad_depth * self.spacing
        grad_outputs = (grad_out_geo, grad_out_col)
        ray_gradients = self._backend.march_backward(
            self._state, rays, settings, outputs, grad_outputs, with_rays, samples
        )
        if not with_rays:
            return None
        return RayGradients(ray_gradients[0] / self.spacing, ray_gradients[1])

    def step(self, losses: LossConfig, decay: float) -> None:
        """Adam step with the regularisers as integrals over the band."""
        cell = self.spacing
        voxel = cell**3 / (2 * self._band)
        weights = (losses.eikonal * voxel, losses.sparse * voxel, losses.smooth * voxel / cell**4)
        level = self._level
        sdf_lr = level.sdf_lr_cells * cell * decay
        self._backend.adam_step(self._state, weights, sdf_lr, level.colour_lr * decay)

    def redistance(self) -> None:
        """Makes f a signed distance again and updates the active voxels near the surface."""
        self._backend.redistance(self._state)

    def is_finite(self) -> bool:
        """Whether all distances and colours are finite."""
        return bool(torch.isfinite(self._state.geo.sum() + self._state.col.sum()))

    def to_grid(self) -> SdfGrid:
        """The signed distances on the CPU."""
        return to_sdf_grid(self._state)

    def _sample_buffer(self, count: int) -> Tensor:
        """Memory for the samples of at least `count` rays."""
        if self._samples is None or len(self._samples) < count:
            self._samples = torch.empty(count, STORED_SAMPLES, 2, 4, device=self.device)
        return self._samples

    def _fit_memory(self, resolution: int) -> int:
        """The largest resolution up to the requested one whose grid fits the memory budget."""
        current = self._start if self._state is None else to_sdf_grid(self._state)
        low, high = inside_bounds(current)
        requested = resolution
        while resolution > 16:
            spacing = level_spacing(self._start, resolution)
            cells = torch.tensor(level_box(low, high, spacing)[1]).prod()
            if (
                float(cells) * bytes_per_voxel(self.device)
                <= self._memory_gib * 2**30 * GRID_MEMORY_FRACTION
            ):
                break
            resolution = int(resolution * 0.9)
        if resolution < requested:
            logger.warning(
                "a grid of %d cells exceeds the memory budget of %.1f GiB: using %d",
                requested,
                self._memory_gib,
                resolution,
            )
        return resolution


GRID_MEMORY_FRACTION = 0.6
"""Fraction of the memory budget for the grid; rays, the previous level and torch need the rest."""
