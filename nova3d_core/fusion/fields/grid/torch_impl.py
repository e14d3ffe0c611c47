"""PyTorch implementation of the dense grid, for any device; same functions as `warp_impl.py`.

Slower, but needs no warp, and its gradients come from autograd: the reference for the hand-written
ones of the kernels. Rays go in chunks, which bounds the memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .constants import (
    BETAS,
    BLUR,
    COLOUR_BANDS,
    EPS,
    HALF_DIAGONAL,
    MIN_TRANSMITTANCE,
    TINY,
)
from .state import ACTIVE_CELLS, REDISTANCE_STEPS, GridState

_RAY_CHUNK_SIZE = 16_384
_MISSING = -1.0
"""Marks samples that a ray does not have."""


def differences(state: GridState) -> None:
    """Updates the central differences and the Laplacian."""
    index = state.active.long()
    values = state.flat(state.geo)
    state.flat(state.laplacian)[index] = _laplacian(state, index, values[:, 0])
    for axis, step in enumerate(state.strides):
        difference = values[index + step, 0] - values[index - step, 0]
        values[index, axis + 1] = difference * (0.5 / state.spacing)


@torch.no_grad()
def march(
    state: GridState,
    origins: Tensor,
    directions: Tensor,
    sharpness: float,
    band: float,
    samples: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Renders rays given in cells, in their order; returns the same as `warp_impl.march`.

    Stores no `samples`: autograd renders again.
    """
    settings = (sharpness, band)
    outputs = []
    for chunk in zip(
        origins.split(_RAY_CHUNK_SIZE), directions.split(_RAY_CHUNK_SIZE), strict=True
    ):
        start = _first_hit(state, *chunk, band)
        times = _sample_times(state, (*chunk, start), settings)
        outputs.append((*_composite(state.geo, state.col, *chunk, times, sharpness, band), start))
    order = torch.arange(len(origins), dtype=torch.int32, device=origins.device)
    return (*(torch.cat(output) for output in zip(*outputs, strict=True)), order)


