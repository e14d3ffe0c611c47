"""The dense grid's steps in plain torch, for any device: the twin of `grid_warp.py`.

Slower, but it needs neither warp nor a compiler, and the derivatives come from autograd, so that
the tests can hold the kernels' hand-written ones against it. Rays go in parts, to bound the memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .state import ACTIVE_CELLS, SPREADING_STEPS, GridState

MIN_TRANSMITTANCE = 0.005
"""A ray ends where less than this share of its light is left."""
COLOUR_WITHIN = 1.5
"""Samples farther from the surface than this many bands add no colour."""
TINY = 1e-9
HALF_DIAGONAL = 0.87
"""No place is farther from the nearest voxel, in cells."""
BETAS = (0.9, 0.95)
EPS = 1e-9
BLUR = (0.4, 0.24, 0.06)
"""Weights of the voxel itself, its neighbours, and the next."""
_RAYS_AT_ONCE = 16_384
_ABSENT = -1.0
"""Stands for a sample that a ray does not have."""


def differences(state: GridState) -> None:
    """Refreshes the central differences and the Laplacian."""
    index = state.active.long()
    values = state.flat(state.geo)
    state.flat(state.laplacian)[index] = _laplacian(state, index, values[:, 0])
    for axis, step in enumerate(state.strides):
        rise = values[index + step, 0] - values[index - step, 0]
        values[index, axis + 1] = rise * (0.5 / state.spacing)


@torch.no_grad()
def march(
    state: GridState, origins: Tensor, directions: Tensor, sharpness: float, band: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Renders rays given in cells, in their order; returns as `grid_warp.march`."""
    settings = (sharpness, band)
    parts = []
    for part in zip(origins.split(_RAYS_AT_ONCE), directions.split(_RAYS_AT_ONCE), strict=True):
        start = _first_hit(state, *part, band)
        times = _sample_times(state, (*part, start), settings)
        parts.append((*_composite(state.geo, state.col, *part, times, sharpness, band), start))
    order = torch.arange(len(origins), dtype=torch.int32, device=origins.device)
    return (*(torch.cat(output) for output in zip(*parts, strict=True)), order)


def march_back(
    state: GridState,
    rays: tuple[Tensor, Tensor, Tensor, Tensor],
    settings: tuple[float, float],
    outputs: tuple[Tensor, Tensor],
    grad_outputs: tuple[Tensor, Tensor],
    with_rays: bool,
) -> tuple[Tensor, Tensor]:
    """Adds derivatives to the state's buffers; those by origins and directions (R, 3), in cells.

    Where the samples lie along their ray counts as constant. `outputs` is not needed here.
    """
    grids = [grid.detach().requires_grad_(True) for grid in (state.geo, state.col)]
    moved = []
    parts = (tensor.split(_RAYS_AT_ONCE) for tensor in (*rays[:3], *grad_outputs))
    for origins, directions, start, *by_part in zip(*parts, strict=True):
        times = _sample_times(state, (origins, directions, start), settings)
        lines = [line.detach().requires_grad_(with_rays) for line in (origins, directions)]
        with torch.enable_grad():
            rendered = _composite(*grids, *lines, times, *settings)
            wanted = [*grids, *lines] if with_rays else grids
            grad_inputs = torch.autograd.grad(rendered, wanted, by_part)
        state.grad_geo[0] += grad_inputs[0]
        state.grad_col[0] += grad_inputs[1]
        moved.append(grad_inputs[2:] if with_rays else [torch.zeros_like(line) for line in lines])
    return tuple(torch.cat(part) for part in zip(*moved, strict=True))


def _read(grid: Tensor, places: Tensor) -> Tensor:
    """Trilinear values (N, 4) of a grid (X, Y, Z, 4) at places (N, 3), in cells."""
    size = torch.tensor(grid.shape[:3], device=grid.device)
    low = places.detach().long().clamp_min(0).minimum(size - 2)  # (N, 3)
    share = places - low
    _, ny, nz = grid.shape[:3]
    flat = grid.reshape(-1, 4)
    total = 0.0
    for corner in range(8):
        bits = torch.tensor([corner >> 2 & 1, corner >> 1 & 1, corner & 1], device=grid.device)
        at = low + bits
        index = (at[:, 0] * ny + at[:, 1]) * nz + at[:, 2]
        weight = torch.where(bits.bool(), share, 1.0 - share).prod(dim=1)
        total = total + weight[:, None] * flat[index]
    return total


def _nearest(grid: Tensor, places: Tensor) -> Tensor:
    """(N,) f of the voxels nearest to places (N, 3), in cells."""
    i, j, k = (places + 0.5).long().unbind(dim=1)
    return grid[i, j, k, 0]


