"""Random orbits, as SV3D p was trained on them (Voleti et al. 2024, appendix B)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

MAX_SINUSOIDS, MAX_PERIODS = 3, 5
"""Number of sinusoids in an orbit, and of whole periods of each."""
AMPLITUDE_DEG = (0.5, 10.0)
AZIMUTH_NOISE_DEG = 3.0
MAX_NOISE_RATIO = 0.4
"""Bound of the azimuth noise relative to the step between views, so that azimuths increase."""
SHIFT_DEG = 25.0
"""Elevation towards the unseen parts, added in the middle of the orbit."""
MAX_ELEVATION_DEG = 70.0
CANDIDATES = 16
"""Random orbits from which the one that sees the most unseen surface is chosen."""
MAX_CHOICES, MAX_POINTS = 1 << 20, 4096
"""Texels that are considered, and of these a random sample by weight."""


def random_orbit(
    views: int, elevation_deg: float, shift_deg: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Azimuths and elevations of a random orbit around the object that ends at the input view.

    The elevation is a sum of sinusoids around that of the input view, smoothed, plus a shift that
    fades to 0 at the input view.

    Args:
        views: V.
        elevation_deg: of the input view.
        shift_deg: elevation added halfway around.
        generator: of the random numbers.

    Returns:
        Azimuths (V,), increasing up to the last view's, which is 0, and elevations (V,) in degrees;
        those of the last view are the input view's, the others within 70 degrees.
    """
    phase = torch.arange(1, views + 1, dtype=torch.float64) / views  # the input view at 1

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))

    def integer(high: int) -> int:
        return int(torch.randint(1, high + 1, (), generator=generator))

    waves = torch.zeros(views, dtype=torch.float64)
    for _ in range(integer(MAX_SINUSOIDS)):
        periods, amplitude_deg = integer(MAX_PERIODS), uniform(*AMPLITUDE_DEG)
        waves += amplitude_deg * torch.sin(2.0 * math.pi * (periods * phase + uniform(0.0, 1.0)))
    waves = 0.5 * waves + 0.25 * (waves.roll(1) + waves.roll(-1))
    shift = shift_deg * torch.sin(math.pi * phase)
    elevations = elevation_deg + waves - waves[-1] + shift
    elevations = elevations.clamp(-MAX_ELEVATION_DEG, MAX_ELEVATION_DEG)
    step_deg = 360.0 / views
    noise = AZIMUTH_NOISE_DEG * torch.randn(views, generator=generator, dtype=torch.float64)
    bound = MAX_NOISE_RATIO * step_deg
    azimuths = 360.0 * phase + noise.clamp(-bound, bound)
    azimuths[-1], elevations[-1] = 0.0, elevation_deg
    return azimuths, elevations


def best_orbit(
    views: int,
    elevation_deg: float,
    normals: Tensor,
    weights: Tensor,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """The random orbit that faces the most unseen surface; angles as in `random_orbit`.

    Half of the orbits rise above the input view, the other half fall below it. Occlusion is
    neglected.

    Args:
        views: V.
        elevation_deg: of the input view.
        normals: (T, 3) unit normals of the texels, in the world of the orbit.
        weights: (T,) how unseen each texel is.
        generator: of the random numbers.
    """
    stride = len(weights) // MAX_CHOICES + 1
    normals, weights = normals[::stride], weights[::stride]
    if len(weights) > MAX_POINTS:
        chosen = torch.multinomial(weights + 1e-12, MAX_POINTS, True, generator=generator)
        normals, weights = normals[chosen], torch.ones(MAX_POINTS)
    best, best_score = None, -1.0
    for index in range(CANDIDATES):
        sign = 1.0 if index % 2 == 0 else -1.0
        azimuths, elevations = random_orbit(views, elevation_deg, sign * SHIFT_DEG, generator)
        cosine = (normals @ _directions(azimuths, elevations).T).amax(dim=1).clamp_min(0.0)
        score = float((weights * cosine).sum())
        if score > best_score:
            best, best_score = (azimuths, elevations), score
    return best


def _directions(azimuths_deg: Tensor, elevations_deg: Tensor) -> Tensor:
    """(V, 3) unit vectors from the object to cameras at angles (V,)."""
    azimuth, elevation = torch.deg2rad(azimuths_deg), torch.deg2rad(elevations_deg)
    level = elevation.cos()
    parts = (level * azimuth.sin(), elevation.sin(), level * azimuth.cos())
    return torch.stack(parts, dim=1).float()
