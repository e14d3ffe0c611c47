"""The dense grid's steps through warp's kernels; `grid_torch.py` is the plain twin."""

from __future__ import annotations

import torch
from torch import Tensor

from . import grid_kernels, voxel_kernels
from .grid_state import ACTIVE_CELLS, GridState
from .launch import launch

BETAS = (0.9, 0.95)
FLOOR = 1e-9
BLUR = (0.4, 0.24, 0.06)
"""Weights of the voxel itself, its neighbours, and the next."""
_SPREAD = 7


def slopes(state: GridState) -> None:
    """Refreshes the central differences."""
    launch(voxel_kernels.slopes, len(state.active), [state.active, state.geo, state.spacing])


def march(
    state: GridState, origins: Tensor, directions: Tensor, sharpness: float, band: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Renders rays given in cells; (R, 4) opacity and gradient, (R, 4) colour and depth, starts."""
    count, device = len(origins), origins.device
    start = torch.empty(count, device=device)
    common = [state.geo, origins, directions, band, state.spacing, start]
    launch(grid_kernels.first_in_band, count, common)
    out_geo, out_col = (torch.empty(count, 4, device=device) for _ in range(2))
    settings = [sharpness, band, state.spacing, 1.0]
    inputs = [state.geo, state.col, origins, directions, start, *settings, out_geo, out_col]
    launch(grid_kernels.render_forward, count, inputs)
    return out_geo, out_col, start


def march_back(
    state: GridState,
    rays: tuple[Tensor, Tensor, Tensor],
    settings: tuple[float, float],
    outputs: tuple[Tensor, Tensor],
    by_outputs: tuple[Tensor, Tensor],
    with_rays: bool,
) -> tuple[Tensor, Tensor]:
    """Adds derivatives to the state's buffers; those by origins and directions (R, 3), in cells."""
    origins, directions, start = rays
    sharpness, band = settings
    by_origin, by_direction = (torch.empty_like(origins) for _ in range(2))
    inputs = [state.geo, state.col, origins, directions, start, sharpness, band, state.spacing, 1.0]
    own = [[geo, col, by_origin, by_direction] for geo, col in _buffers(state)]
    arguments = [*inputs, *outputs, *by_outputs, int(with_rays)]
    launch(grid_kernels.render_backward, len(origins), arguments, own)
    return by_origin, by_direction


def move(
    state: GridState, regularisers: tuple[float, float, float], rate: float, rate_col: float
) -> None:
    """One Adam step of distances and colours from what the buffers hold; clears them.

    Args:
        state: the grid.
        regularisers: weights a voxel of the eikonal, sparsity and squared-Laplacian terms.
        rate: how far a distance may move, in world units.
        rate_col: how far a colour may move.
    """
    eikonal, sparse, smooth = regularisers
    count, active = len(state.active), state.active
    a, b = state.scratch
    state.steps += 1
    launch(voxel_kernels.laplacian, count, [active, state.geo, b])
    terms = [eikonal, sparse, 1.0 / state.spacing]
    launch(voxel_kernels.gather, count, [active, state.geo, *state.grad_geo, *terms])
    inputs = [active, state.grad_geo[0], b, state.spacing, smooth, a]
    launch(voxel_kernels.by_values, count, inputs)
    launch(voxel_kernels.clear, count, [active, state.grad_geo[0]])
    for axis, (source, target) in enumerate(((a, b), (b, a), (a, b))):
        launch(voxel_kernels.blur, count, [active, source, axis, *BLUR, target])
    unbias = [1 / (1 - beta**state.steps) for beta in BETAS]
    inputs = [active, state.geo, b, state.moments_geo, rate, *BETAS, *unbias, FLOOR]
    launch(voxel_kernels.adam_values, count, inputs)
    moments = [state.moment_col, state.square_col]
    inputs = [active, state.col, *state.grad_col, *moments, rate_col, *BETAS, *unbias, FLOOR]
    launch(voxel_kernels.adam_colours, count, inputs)
    slopes(state)


def redistance(state: GridState) -> None:
    """Makes f a distance again within the active band, keeping the surface where it is."""
    state.activate(ACTIVE_CELLS + 1)
    slopes(state)
    count, active = len(state.active), state.active
    a, b = state.scratch
    for scratch in state.scratch:
        scratch.copy_(state.geo[..., 0])
    limit = ACTIVE_CELLS * state.spacing
    inputs = [active, state.geo, state.spacing, limit, a, state.fixed]
    launch(voxel_kernels.near_distances, count, inputs)
    source, target = a, b
    for _ in range(_SPREAD):
        inputs = [active, source, state.fixed, state.spacing, target]
        launch(voxel_kernels.spread_distances, count, inputs)
        source, target = target, source
    index = active.long()
    state.geo.view(-1, 4)[index, 0] = source.view(-1)[index]
    for scratch in state.scratch:
        scratch.zero_()
    state.activate(ACTIVE_CELLS)
    slopes(state)


def _buffers(state: GridState) -> list[tuple[Tensor, Tensor]]:
    return list(zip(state.grad_geo, state.grad_col, strict=True))
