"""Where rays are sampled, and NeuS compositing of what they meet, in plain torch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ....sdf_grid import SdfGrid, sample_trilinear
from ..base import BAND

DEEP = 6.0
"""A ray is sampled from where s f falls below BAND until it falls below minus this: sigmoid(s f)
leaves no light there."""
MAX_SAMPLES = 40
"""Samples of one ray; only rays along a surface need so many."""

_DARK = 1e-3  # a ray ends where this share of its light is left
_STEPS_AT_ONCE = 16
"""On a GPU, rays that have ended are dropped after this many steps, as counting them waits for it;
on the CPU they are dropped at once."""


@dataclass(frozen=True, eq=False)
class Samples:
    """N places along R rays, in the rays' order."""

    ray: Tensor
    """(N,) int64: the ray of each."""
    slot: Tensor
    """(N,) int64: how many of its ray's samples lie before it."""
    t: Tensor
    """(N,) world distance along the ray; carries no derivative."""


def march(
    grid: SdfGrid, size: Tensor, origins: Tensor, directions: Tensor, sharpness: float, step: float
) -> Samples:
    """Where R rays are sampled: every step from the band before the surface to behind it.

    Sphere-traces the grid; a ray that leaves the band in front of a surface goes on to the next.

    Args:
        grid: distances near those of the field.
        size: (3,) world size of the box from the grid's origin that holds the object.
        origins: (R, 3) in the world.
        directions: (R, 3) unit.
        sharpness: NeuS' s in 1 / world.
        step: world distance between samples.
    """
    band = BAND / sharpness
    near, far = box_range(grid.origin, size, origins, directions)
    ray = (near < far).nonzero()[:, 0]
    t, count = near[ray], torch.zeros_like(ray)
    transmittance, last = torch.ones_like(t), torch.ones_like(t)
    found = [(ray[:0], count[:0], t[:0])]
    steps = 1 if ray.device.type == "cpu" else _STEPS_AT_ONCE
    while len(ray):
        start, direction, end = origins[ray], directions[ray], far[ray]
        on, passed = torch.ones_like(ray, dtype=torch.bool), []
        for _ in range(steps):
            points = start + t[:, None] * direction
            f = trilinear(grid.values, grid.origin, grid.spacing, points)
            here = on & (f < band)
            passed.append((here, ray, count, t))
            inside = torch.sigmoid(sharpness * f)
            # a ray's first sample sets what counts as full light
            kept = torch.where(count > 0, (inside / last).clamp(max=1.0), 1.0)
            transmittance = torch.where(here, transmittance * kept, transmittance)
            last = torch.where(here, inside, last)
            count = count + here
            t = t + torch.where(here, step, (0.9 * (f - band)).clamp(min=step))
            goes_on = (
                (t < end)
                & (f > -DEEP / sharpness)
                & (count < MAX_SAMPLES)
                & (transmittance > _DARK)
            )
            on = on & goes_on
        here, *samples = (torch.cat(parts) for parts in zip(*passed, strict=True))
        chosen = here.nonzero()[:, 0]
        found.append(tuple(part[chosen] for part in samples))
        chosen = on.nonzero()[:, 0]
        ray, t, count, transmittance, last = (
            x[chosen] for x in (ray, t, count, transmittance, last)
        )
    rays, slots, places = (torch.cat(parts) for parts in zip(*found, strict=True))
    order = torch.argsort(rays * MAX_SAMPLES + slots)
    return Samples(rays[order], slots[order], places[order])


def composite(logits: Tensor, samples: Samples, rays: int) -> tuple[Tensor, Tensor]:
    """NeuS weights (N,) of the samples and opacities (R,) from s f at the samples (N,)."""
    slots = int(samples.slot.max()) + 1 if len(samples.slot) else 1
    flat = samples.ray * slots + samples.slot
    inside = logits.new_zeros(rays * slots).scatter(0, flat, torch.sigmoid(logits))
    there = torch.zeros(rays * slots, dtype=torch.bool, device=logits.device)
    there[flat] = True
    inside, there = inside.view(rays, slots), there.view(rays, slots)
    alpha = ((inside[:, :-1] - inside[:, 1:]) / (inside[:, :-1] + 1e-9)).clamp(min=0.0)
    alpha = alpha * there[:, 1:]  # (R, S - 1): sections between neighbouring samples
    transmittance = F.pad(torch.cumprod(1.0 - alpha, dim=1), (1, 0), value=1.0)
    section = transmittance[:, :-1] * alpha
    # a sample stands for half of the section before it and half of the one behind it
    share = 0.5 * (F.pad(section, (1, 0)) + F.pad(section, (0, 1)))  # (R, S)
    return share.reshape(-1)[flat], section.sum(dim=1)


def box_range(
    low: Tensor, size: Tensor, origins: Tensor, directions: Tensor
) -> tuple[Tensor, Tensor]:
    """World distances (R,) where rays enter and leave a box; near > far where they miss it."""
    tiny = 1e-9
    safe = torch.where(directions.abs() < tiny, torch.full_like(directions, tiny), directions)
    ends = torch.stack([low - origins, low + size - origins]) / safe  # (2, R, 3)
    return ends.amin(dim=0).amax(dim=1).clamp(min=0.0), ends.amax(dim=0).amin(dim=1)


def trilinear(values: Tensor, low: Tensor, spacing: float, points: Tensor) -> Tensor:
    """Values (N,) of a grid (X, Y, Z) at world points (N, 3); beyond it, the border's."""
    sides = torch.tensor(values.shape, device=points.device) - 1
    coordinates = 2.0 * (points - low) / (spacing * sides) - 1.0
    return sample_trilinear(values[None], coordinates)[0]
