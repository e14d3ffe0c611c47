"""Samplers of EDM's probability flow ODE, behind one interface."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import count, pairwise

import torch
from torch import Tensor

from .config import SamplerName

Denoise = Callable[[Tensor, float], Tensor]
"""Denoiser D: noisy x and its noise level -> estimate of the data."""
OnEvaluation = Callable[[int, Tensor], None]
"""Called with the number of evaluations of D so far and the latest estimate of the data."""
Sampler = Callable[[Denoise, Tensor, Tensor, OnEvaluation | None], Tensor]
"""Integrates dx/dsigma = (x - D(x; sigma)) / sigma.

Args:
    denoise: D of the equation.
    x: (...) noise at level sigmas[0].
    sigmas: (S + 1,) decreasing noise levels; the last may be 0.
    on_evaluation: called after each evaluation of D; an exception in it ends the sampling.

Returns:
    (...) x at the last level; at level 0 it equals the last estimate exactly.
"""


def sample_euler(
    denoise: Denoise, x: Tensor, sigmas: Tensor, on_evaluation: OnEvaluation | None = None
) -> Tensor:
    """Implements Algorithm 1 (Euler steps) from Karras et al. (2022); see `Sampler`."""
    denoise = reporting(denoise, on_evaluation)
    for sigma, sigma_next in pairwise(sigmas.tolist()):
        x = blend(denoise(x, sigma), x, sigma_next / sigma)
    return x


def sample_heun(
    denoise: Denoise, x: Tensor, sigmas: Tensor, on_evaluation: OnEvaluation | None = None
) -> Tensor:
    """Implements Algorithm 1 (Heun steps) from Karras et al. (2022); see `Sampler`.

    Evaluates D twice per step, and once in the step to level 0.
    """
    denoise = reporting(denoise, on_evaluation)
    for sigma, sigma_next in pairwise(sigmas.tolist()):
        denoised = denoise(x, sigma)
        predicted = blend(denoised, x, sigma_next / sigma)  # the Euler step
        if sigma_next == 0.0:
            x = predicted
            continue
        derivative = (x - denoised) / sigma
        next_derivative = (predicted - denoise(predicted, sigma_next)) / sigma_next
        x = x + (sigma_next - sigma) * 0.5 * (derivative + next_derivative)
    return x


def sample_dpmpp_2m(
    denoise: Denoise, x: Tensor, sigmas: Tensor, on_evaluation: OnEvaluation | None = None
) -> Tensor:
    """Implements Algorithm 2 (DPM-Solver++(2M)) from Lu et al. (2022); see `Sampler`.

    Extrapolates the estimate of the data linearly in -ln(sigma) from the last two evaluations. The
    first step and the step to level 0 are of first order, as in k-diffusion.
    """
    denoise = reporting(denoise, on_evaluation)
    previous, previous_h = None, 0.0
    for sigma, sigma_next in pairwise(sigmas.tolist()):
        denoised = estimate = denoise(x, sigma)
        h = math.log(sigma / sigma_next) if sigma_next > 0.0 else math.inf
        if previous is not None and sigma_next > 0.0:
            estimate = denoised + (denoised - previous) * (h / (2.0 * previous_h))
        x = blend(estimate, x, sigma_next / sigma)
        previous, previous_h = denoised, h
    return x


SAMPLERS: dict[SamplerName, Sampler] = {
    "euler": sample_euler,
    "heun": sample_heun,
    "dpmpp_2m": sample_dpmpp_2m,
}
"""By name."""


def evaluation_sigmas(name: SamplerName, sigmas: Tensor) -> list[float]:
    """The noise level of each evaluation of D, in order, found by sampling with a dummy denoiser.

    Args:
        name: a key of `SAMPLERS`.
        sigmas: (S + 1,) noise levels of the steps.
    """
    levels: list[float] = []

    def record(x: Tensor, sigma: float) -> Tensor:
        levels.append(sigma)
        return x

    SAMPLERS[name](record, torch.zeros(1), sigmas, None)
    return levels


def blend(denoised: Tensor, x: Tensor, ratio: float) -> Tensor:
    """x at a noise level lower by a factor: ratio x + (1 - ratio) denoised, exact at ratio 0."""
    return denoised + (x - denoised) * ratio


def reporting(denoise: Denoise, on_evaluation: OnEvaluation | None) -> Denoise:
    """The denoiser, which reports each evaluation."""
    if on_evaluation is None:
        return denoise
    evaluations = count(1)

    def evaluate(x: Tensor, sigma: float) -> Tensor:
        denoised = denoise(x, sigma)
        on_evaluation(next(evaluations), denoised)
        return denoised

    return evaluate
