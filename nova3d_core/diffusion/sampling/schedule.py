"""Noise schedule and preconditioning of EDM (Karras et al. 2022)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...checks import check_between

SIGMA_MIN = 0.002
SIGMA_MAX = 700.0
RHO = 7.0
"""Exponent of the schedule: larger values place more steps at low noise."""


def karras_sigmas(
    steps: int, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX, rho: float = RHO
) -> Tensor:
    """Noise schedule of Karras et al. (2022), equation 5: evenly spaced in sigma^(1/rho), then 0.

    Args:
        steps: number of denoising steps, at least 1.
        sigma_min: the last level above 0.
        sigma_max: the first level.
        rho: exponent of the spacing.

    Returns:
        (steps + 1,) float32.
    """
    check_between("sampling steps", steps, 1, 1000)
    ramp = torch.linspace(0.0, 1.0, steps, dtype=torch.float64)
    first, last = sigma_max ** (1.0 / rho), sigma_min ** (1.0 / rho)
    sigmas = (first + ramp * (last - first)) ** rho
    return torch.cat([sigmas, sigmas.new_zeros(1)]).float()


@dataclass(frozen=True)
class Preconditioning:
    """EDM preconditioning D(x; sigma) = c_skip x + c_out F(c_in x; c_noise) with sigma_data = 1.

    F predicts v = cos(p) noise - sin(p) data with tan(p) = sigma, as in SVD, so c_out is negative.
    (NOVA3D's equation 8 prints it positive, which would invert the output of SVD's weights.)
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
    """Preconditioning coefficients at a noise level above 0."""
    c_in = 1.0 / math.sqrt(sigma * sigma + 1.0)
    return Preconditioning(c_in * c_in, -sigma * c_in, c_in, 0.25 * math.log(sigma))


def init_noise_sigma(sigma: float) -> float:
    """Standard deviation of the noisy data at a noise level: sqrt(1 + sigma^2)."""
    return math.sqrt(1.0 + sigma * sigma)