def march_backward(
    state: GridState,
    rays: tuple[Tensor, Tensor, Tensor, Tensor],
    settings: tuple[float, float],
    outputs: tuple[Tensor, Tensor],
    grad_outputs: tuple[Tensor, Tensor],
    with_rays: bool,
    samples: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Adds gradients to the state's buffers; see `warp_impl.march_backward`.

    Sample positions along the rays are constants. `outputs` and `samples` are not needed here.
    """
    grids = [grid.detach().requires_grad_(True) for grid in (state.geo, state.col)]
    grad_rays = []
    parts = (tensor.split(_RAY_CHUNK_SIZE) for tensor in (*rays[:3], *grad_outputs))
    for origins, directions, start, *grad_chunk in zip(*parts, strict=True):
        times = _sample_times(state, (origins, directions, start), settings)
        lines = [line.detach().requires_grad_(with_rays) for line in (origins, directions)]
        with torch.enable_grad():
            rendered = _composite(*grids, *lines, times, *settings)
            inputs = [*grids, *lines] if with_rays else grids
            grad_inputs = torch.autograd.grad(rendered, inputs, grad_chunk)
        state.grad_geo[0] += grad_inputs[0]
        state.grad_col[0] += grad_inputs[1]
        grad_rays.append(
            grad_inputs[2:] if with_rays else [torch.zeros_like(line) for line in lines]
        )
    return tuple(torch.cat(part) for part in zip(*grad_rays, strict=True))


def _trilinear(grid: Tensor, points: Tensor) -> Tensor:
    """Trilinear values (N, 4) of a grid (X, Y, Z, 4) at points (N, 3), in cells."""
    size = torch.tensor(grid.shape[:3], device=grid.device)
    low = points.detach().long().clamp_min(0).minimum(size - 2)  # (N, 3)
    fraction = points - low
    _, ny, nz = grid.shape[:3]
    flat = grid.reshape(-1, 4)
    total = 0.0
    for corner in range(8):
        bits = torch.tensor([corner >> 2 & 1, corner >> 1 & 1, corner & 1], device=grid.device)
        at = low + bits
        index = (at[:, 0] * ny + at[:, 1]) * nz + at[:, 2]
        weight = torch.where(bits.bool(), fraction, 1.0 - fraction).prod(dim=1)
        total = total + weight[:, None] * flat[index]
    return total


def _nearest(grid: Tensor, points: Tensor) -> Tensor:
    """(N,) f of the voxels nearest to points (N, 3), in cells."""
    i, j, k = (points + 0.5).long().unbind(dim=1)
    return grid[i, j, k, 0]


def _ray_span(state: GridState, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Ray parameters (R,) where rays (R, 3) enter and leave the grid; entry > exit for misses."""
    low = 0.001
    high = torch.tensor(state.shape, device=origins.device).to(origins) - 1.001
    flat = directions.abs() <= 1e-9
    safe = torch.where(flat, 1.0, directions)
    a, b = (low - origins) / safe, (high - origins) / safe
    near = torch.where(flat, 0.0, torch.minimum(a, b)).amax(dim=1).clamp_min(0.0)
    far = torch.where(flat, 1e9, torch.maximum(a, b)).amin(dim=1)
    misses = (flat & ((origins < low) | (origins > high))).any(dim=1)
    return near, torch.where(misses, -1.0, far)


def _first_hit(state: GridState, origins: Tensor, directions: Tensor, band: float) -> Tensor:
    """(R,) ray parameter at which sphere tracing enters the band; -1 for misses."""
    t, far = _ray_span(state, origins, directions)
    start = torch.full_like(t, _MISSING)
    ids = (t < far).nonzero()[:, 0]
    t = t[ids]
    while len(ids):
        points = origins[ids] + t[:, None] * directions[ids]
        free = (_nearest(state.geo, points) - band) / state.spacing - HALF_DIAGONAL
        close = (free < 1.0).nonzero()[:, 0]
        f = _trilinear(state.geo, points[close])[:, 0]
        free[close] = (f - band) / state.spacing
        hit = close[f < band]
        start[ids[hit]] = t[hit]
        t = t + (0.9 * free).clamp_min(0.5)
        alive = t < far[ids]
        alive[hit] = False
        ids, t = ids[alive], t[alive]
    return start


def _sample_times(
    state: GridState, rays: tuple[Tensor, Tensor, Tensor], settings: tuple[float, float]
) -> Tensor:
    """(R, S) ray parameters of the samples, `_MISSING` after a ray's last."""
    origins, directions, start = rays
    sharpness, band = settings
    far = _ray_span(state, origins, directions)[1]
    ids = (start >= 0).nonzero()[:, 0]
    t, transmittance = start[ids], torch.ones_like(start[ids])
    columns = [start]
    f = _trilinear(state.geo, origins[ids] + t[:, None] * directions[ids])[:, 0]
    while True:
        stride = (0.9 * (f - band) / state.spacing).clamp_min(1.0)
        t_next = t + torch.where(f > band, stride, torch.ones_like(f))
        alive = (t_next < far[ids]) & (transmittance >= MIN_TRANSMITTANCE)
        ids, t, f, transmittance = ids[alive], t_next[alive], f[alive], transmittance[alive]
        if not len(ids):
            return torch.stack(columns, dim=1)
        columns.append(torch.full_like(start, _MISSING).index_put((ids,), t))
        inside = torch.sigmoid(sharpness * f)
        f = _trilinear(state.geo, origins[ids] + t[:, None] * directions[ids])[:, 0]
        ratio = torch.sigmoid(sharpness * f) / (inside + TINY)
        transmittance = transmittance - transmittance * (1.0 - ratio).clamp_min(0.0)


def _composite(
    geo: Tensor,
    col: Tensor,
    origins: Tensor,
    directions: Tensor,
    times: Tensor,
    sharpness: float,
    band: float,
) -> tuple[Tensor, Tensor]:
    """NeuS compositing of samples (R, S): opacity and gradient, colour and depth, (R, 4) each.

    A section between two samples has weight T max(1 - sigma(s f') / sigma(s f), 0), a sample the
    mean weight of the sections on its two sides.
    """
    live = times >= 0
    ray, _ = live.nonzero(as_tuple=True)
    points = origins[ray] + times[live][:, None] * directions[ray]  # (N, 3)
    values = _scatter_samples(_trilinear(geo, points), live)  # (R, S, 4)
    inside = torch.sigmoid(sharpness * values[..., 0])
    ratio = inside[:, 1:] / (inside[:, :-1] + TINY)
    survival = torch.where(live[:, 1:], ratio.clamp_max(1.0), torch.ones_like(ratio))
    transmittance = torch.nn.functional.pad(survival.cumprod(dim=1), (1, 0), value=1.0)  # (R, S)
    weight = transmittance[:, :-1] * (1.0 - survival)
    pad = torch.nn.functional.pad
    sample_weight = 0.5 * (pad(weight, (1, 0)) + pad(weight, (0, 1)))  # (R, S)
    ones = torch.ones_like(sample_weight)[..., None]
    opacity_and_gradient = torch.cat([ones, values[..., 1:]], dim=-1)
    out_geo = (sample_weight[..., None] * opacity_and_gradient).sum(dim=1)
    coloured = live & (values[..., 0].detach().abs() < COLOUR_BANDS * band)
    colours = _scatter_samples(_trilinear(col, points[coloured[live]])[:, :3], coloured)
    with_depth = torch.cat([colours, times[..., None]], dim=-1)
    return out_geo, (sample_weight[..., None] * with_depth).sum(dim=1)


def _scatter_samples(rows: Tensor, mask: Tensor) -> Tensor:
    """(R, S, C) with rows (N, C) at the N True entries of a mask (R, S), zero elsewhere."""
    return rows.new_zeros(*mask.shape, rows.shape[1]).index_put(mask.nonzero(as_tuple=True), rows)


def adam_step(
    state: GridState, regularisers: tuple[float, float, float], sdf_lr: float, colour_lr: float
) -> None:
    """One Adam step of distances and colours on the buffered gradients; see `warp_impl`."""
    index = state.active.long()
    state.steps += 1
    _accumulate(state, index, *regularisers[:2])
    grad_value = _value_gradients(state, index, regularisers[2])
    state.flat(state.grad_geo[0])[index] = 0.0
    grad_value = _blur(state, index, grad_value)
    bias_corrections = [1 / (1 - beta**state.steps) for beta in BETAS]
    _adam_values(state, index, grad_value, sdf_lr, bias_corrections)
    _adam_colours(state, index, colour_lr, bias_corrections)
    differences(state)


def _laplacian(state: GridState, index: Tensor, flat: Tensor) -> Tensor:
    """(A,) Laplacian of flat values times h^2."""
    steps = state.strides
    return sum(flat[index - step] + flat[index + step] for step in steps) - 6.0 * flat[index]


def _accumulate(state: GridState, index: Tensor, eikonal: float, sparse: float) -> None:
    """Sums the buffers into the first, clears the others, adds the eikonal and sparsity terms."""
    first, *others = (state.flat(grad) for grad in state.grad_geo)
    value = state.flat(state.geo)[index]
    f, gradient = value[:, 0], value[:, 1:]
    length = gradient.norm(dim=1) + 1e-6
    grad_eikonal = 2.0 * eikonal * (length - 1.0) / length
    sharp = 1.0 / state.spacing
    sign = torch.where(f < 0, -1.0, 1.0)
    grad_sparse = -sparse * sharp * sign * torch.exp(-sharp * f.abs())
    added = torch.cat([grad_sparse[:, None], grad_eikonal[:, None] * gradient], dim=1)
    for other in others:
        added = other[index] + added
        other[index] = 0.0
    first[index] += added


def _value_gradients(state: GridState, index: Tensor, smooth: float) -> Tensor:
    """(A,) gradient with respect to f: direct, through the differences, of smooth * laplacian^2."""
    grad = state.flat(state.grad_geo[0])
    through = sum(
        grad[index - step, axis + 1] - grad[index + step, axis + 1]
        for axis, step in enumerate(state.strides)
    )
    bilaplacian = _laplacian(state, index, state.flat(state.laplacian))
    return grad[index, 0] + through * (0.5 / state.spacing) + 2.0 * smooth * bilaplacian


def _blur(state: GridState, index: Tensor, rows: Tensor) -> Tensor:
    """(A,) blur with five taps along each axis; inactive voxels are zero."""
    centre, near, far = BLUR
    for step in state.strides:
        flat = state.flat(torch.zeros_like(state.geo[..., 0]))
        flat[index] = rows
        one_away = flat[index - step] + flat[index + step]
        two_away = flat[index - 2 * step] + flat[index + 2 * step]
        rows = centre * rows + near * one_away + far * two_away
    return rows


def _adam_values(
    state: GridState, index: Tensor, grad_value: Tensor, lr: float, bias_corrections: list[float]
) -> None:
    """One Adam step of f."""
    moments = state.flat(state.moments_geo)
    first = BETAS[0] * moments[index, 0] + (1.0 - BETAS[0]) * grad_value
    second = BETAS[1] * moments[index, 1] + (1.0 - BETAS[1]) * grad_value.square()
    moments[index] = torch.stack([first, second], dim=1)
    unbiased_first, unbiased_second = first * bias_corrections[0], second * bias_corrections[1]
    step = lr * unbiased_first / (unbiased_second.sqrt() + EPS)
    state.flat(state.geo)[index, 0] -= step


def _adam_colours(
    state: GridState, index: Tensor, lr: float, bias_corrections: list[float]
) -> None:
    """One Adam step of the colours with one second moment per voxel; clears the buffers."""
    buffers = [state.flat(grad) for grad in state.grad_col]
    firsts, seconds = state.flat(state.moment_col), state.flat(state.square_col)
    grad = sum(buffer[index] for buffer in buffers)  # (A, 4)
    second = BETAS[1] * seconds[index] + (1.0 - BETAS[1]) * grad.square().sum(dim=1)
    seen = second != 0  # by some ray
    index, grad, second = index[seen], grad[seen], second[seen]
    for buffer in buffers:
        buffer[index] = 0.0
    first = BETAS[0] * firsts[index] + (1.0 - BETAS[0]) * grad
    firsts[index], seconds[index] = first, second
    size = lr * bias_corrections[0] / ((second * bias_corrections[1]).sqrt() + EPS)
    colours = state.flat(state.col)
    updated = (colours[index] - size[:, None] * first).clamp(0.0, 1.0)
    updated[:, 3] = 0.0
    colours[index] = updated


def redistance(state: GridState) -> None:
    """Restores signed distances in the active band without moving the surface."""
    state.activate(ACTIVE_CELLS + 1)
    differences(state)
    index, h = state.active.long(), state.spacing
    values = state.flat(state.geo)
    flat = values[:, 0].clone()
    sign = torch.where(flat[index] < 0, -1.0, 1.0)
    near, fixed = _surface_distances(state, index, sign)
    flat[index] = torch.where(fixed, near, sign * (ACTIVE_CELLS * h))
    for _ in range(REDISTANCE_STEPS):
        sides = [
            torch.minimum(sign * flat[index - step], sign * flat[index + step]).clamp_min(0.0)
            for step in state.strides
        ]
        f = flat[index]
        flat[index] = torch.where(fixed, f, sign * torch.minimum(f.abs(), _solve_eikonal(sides, h)))
    values[index, 0] = flat[index]
    state.clear()
    state.activate(ACTIVE_CELLS)
    differences(state)


def _surface_distances(state: GridState, index: Tensor, sign: Tensor) -> tuple[Tensor, Tensor]:
    """(A,) distances f / |g|, and whether a neighbour lies on the other side of the surface."""
    value, flat = state.flat(state.geo)[index], state.flat(state.geo)[:, 0]
    crossing = torch.zeros_like(index, dtype=torch.bool)
    for step in state.strides:
        crossing |= (sign * flat[index - step] <= 0) | (sign * flat[index + step] <= 0)
    length = value[:, 1:].norm(dim=1).clamp_min(0.3)
    limit = 1.8 * state.spacing
    return (value[:, 0] / length).clamp(-limit, limit), crossing


def _solve_eikonal(sides: list[Tensor], h: float) -> Tensor:
    """(A,) solution of |grad f| = 1 from the nearer neighbour's distance along each axis."""
    low, mid, high = torch.stack(sides).sort(dim=0).values
    one = low + h
    two = 0.5 * (low + mid + (2.0 * h * h - (low - mid).square()).clamp_min(0.0).sqrt())
    total = low + mid + high
    squares = low.square() + mid.square() + high.square()
    under = (total.square() - 3.0 * (squares - h * h)).clamp_min(0.0)
    three = (total + under.sqrt()) / 3.0
    return torch.where(one <= mid, one, torch.where(two <= high, two, three))
