"""The dense grid's steps through warp's kernels; `grid_torch.py` is the plain twin."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ....compute.warp_backend import as_warp, launch
from . import ray_kernels as grid_kernels
from . import voxel_kernels
from .state import ACTIVE_CELLS, SPREADING_STEPS, GridState

BETAS = (0.9, 0.95)
EPS = 1e-9
BLUR = (0.4, 0.24, 0.06)
"""Weights of the voxel itself, its neighbours, and the next."""
_BLOCK_CELLS = 8
"""Rays that enter the band in the same block of cells follow each other in their given order."""
_MOST_BLOCKS = 1024
"""Along an axis."""


def differences(state: GridState) -> None:
    """Refreshes the central differences and the Laplacian."""
    inputs = [*state.strides[:2], state.geo, state.spacing, state.laplacian]
    _over_voxels(voxel_kernels.differences, state, inputs)


def _over_voxels(kernel: Any, state: GridState, inputs: Sequence) -> None:
    """Runs a kernel for all active voxels, its grids flat."""
    flat = [state.flat(part) if isinstance(part, Tensor) else part for part in inputs]
    launch(kernel, len(state.active), [state.active, *flat], state.geo.device)


def march(
    state: GridState, origins: Tensor, directions: Tensor, sharpness: float, band: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Renders rays given in cells.

    Returns:
        (R, 4) opacity and gradient, (R, 4) colour and depth, (R,) where each ray enters the band,
        (R,) the order in which they are gone through.
    """
    count, device = len(origins), origins.device
    start = torch.empty(count, device=device)
    order = torch.empty(count, dtype=torch.int32, device=device)
    outputs = [torch.empty(count, 4, device=device) for _ in range(2)]
    bundle = _bundle(state, (origins, directions, start, order), (sharpness, band), outputs)
    launch(grid_kernels.first_hit, count, [bundle], device)
    entry = origins + start.clamp_min(0.0)[:, None] * directions
    order.copy_(morton_order(entry))
    launch(grid_kernels.render_forward, count, [bundle], device)
    return (*outputs, start, order)


def morton_order(places: Tensor) -> Tensor:
    """(R,) an order of places (R, 3), in cells, along a curve that fills space (Morton's).

    Rays that go through the same voxels follow each other then, and find them in the cache.
    """
    block = (places.int() // _BLOCK_CELLS).clamp(0, _MOST_BLOCKS - 1)
    spread = _spread_bits(places.device).index_select(0, block.reshape(-1)).reshape(-1, 3)
    return torch.argsort(4 * spread[:, 0] + 2 * spread[:, 1] + spread[:, 2], stable=True)


@cache
def _spread_bits(device: torch.device) -> Tensor:
    """(1024,) whole numbers with two zeros between their bits."""
    number = torch.arange(_MOST_BLOCKS, dtype=torch.int32, device=device)
    bits = range(_MOST_BLOCKS.bit_length() - 1)
    return sum(((number >> bit) & 1) << (3 * bit) for bit in bits)


def march_back(
    state: GridState,
    rays: tuple[Tensor, Tensor, Tensor, Tensor],
    settings: tuple[float, float],
    outputs: tuple[Tensor, Tensor],
    grad_outputs: tuple[Tensor, Tensor],
    with_rays: bool,
) -> tuple[Tensor, Tensor]:
    """Adds derivatives to the state's buffers; those by origins and directions (R, 3), in cells."""
    grad_rays = [torch.empty_like(rays[0]) for _ in range(2)]
    back = grid_kernels.Backward()
    names = ("grad_out_geo", "grad_out_col", "grad_origins", "grad_directions")
    for name, tensor in zip(names, (*grad_outputs, *grad_rays), strict=True):
        setattr(back, name, as_warp(tensor))
    back.with_rays = int(with_rays)
    bundle = _bundle(state, rays, settings, outputs)
    own = [list(pair) for pair in zip(state.grad_geo, state.grad_col, strict=True)]
    launch(grid_kernels.render_backward, len(rays[0]), [bundle, back], rays[0].device, own)
    return tuple(grad_rays)


def _bundle(state: GridState, rays: tuple, settings: tuple[float, float], outputs: Sequence):
    """What the ray kernels share."""
    bundle = grid_kernels.RayMarch()
    names = ("geo", "col", "origins", "directions", "start", "order", "out_geo", "out_col")
    for name, tensor in zip(names, (state.geo, state.col, *rays, *outputs), strict=True):
        setattr(bundle, name, as_warp(tensor))
    bundle.sharpness, bundle.band = settings
    bundle.spacing = state.spacing
    return bundle


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
    geo, spacing, grad = state.geo, state.spacing, state.grad_geo
    a, b = state.scratch
    state.steps += 1
    inputs = [geo, *_pair(state, grad), eikonal, sparse, 1.0 / spacing]
    _over_voxels(voxel_kernels.accumulate, state, inputs)
    inputs = [*state.strides[:2], grad[0], state.laplacian, spacing, smooth, a]
    _over_voxels(voxel_kernels.value_gradients, state, inputs)
    for step, source, target in zip(state.strides, (a, b, a), (b, a, b), strict=True):
        _over_voxels(voxel_kernels.blur, state, [source, step, *BLUR, target])
    adam = [*BETAS, *(1 / (1 - beta**state.steps) for beta in BETAS), EPS]
    inputs = [geo, b, grad[0], state.moments_geo, rate, *adam]
    _over_voxels(voxel_kernels.adam_values, state, inputs)
    moments = (state.moment_col, state.square_col)
    inputs = [state.col, *_pair(state, state.grad_col), *moments, rate_col, *adam]
    _over_voxels(voxel_kernels.adam_colours, state, inputs)
    differences(state)


def _pair(state: GridState, buffers: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Two gradient buffers; the second is empty where there is one only."""
    first, second = (*buffers, state.no_buffer)[:2]
    return first, second


def redistance(state: GridState) -> None:
    """Makes f a distance again within the active band, keeping the surface where it is."""
    state.activate(ACTIVE_CELLS + 1)
    differences(state)
    sides, spacing = state.strides[:2], state.spacing
    source, target = state.scratch
    for scratch in state.scratch:
        scratch.copy_(state.geo[..., 0])
    limit = ACTIVE_CELLS * spacing
    inputs = [*sides, state.geo, spacing, limit, source, state.fixed]
    _over_voxels(voxel_kernels.near_distances, state, inputs)
    for _ in range(SPREADING_STEPS):
        inputs = [*sides, source, state.fixed, spacing, target]
        _over_voxels(voxel_kernels.spread_distances, state, inputs)
        source, target = target, source
    index = state.active.long()
    state.geo.view(-1, 4)[index, 0] = source.view(-1)[index]
    state.clear()
    state.activate(ACTIVE_CELLS)
    differences(state)
