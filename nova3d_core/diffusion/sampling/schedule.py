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
    steps: int, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX, rho: float = RHO
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
    first, last = sigma_max ** (1.0 / rho), sigma_min ** (1.0 / rho)
    sigmas = (first + share * (last - first)) ** rho
    return torch.cat([sigmas, sigmas.new_zeros(1)]).float()


@dataclass(frozen=True)
class Preconditioning:
    """D(x; sigma) = skip x + out F(into x; noise), for data of standard deviation 1.

    F predicts v = cos(p) noise - sin(p) data with tan(p) = sigma, as SVD was trained; so `out` is
    negative. (NOVA3D's equation 8 prints it positive, which would turn SVD's weights round.)
    """

    c_skip: float
    """1 / (sigma^2 + 1)."""
    c_out: float
    """-sigma / sqrt(sigma^2 + 1)."""
    c_in: float
    """1 / sqrt(sigma^2 + 1)."""
    c_noise: float
    """ln(sigma) / 4."""


def preconditioning(sigma: float) -> Preconditioning:
    """EDM's coefficients at one noise level above 0."""
    c_in = 1.0 / math.sqrt(sigma * sigma + 1.0)
    return Preconditioning(c_in * c_in, -sigma * c_in, c_in, 0.25 * math.log(sigma))


def init_noise_sigma(sigma: float) -> float:
    """What standard noise is multiplied with to start from: sqrt(1 + sigma^2), data included."""
    return math.sqrt(1.0 + sigma * sigma)
