"""From noise to data: Euler's method along EDM's probability flow."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from torch import Tensor

Denoise = Callable[[Tensor, float], Tensor]
"""Noisy x and its noise level -> the data that the network expects behind it."""
OnStep = Callable[[int, Tensor], None]
"""Steps finished, and the network's latest estimate of the data."""


def sample_euler(
    denoise: Denoise, x: Tensor, sigmas: Tensor, on_step: OnStep | None = None
) -> Tensor:
    """Follows dx/dsigma = (x - D(x; sigma)) / sigma from the first noise level to the last.

    Args:
        denoise: D of the equation.
        x: (...) noise at the level sigmas[0].
        sigmas: (S + 1,) falling noise levels; the last may be 0.
        on_step: called after each of the S steps; what it raises ends the sampling.

    Returns:
        (...) x at the last level; at 0 it is exactly the last estimate.
    """
    levels = sigmas.tolist()
    for step, (level, following) in enumerate(pairwise(levels), 1):
        estimate = denoise(x, level)
        # Euler's x + (following - level) (x - estimate) / level, without its cancellation at 0
        x = estimate + (x - estimate) * (following / level)
        if on_step is not None:
            on_step(step, estimate)
    return x
