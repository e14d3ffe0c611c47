"""The dense grid's steps through warp's kernels; `grid_torch.py` is the plain twin."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import grid_kernels, voxel_kernels
from .grid_state import ACTIVE_CELLS, SPREADING_STEPS, GridState
from .launch import as_warp, launch

BETAS = (0.9, 0.95)
FLOOR = 1e-9
BLUR = (0.4, 0.24, 0.06)
"""Weights of the voxel itself, its neighbours, and the next."""
_BLOCK_CELLS = 8
"""Rays that enter the band in the same block of cells follow each other in their given order."""


def differences(state: GridState) -> None:
    """Refreshes the central differences and the Laplacian."""
    inputs = [state.active_at, state.geo, state.spacing, state.laplacian]
    launch(voxel_kernels.differences, len(state.active_at), inputs, state.geo.device)


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
    launch(grid_kernels.first_in_band, count, [bundle], device)
    entry = origins + start.clamp_min(0.0)[:, None] * directions
    order.copy_(neighbours_first(entry).int())
    launch(grid_kernels.render_forward, count, [bundle], device)
    return (*outputs, start, order)


def neighbours_first(places: Tensor) -> Tensor:
    """(R,) an order of places (R, 3), in cells, along a curve that fills space (Morton's).

    Rays that go through the same voxels follow each other then, and find them in the cache.
    """
    block = (places.int() // _BLOCK_CELLS).clamp(0, 1023)
    for shift, mask in ((16, 0x030000FF), (8, 0x0300F00F), (4, 0x030C30C3), (2, 0x09249249)):
        block = (block | (block << shift)) & mask  # two zeros between a number's bits
    x, y, z = block.unbind(dim=1)
    return torch.argsort((x << 2) | (y << 1) | z, stable=True)


def march_back(
    state: GridState,
    rays: tuple[Tensor, Tensor, Tensor, Tensor],
    settings: tuple[float, float],
    outputs: tuple[Tensor, Tensor],
    by_outputs: tuple[Tensor, Tensor],
    with_rays: bool,
) -> tuple[Tensor, Tensor]:
    """Adds derivatives to the state's buffers; those by origins and directions (R, 3), in cells."""
    by_rays = [torch.empty_like(rays[0]) for _ in range(2)]
    back = grid_kernels.Back()
    names = ("by_geo", "by_col", "by_origins", "by_directions")
    for name, tensor in zip(names, (*by_outputs, *by_rays), strict=True):
        setattr(back, name, as_warp(tensor))
    back.with_rays = int(with_rays)
    bundle = _bundle(state, rays, settings, outputs)
    own = [list(pair) for pair in zip(state.grad_geo, state.grad_col, strict=True)]
    launch(grid_kernels.render_backward, len(rays[0]), [bundle, back], rays[0].device, own)
    return tuple(by_rays)


def _bundle(state: GridState, rays: tuple, settings: tuple[float, float], outputs: Sequence):
    """What the ray kernels share."""
    bundle = grid_kernels.March()
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
    count, active = len(state.active_at), state.active_at
    a, b = state.scratch
    state.steps += 1
    terms = [eikonal, sparse, 1.0 / state.spacing]
    launch(
        voxel_kernels.gather, count, [active, state.geo, *state.grad_geo, *terms], state.geo.device
    )
    inputs = [active, state.grad_geo[0], state.laplacian, state.spacing, smooth, a]
    launch(voxel_kernels.by_values, count, inputs, state.geo.device)
    launch(voxel_kernels.clear, count, [active, state.grad_geo[0]], state.geo.device)
    for axis, (source, target) in enumerate(((a, b), (b, a), (a, b))):
        launch(voxel_kernels.blur, count, [active, source, axis, *BLUR, target], state.geo.device)
    unbias = [1 / (1 - beta**state.steps) for beta in BETAS]
    inputs = [active, state.geo, b, state.moments_geo, rate, *BETAS, *unbias, FLOOR]
    launch(voxel_kernels.adam_values, count, inputs, state.geo.device)
    moments = [state.moment_col, state.square_col]
    inputs = [active, state.col, *state.grad_col, *moments, rate_col, *BETAS, *unbias, FLOOR]
    launch(voxel_kernels.adam_colours, count, inputs, state.geo.device)
    differences(state)


def redistance(state: GridState) -> None:
    """Makes f a distance again within the active band, keeping the surface where it is."""
    state.activate(ACTIVE_CELLS + 1)
    differences(state)
    count, active = len(state.active_at), state.active_at
    a, b = state.scratch
    for scratch in state.scratch:
        scratch.copy_(state.geo[..., 0])
    limit = ACTIVE_CELLS * state.spacing
    inputs = [active, state.geo, state.spacing, limit, a, state.fixed]
    launch(voxel_kernels.near_distances, count, inputs, state.geo.device)
    source, target = a, b
    for _ in range(SPREADING_STEPS):
        inputs = [active, source, state.fixed, state.spacing, target]
        launch(voxel_kernels.spread_distances, count, inputs, state.geo.device)
        source, target = target, source
    index = state.active.long()
    state.geo.view(-1, 4)[index, 0] = source.view(-1)[index]
    state.clear()
    state.activate(ACTIVE_CELLS)
    differences(state)
