"""Warp implementation of the dense grid; `torch_impl.py` has the same functions in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ....compute.warp_backend import as_warp, launch
from . import ray_kernels, voxel_kernels
from .constants import BETAS, BLUR, EPS
from .state import ACTIVE_CELLS, REDISTANCE_STEPS, GridState

_BLOCK_CELLS = 8
"""Rays that enter the band in the same block of cells keep their order."""
_MAX_BLOCKS = 1024
"""Blocks along an axis."""
_MIN_PARALLEL = 32_768
"""Kernels over fewer voxels run in one launch: a second one costs more than it saves."""


def differences(state: GridState) -> None:
    """Updates the central differences and the Laplacian."""
    inputs = [*state.strides[:2], state.geo, state.spacing, state.laplacian]
    _over_voxels(voxel_kernels.differences, state, inputs)


def _over_voxels(kernel: Any, state: GridState, inputs: Sequence) -> None:
    """Launches a kernel over the active voxels; grids are passed flat."""
    flat = [_flat_array(state, part) if isinstance(part, Tensor) else part for part in inputs]
    arguments = [state.active, *flat]
    launch(kernel, len(state.active), arguments, state.geo.device, min_parallel=_MIN_PARALLEL)


def _flat_array(state: GridState, grid: Tensor) -> Any:
    """A grid of the state as a flat warp array; kept, as its creation takes 0.1 ms."""
    address = grid.data_ptr()
    if address not in state.flat_arrays:
        state.flat_arrays[address] = as_warp(state.flat(grid))
    return state.flat_arrays[address]


def march(
    state: GridState,
    origins: Tensor,
    directions: Tensor,
    sharpness: float,
    band: float,
    samples: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Renders rays given in cells.

    Args:
        state: the grid.
        origins: (R, 3)
        directions: (R, 3) unit.
        sharpness: NeuS' s.
        band: half width of the band.
        samples: (R or more, K, 2, 4) receives the first K samples of each ray for the backward
            pass, which reads the grid again without them.

    Returns:
        (R, 4) opacity and gradient, (R, 4) colour and depth, (R,) ray parameter of each entry into
        the band, (R,) the order of execution.
    """
    count, device = len(origins), origins.device
    start = torch.empty(count, device=device)
    order = torch.empty(count, dtype=torch.int32, device=device)
    outputs = [torch.empty(count, 4, device=device) for _ in range(2)]
    rays = (origins, directions, start, order)
    bundle = _bundle(state, rays, (sharpness, band), outputs, samples)
    launch(ray_kernels.first_hit, count, [bundle], device)
    entry = origins + start.clamp_min(0.0)[:, None] * directions
    order.copy_(morton_order(entry))
    launch(ray_kernels.render_forward, count, [bundle], device)
    return (*outputs, start, order)


def morton_order(points: Tensor) -> Tensor:
    """(R,) permutation that sorts points (R, 3), in cells, along a Morton curve.

    Consecutive rays then traverse the same voxels, which are in the cache.
    """
    block = (points.int() // _BLOCK_CELLS).clamp(0, _MAX_BLOCKS - 1)
    spread = _spread_bits(points.device).index_select(0, block.reshape(-1)).reshape(-1, 3)
    return torch.argsort(4 * spread[:, 0] + 2 * spread[:, 1] + spread[:, 2], stable=True)


@cache
def _spread_bits(device: torch.device) -> Tensor:
    """(1024,) integers with two zeros between their bits."""
    number = torch.arange(_MAX_BLOCKS, dtype=torch.int32, device=device)
    bits = range(_MAX_BLOCKS.bit_length() - 1)
    return sum(((number >> bit) & 1) << (3 * bit) for bit in bits)


def march_backward(
    state: GridState,
    rays: tuple[Tensor, Tensor, Tensor, Tensor],
    settings: tuple[float, float],
    outputs: tuple[Tensor, Tensor],
    grad_outputs: tuple[Tensor, Tensor],
    with_rays: bool,
    samples: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Adds gradients to the state's buffers; `samples` are those of the forward pass.

    Returns:
        Gradients with respect to origins and directions (R, 3), in cells.
    """
    grad_rays = [torch.empty_like(rays[0]) for _ in range(2)]
    backward = ray_kernels.Backward()
    names = ("grad_out_geo", "grad_out_col", "grad_origins", "grad_directions")
    for name, tensor in zip(names, (*grad_outputs, *grad_rays), strict=True):
        setattr(backward, name, as_warp(tensor))
    backward.with_rays = int(with_rays)
    bundle = _bundle(state, rays, settings, outputs, samples)
    own = [list(pair) for pair in zip(state.grad_geo, state.grad_col, strict=True)]
    launch(ray_kernels.render_backward, len(rays[0]), [bundle, backward], rays[0].device, own)
    return tuple(grad_rays)


def _bundle(
    state: GridState,
    rays: tuple,
    settings: tuple[float, float],
    outputs: Sequence,
    samples: Tensor | None,
):
    """Arguments that the ray kernels share."""
    bundle = ray_kernels.RayMarch()
    names = ("geo", "col", "origins", "directions", "start", "order", "out_geo", "out_col")
    for name, tensor in zip(names, (state.geo, state.col, *rays, *outputs), strict=True):
        setattr(bundle, name, as_warp(tensor))
    if samples is None:
        samples = state.geo.new_empty(0, 0, 2, 4)
    bundle.samples = as_warp(samples)
    bundle.sharpness, bundle.band = settings
    bundle.spacing = state.spacing
    return bundle


def adam_step(
    state: GridState, regularisers: tuple[float, float, float], sdf_lr: float, colour_lr: float
) -> None:
    """One Adam step of distances and colours on the buffered gradients; clears the buffers.

    Args:
        state: the grid.
        regularisers: weights per voxel of the eikonal, sparsity and squared-Laplacian terms.
        sdf_lr: learning rate of distances, in world units.
        colour_lr: learning rate of colours.
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
    inputs = [geo, b, grad[0], state.moments_geo, sdf_lr, *adam]
    _over_voxels(voxel_kernels.adam_values, state, inputs)
    moments = (state.moment_col, state.square_col)
    inputs = [state.col, *_pair(state, state.grad_col), *moments, colour_lr, *adam]
    _over_voxels(voxel_kernels.adam_colours, state, inputs)
    differences(state)


def _pair(state: GridState, buffers: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Two gradient buffers; the second is empty where there is only one."""
    first, second = (*buffers, state.empty_buffer)[:2]
    return first, second


def redistance(state: GridState) -> None:
    """Restores signed distances in the active band without moving the surface."""
    state.activate(ACTIVE_CELLS + 1)
    differences(state)
    sides, spacing = state.strides[:2], state.spacing
    source, target = state.scratch
    for scratch in state.scratch:
        scratch.copy_(state.geo[..., 0])
    limit = ACTIVE_CELLS * spacing
    inputs = [*sides, state.geo, spacing, limit, source, state.fixed]
    _over_voxels(voxel_kernels.surface_distances, state, inputs)
    for _ in range(REDISTANCE_STEPS):
        inputs = [*sides, source, state.fixed, spacing, target]
        _over_voxels(voxel_kernels.eikonal_sweep, state, inputs)
        source, target = target, source
    index = state.active.long()
    state.geo.view(-1, 4)[index, 0] = source.view(-1)[index]
    state.clear()
    state.activate(ACTIVE_CELLS)
    differences(state)
