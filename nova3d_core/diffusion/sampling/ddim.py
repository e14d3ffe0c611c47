"""DDIM sampling of networks that predict noise at discrete timesteps (Song et al. 2021).

DDIM's x_t = sqrt(a) x_0 + sqrt(1 - a) eps is written with EDM's noise level sigma =
sqrt((1 - a) / a) and x = x_t / sqrt(a) = x_0 + sigma eps, so that these networks share the denoiser
and its guidance with the others.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from ...errors import InputError
from .sampler import Denoise, OnEvaluation, blend, reporting
from .schedule import Preconditioning

logger = logging.getLogger(__name__)

TRAIN_STEPS = 1000
BETA_START, BETA_END = 0.00085, 0.012
"""Stable Diffusion's noise schedule: the square roots of the betas are evenly spaced."""
STEPS_OFFSET = 1
"""Shift of all timesteps, as in Stable Diffusion's scheduler."""
MAX_STEPS = TRAIN_STEPS // 2
MIN_FIRST_TIMESTEP = 900
"""Warn if sampling starts below this timestep: with pure noise as input, it has to be near 1000."""


def train_sigmas() -> Tensor:
    """(1000,) float64 noise levels of the timesteps 0 to 999, increasing from 0.03 to 14.6."""
    roots = torch.linspace(BETA_START**0.5, BETA_END**0.5, TRAIN_STEPS, dtype=torch.float64)
    alphas = torch.cumprod(1.0 - roots**2, dim=0)
    return ((1.0 - alphas) / alphas).sqrt()


def ddim_sigmas(steps: int) -> Tensor:
    """Noise levels of evenly spaced timesteps ("leading"), then that of timestep 0.

    Args:
        steps: number of denoising steps, 1 to 500.

    Returns:
        (steps + 1,) float32, decreasing; the last is above 0, as in Stable Diffusion.

    Raises:
        InputError: too many steps.
    """
    if not 1 <= steps <= MAX_STEPS:
        raise InputError(
            f"sampling steps is {steps}, but DDIM on {TRAIN_STEPS} timesteps takes 1 to "
            f"{MAX_STEPS}.",
            "Use 20 to 50 steps.",
        )
    stride = TRAIN_STEPS // steps
    timesteps = torch.arange(steps - 1, -1, -1) * stride + STEPS_OFFSET
    first = int(timesteps[0])
    if first < MIN_FIRST_TIMESTEP:
        logger.warning(
            "with steps = %d, sampling starts at timestep %d of %d, where the model expects an "
            "image in the noise; use 20, 25, 40, 50 or 100 steps.",
            steps,
            first,
            TRAIN_STEPS,
        )
    levels = train_sigmas()
    return torch.cat([levels[timesteps], levels[:1]]).float()


def timestep_of(sigma: float) -> float:
    """The timestep of a noise level, interpolated in log sigma; exact at the trained levels."""
    levels = train_sigmas().log()
    value = min(max(math.log(sigma), float(levels[0])), float(levels[-1]))
    above = max(int(torch.searchsorted(levels, torch.tensor(value, dtype=torch.float64))), 1)
    low, high = float(levels[above - 1]), float(levels[above])
    timestep = above - 1 + (value - low) / (high - low)
    nearest = round(timestep)  # a float32 level is a little off its timestep
    return float(nearest) if abs(timestep - nearest) < 1e-3 else timestep


def noise_prediction(sigma: float) -> Preconditioning:
    """D(x; sigma) = x - sigma eps(x / sqrt(sigma^2 + 1); t(sigma)), for noise levels above 0."""
    c_in = 1.0 / math.sqrt(sigma * sigma + 1.0)
    return Preconditioning(c_skip=1.0, c_out=-sigma, c_in=c_in, c_noise=timestep_of(sigma))


def sample_ddim(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    on_evaluation: OnEvaluation | None = None,
    *,
    eta: float = 1.0,
    noise: Callable[[Tensor], Tensor] = torch.randn_like,
) -> Tensor:
    """Implements equation 12 of Song et al. (2021), in EDM's variables.

    x' = D + sqrt(sigma'^2 - s^2) (x - D) / sigma + s z, where
    s = eta sigma' sqrt(1 - sigma'^2 / sigma^2) is the fresh part of the noise z ~ N(0, 1). With
    eta = 0 this is Euler's method; with eta = 1 it is ancestral sampling.

    Args:
        denoise: the denoiser D.
        x: (...) noise at level sigmas[0].
        sigmas: (S + 1,) decreasing noise levels.
        on_evaluation: called after each of the S evaluations of D; an exception in it ends the
            sampling.
        eta: fraction of fresh noise, 0 to 1.
        noise: draws z in the shape of x.

    Returns:
        (...) x at the last level.
    """
    denoise = reporting(denoise, on_evaluation)
    for sigma, sigma_next in pairwise(sigmas.double().tolist()):
        fresh = eta * sigma_next * math.sqrt(1.0 - (sigma_next / sigma) ** 2)
        kept = math.sqrt(sigma_next**2 - fresh**2)
        x = blend(denoise(x, sigma), x, kept / sigma)
        if fresh:
            x = x + fresh * noise(x)
    return x


class StepNoise:
    """Noise of the steps, drawn on the CPU from a seed, so that it does not depend on the device.

    Args:
        seed: of the sample; the stream differs from that of the start noise.
    """

    _STREAM = 0x5DD1_4E75

    def __init__(self, seed: int):
        self._generator = torch.Generator().manual_seed((seed ^ self._STREAM) % 2**64)

    def __call__(self, x: Tensor) -> Tensor:
        """Standard normal noise in the shape of x, on its device."""
        drawn = torch.randn(x.shape, generator=self._generator)
        return drawn.to(x.device, x.dtype)
