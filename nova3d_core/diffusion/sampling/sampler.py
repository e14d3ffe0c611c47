"""Samplers of EDM's probability flow ODE."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from torch import Tensor

Denoise = Callable[[Tensor, float], Tensor]
"""Denoiser D: noisy x and its noise level -> estimate of the data."""
OnStep = Callable[[int, Tensor], None]
"""Called with the number of finished steps and the latest estimate of the data."""


def sample_euler(
    denoise: Denoise, x: Tensor, sigmas: Tensor, on_step: OnStep | None = None
) -> Tensor:
    """Implements Algorithm 1 (Euler steps) from Karras et al. (2022).

    Integrates dx/dsigma = (x - D(x; sigma)) / sigma over the noise levels.

    Args:
        denoise: D of the equation.
        x: (...) noise at level sigmas[0].
        sigmas: (S + 1,) decreasing noise levels; the last may be 0.
        on_step: called after each of the S steps; an exception in it ends the sampling.

    Returns:
        (...) x at the last level; at level 0 it equals the last estimate exactly.
    """
    levels = sigmas.tolist()
    for step, (sigma, sigma_next) in enumerate(pairwise(levels), 1):
        denoised = denoise(x, sigma)
        # x + (sigma_next - sigma) (x - denoised) / sigma, rearranged to avoid cancellation at 0
        x = denoised + (x - denoised) * (sigma_next / sigma)
        if on_step is not None:
            on_step(step, denoised)
    return x
