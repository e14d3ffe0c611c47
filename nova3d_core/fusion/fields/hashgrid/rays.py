"""Ray sampling and NeuS compositing for the hash grid, in PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ....sdf_grid import SdfGrid, sample_trilinear
from ..base import BAND

MAX_DEPTH = 6.0
"""Rays are sampled from s f < BAND until s f < -MAX_DEPTH, where sigmoid(s f) leaves no
transmittance."""
MAX_SAMPLES = 40
"""Samples per ray; only rays along a surface need as many."""

_MIN_TRANSMITTANCE = 1e-3  # rays end below it
_STEPS_PER_SYNC = 16
"""On a GPU, finished rays are dropped after this many steps, as that synchronises with the device;
on a CPU after every step."""


@dataclass(frozen=True, eq=False)
class Samples:
    """N samples along R rays, sorted by ray."""

    ray: Tensor
    """(N,) int64 index of the ray."""
    slot: Tensor
    """(N,) int64 index of the sample within its ray."""
    t: Tensor
    """(N,) world distance along the ray; not differentiable."""


def march(
    grid: SdfGrid, size: Tensor, origins: Tensor, directions: Tensor, sharpness: float, step: float
) -> Samples:
    """Samples R rays at regular steps through the band around the surface.

    Sphere-traces the grid up to the band; a ray that leaves the band again continues to the next
    surface.

    Args:
        grid: approximate distances of the field.
        size: (3,) world size of the box from the grid's origin that encloses the object.
        origins: (R, 3) in the world.
        directions: (R, 3) unit.
        sharpness: NeuS' s, per world unit.
        step: world distance between samples.
    """
    band = BAND / sharpness
    near, far = intersect_box(grid.origin, size, origins, directions)
    ray = (near < far).nonzero()[:, 0]
    t, count = near[ray], torch.zeros_like(ray)
    transmittance, last = torch.ones_like(t), torch.ones_like(t)
    collected = [(ray[:0], count[:0], t[:0])]
    steps = 1 if ray.device.type == "cpu" else _STEPS_PER_SYNC
    while len(ray):
        start, direction, end = origins[ray], directions[ray], far[ray]
        active, visited = torch.ones_like(ray, dtype=torch.bool), []
        for _ in range(steps):
            points = start + t[:, None] * direction
            f = trilinear(grid.values, grid.origin, grid.spacing, points)
            sampled = active & (f < band)
            visited.append((sampled, ray, count, t))
            inside = torch.sigmoid(sharpness * f)
            # the transmittance is relative to the first sample
            survival = torch.where(count > 0, (inside / last).clamp(max=1.0), 1.0)
            transmittance = torch.where(sampled, transmittance * survival, transmittance)
            last = torch.where(sampled, inside, last)
            count = count + sampled
            t = t + torch.where(sampled, step, (0.9 * (f - band)).clamp(min=step))
            alive = (
                (t < end)
                & (f > -MAX_DEPTH / sharpness)
                & (count < MAX_SAMPLES)
                & (transmittance > _MIN_TRANSMITTANCE)
            )
            active = active & alive
        sampled, *samples = (torch.cat(parts) for parts in zip(*visited, strict=True))
        chosen = sampled.nonzero()[:, 0]
        collected.append(tuple(part[chosen] for part in samples))
        chosen = active.nonzero()[:, 0]
        ray, t, count, transmittance, last = (
            x[chosen] for x in (ray, t, count, transmittance, last)
        )
    rays, slots, t = (torch.cat(parts) for parts in zip(*collected, strict=True))
    order = torch.argsort(rays * MAX_SAMPLES + slots)
    return Samples(rays[order], slots[order], t[order])


def composite(logits: Tensor, samples: Samples, rays: int) -> tuple[Tensor, Tensor]:
    """NeuS weights (N,) of the samples and opacities (R,) from s f at the samples (N,)."""
    slots = int(samples.slot.max()) + 1 if len(samples.slot) else 1
    flat = samples.ray * slots + samples.slot
    inside = logits.new_zeros(rays * slots).scatter(0, flat, torch.sigmoid(logits))
    present = torch.zeros(rays * slots, dtype=torch.bool, device=logits.device)
    present[flat] = True
    inside, present = inside.view(rays, slots), present.view(rays, slots)
    alpha = ((inside[:, :-1] - inside[:, 1:]) / (inside[:, :-1] + 1e-9)).clamp(min=0.0)
    alpha = alpha * present[:, 1:]  # (R, S - 1): sections between neighbouring samples
    transmittance = F.pad(torch.cumprod(1.0 - alpha, dim=1), (1, 0), value=1.0)
    section = transmittance[:, :-1] * alpha
    # a sample has half the weight of the sections before and after it
    weight = 0.5 * (F.pad(section, (1, 0)) + F.pad(section, (0, 1)))  # (R, S)
    return weight.reshape(-1)[flat], section.sum(dim=1)


def intersect_box(
    low: Tensor, size: Tensor, origins: Tensor, directions: Tensor
) -> tuple[Tensor, Tensor]:
    """World distances (R,) at which rays enter and leave a box; near > far for misses."""
    eps = 1e-9
    safe = torch.where(directions.abs() < eps, torch.full_like(directions, eps), directions)
    ends = torch.stack([low - origins, low + size - origins]) / safe  # (2, R, 3)
    return ends.amin(dim=0).amax(dim=1).clamp(min=0.0), ends.amax(dim=0).amin(dim=1)


def trilinear(values: Tensor, low: Tensor, spacing: float, points: Tensor) -> Tensor:
    """Values (N,) of a grid (X, Y, Z) at world points (N, 3), clamped at the border."""
    sides = torch.tensor(values.shape, device=points.device) - 1
    coordinates = 2.0 * (points - low) / (spacing * sides) - 1.0
    return sample_trilinear(values[None], coordinates)[0]