def _ray_exit(state: GridState, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays (R, 3) enter and leave the grid (R,); they enter after they leave if they miss."""
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
    """(R,) Sphere-traces each ray to where |f| falls below the band; -1 where it never does."""
    t, far = _ray_exit(state, origins, directions)
    start = torch.full_like(t, _ABSENT)
    ids = (t < far).nonzero()[:, 0]
    t = t[ids]
    while len(ids):
        places = origins[ids] + t[:, None] * directions[ids]
        free = (_nearest(state.geo, places) - band) / state.spacing - HALF_DIAGONAL
        close = (free < 1.0).nonzero()[:, 0]
        f = _read(state.geo, places[close])[:, 0]
        free[close] = (f - band) / state.spacing
        found = close[f < band]
        start[ids[found]] = t[found]
        t = t + (0.9 * free).clamp_min(0.5)
        goes_on = t < far[ids]
        goes_on[found] = False
        ids, t = ids[goes_on], t[goes_on]
    return start


def _sample_times(
    state: GridState, rays: tuple[Tensor, Tensor, Tensor], settings: tuple[float, float]
) -> Tensor:
    """(R, S) where along the rays the samples lie, `_ABSENT` behind a ray's last."""
    origins, directions, start = rays
    sharpness, band = settings
    far = _ray_exit(state, origins, directions)[1]
    ids = (start >= 0).nonzero()[:, 0]
    t, transmittance = start[ids], torch.ones_like(start[ids])
    columns = [start]
    f = _read(state.geo, origins[ids] + t[:, None] * directions[ids])[:, 0]
    while True:
        stride = (0.9 * (f - band) / state.spacing).clamp_min(1.0)
        t_next = t + torch.where(f > band, stride, torch.ones_like(f))
        goes_on = (t_next < far[ids]) & (transmittance >= MIN_TRANSMITTANCE)
        ids, t, f, transmittance = ids[goes_on], t_next[goes_on], f[goes_on], transmittance[goes_on]
        if not len(ids):
            return torch.stack(columns, dim=1)
        columns.append(torch.full_like(start, _ABSENT).index_put((ids,), t))
        inside = torch.sigmoid(sharpness * f)
        f = _read(state.geo, origins[ids] + t[:, None] * directions[ids])[:, 0]
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

    A section between two samples weighs T max(1 - sigma(s f') / sigma(s f), 0), a sample as much as
    the mean of the sections on its two sides.
    """
    live = times >= 0
    ray, _ = live.nonzero(as_tuple=True)
    places = origins[ray] + times[live][:, None] * directions[ray]  # (N, 3)
    values = _spread_out(_read(geo, places), live)  # (R, S, 4)
    inside = torch.sigmoid(sharpness * values[..., 0])
    ratio = inside[:, 1:] / (inside[:, :-1] + TINY)
    kept = torch.where(live[:, 1:], ratio.clamp_max(1.0), torch.ones_like(ratio))
    transmittance = torch.nn.functional.pad(kept.cumprod(dim=1), (1, 0), value=1.0)  # (R, S)
    weight = transmittance[:, :-1] * (1.0 - kept)
    pad = torch.nn.functional.pad
    share = 0.5 * (pad(weight, (1, 0)) + pad(weight, (0, 1)))  # (R, S)
    opacity_and_slopes = torch.cat([torch.ones_like(share)[..., None], values[..., 1:]], dim=-1)
    out_geo = (share[..., None] * opacity_and_slopes).sum(dim=1)
    seen = live & (values[..., 0].detach().abs() < COLOUR_WITHIN * band)
    colours = _spread_out(_read(col, places[seen[live]])[:, :3], seen)
    with_depth = torch.cat([colours, times[..., None]], dim=-1)
    return out_geo, (share[..., None] * with_depth).sum(dim=1)


def _spread_out(rows: Tensor, where: Tensor) -> Tensor:
    """(R, S, C) with rows (N, C) at the N places of a mask (R, S), zero elsewhere."""
    return rows.new_zeros(*where.shape, rows.shape[1]).index_put(where.nonzero(as_tuple=True), rows)


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
    index = state.active.long()
    state.steps += 1
    _accumulate(state, index, *regularisers[:2])
    grad_value = _value_gradients(state, index, regularisers[2])
    state.flat(state.grad_geo[0])[index] = 0.0
    grad_value = _blurred(state, index, grad_value)
    unbias = [1 / (1 - beta**state.steps) for beta in BETAS]
    _adam_values(state, index, grad_value, rate, unbias)
    _adam_colours(state, index, rate_col, unbias)
    differences(state)


def _laplacian(state: GridState, index: Tensor, flat: Tensor) -> Tensor:
    """(A,) sum of the six neighbours' differences of flat values, without the division by h^2."""
    steps = state.strides
    return sum(flat[index - step] + flat[index + step] for step in steps) - 6.0 * flat[index]


def _accumulate(state: GridState, index: Tensor, eikonal: float, sparse: float) -> None:
    """Sums the buffers into the first, clears the others, adds eikonal and sparsity terms."""
    first, *others = (state.flat(grad) for grad in state.grad_geo)
    value = state.flat(state.geo)[index]
    f, slope = value[:, 0], value[:, 1:]
    length = slope.norm(dim=1) + 1e-6
    pull = 2.0 * eikonal * (length - 1.0) / length
    sharp = 1.0 / state.spacing
    sign = torch.where(f < 0, -1.0, 1.0)
    fade = -sparse * sharp * sign * torch.exp(-sharp * f.abs())
    added = torch.cat([fade[:, None], pull[:, None] * slope], dim=1)
    for other in others:
        added = other[index] + added
        other[index] = 0.0
    first[index] += added


def _value_gradients(state: GridState, index: Tensor, smooth: float) -> Tensor:
    """(A,) derivative by f alone: of f itself, through the slopes, and of smooth * laplacian^2."""
    grad = state.flat(state.grad_geo[0])
    through = sum(
        grad[index - step, axis + 1] - grad[index + step, axis + 1]
        for axis, step in enumerate(state.strides)
    )
    bend = _laplacian(state, index, state.flat(state.laplacian))
    return grad[index, 0] + through * (0.5 / state.spacing) + 2.0 * smooth * bend


def _blurred(state: GridState, index: Tensor, rows: Tensor) -> Tensor:
    """(A,) five taps along each axis; what is not active counts as zero."""
    centre, near, far = BLUR
    for step in state.strides:
        flat = state.flat(torch.zeros_like(state.geo[..., 0]))
        flat[index] = rows
        by_one = flat[index - step] + flat[index + step]
        by_two = flat[index - 2 * step] + flat[index + 2 * step]
        rows = centre * rows + near * by_one + far * by_two
    return rows


def _adam_values(
    state: GridState, index: Tensor, grad_value: Tensor, rate: float, unbias: list[float]
) -> None:
    """One Adam step of f; `EPS` is Adam's epsilon."""
    moments = state.flat(state.moments_geo)
    first = BETAS[0] * moments[index, 0] + (1.0 - BETAS[0]) * grad_value
    second = BETAS[1] * moments[index, 1] + (1.0 - BETAS[1]) * grad_value.square()
    moments[index] = torch.stack([first, second], dim=1)
    step = rate * (first * unbias[0]) / ((second * unbias[1]).sqrt() + EPS)
    state.flat(state.geo)[index, 0] -= step


def _adam_colours(state: GridState, index: Tensor, rate: float, unbias: list[float]) -> None:
    """One Adam step of the colours, one second moment for the three; clears the buffers."""
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
    size = rate * unbias[0] / ((second * unbias[1]).sqrt() + EPS)
    colours = state.flat(state.col)
    moved = (colours[index] - size[:, None] * first).clamp(0.0, 1.0)
    moved[:, 3] = 0.0
    colours[index] = moved


def redistance(state: GridState) -> None:
    """Makes f a distance again within the active band, keeping the surface where it is."""
    state.activate(ACTIVE_CELLS + 1)
    differences(state)
    index, h = state.active.long(), state.spacing
    values = state.flat(state.geo)
    flat = values[:, 0].clone()
    sign = torch.where(flat[index] < 0, -1.0, 1.0)
    near, fixed = _near_distances(state, index, sign)
    flat[index] = torch.where(fixed, near, sign * (ACTIVE_CELLS * h))
    for _ in range(SPREADING_STEPS):
        sides = [
            torch.minimum(sign * flat[index - step], sign * flat[index + step]).clamp_min(0.0)
            for step in state.strides
        ]
        f = flat[index]
        flat[index] = torch.where(fixed, f, sign * torch.minimum(f.abs(), _distance(sides, h)))
    values[index, 0] = flat[index]
    state.clear()
    state.activate(ACTIVE_CELLS)
    differences(state)


def _near_distances(state: GridState, index: Tensor, sign: Tensor) -> tuple[Tensor, Tensor]:
    """(A,) f / |g|, and whether a neighbour lies on the surface's other side."""
    value, flat = state.flat(state.geo)[index], state.flat(state.geo)[:, 0]
    crossing = torch.zeros_like(index, dtype=torch.bool)
    for step in state.strides:
        crossing |= (sign * flat[index - step] <= 0) | (sign * flat[index + step] <= 0)
    length = value[:, 1:].norm(dim=1).clamp_min(0.3)
    limit = 1.8 * state.spacing
    return (value[:, 0] / length).clamp(-limit, limit), crossing


def _distance(sides: list[Tensor], h: float) -> Tensor:
    """(A,) where |grad f| = 1 holds, from the nearer neighbour's distance along each axis."""
    low, mid, high = torch.stack(sides).sort(dim=0).values
    one = low + h
    two = 0.5 * (low + mid + (2.0 * h * h - (low - mid).square()).clamp_min(0.0).sqrt())
    total = low + mid + high
    squares = low.square() + mid.square() + high.square()
    under = (total.square() - 3.0 * (squares - h * h)).clamp_min(0.0)
    three = (total + under.sqrt()) / 3.0
    return torch.where(one <= mid, one, torch.where(two <= high, two, three))
