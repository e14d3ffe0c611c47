"""Noise levels, and how a network is wrapped at each of them (EDM, Karras et al. 2022)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...checks import check_between

SIGMA_MIN = 0.002
SIGMA_MAX = 700.0
RHO = 7.0
"""How strongly the steps gather at low noise."""


def karras_sigmas(
    steps: int, lowest: float = SIGMA_MIN, highest: float = SIGMA_MAX, rho: float = RHO
) -> Tensor:
    """Falling noise levels, evenly spaced in sigma^(1/rho), and a 0 at the end.

    Args:
        steps: number of network evaluations, at least 1.
        lowest: the last level above 0.
        highest: the first level.
        rho: spacing.

    Returns:
        (steps + 1,) float32.
    """
    check_between("sampling steps", steps, 1, 1000)
    share = torch.linspace(0.0, 1.0, steps, dtype=torch.float64)
    first, last = highest ** (1.0 / rho), lowest ** (1.0 / rho)
    sigmas = (first + share * (last - first)) ** rho
    return torch.cat([sigmas, sigmas.new_zeros(1)]).float()


@dataclass(frozen=True)
class Coefficients:
    """D(x; sigma) = skip x + out F(into x; noise), for data of standard deviation 1.

    F predicts v = cos(p) noise - sin(p) data with tan(p) = sigma, as SVD was trained; so `out` is
    negative. (NOVA3D's equation 8 prints it positive, which would turn SVD's weights round.)
    """

    skip: float
    """1 / (sigma^2 + 1)."""
    out: float
    """-sigma / sqrt(sigma^2 + 1)."""
    into: float
    """1 / sqrt(sigma^2 + 1)."""
    noise: float
    """ln(sigma) / 4."""


def coefficients(sigma: float) -> Coefficients:
    """EDM's coefficients at one noise level above 0."""
    into = 1.0 / math.sqrt(sigma * sigma + 1.0)
    return Coefficients(into * into, -sigma * into, into, 0.25 * math.log(sigma))


def start_scale(sigma: float) -> float:
    """What standard noise is multiplied with to start from: sqrt(1 + sigma^2), data included."""
    return math.sqrt(1.0 + sigma * sigma)
