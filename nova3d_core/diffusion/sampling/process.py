"""The sampling process of a family: noise levels, what its network predicts, and the solver."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from ..families import Family
from .config import SampleConfig
from .ddim import StepNoise, ddim_sigmas, noise_prediction, sample_ddim
from .sampler import SAMPLERS, Sampler, evaluation_sigmas
from .schedule import Preconditioning, karras_sigmas, preconditioning

logger = logging.getLogger(__name__)

MIN_HEUN_STEPS = 10
"""With fewer steps, Heun's method overshoots at high noise; see docs/results/samplers.md."""


@dataclass(frozen=True, eq=False)
class SamplingProcess:
    """How noise becomes latents."""

    sigmas: Tensor
    """(S + 1,) decreasing noise levels of the steps."""
    evaluation_sigmas: list[float]
    """Noise level of each evaluation of the denoiser."""
    precondition: Callable[[float], Preconditioning]
    """EDM's coefficients of the network."""
    make_sampler: Callable[[], Sampler]
    """A new solver; its random numbers start anew, so a repeated run gives the same result."""


def sampling_process(family: Family, config: SampleConfig) -> SamplingProcess:
    """The process of a family; its own solver replaces the configured one.

    Raises:
        InputError: more steps than the family supports.
    """
    steps = config.steps or family.steps
    if family.process == "ddim":
        if config.sampler != "euler":
            logger.warning(
                "%s is sampled by DDIM: the sampler %s is ignored.", family.label, config.sampler
            )
        sigmas = ddim_sigmas(steps)
        return SamplingProcess(
            sigmas,
            sigmas[:-1].tolist(),
            noise_prediction,
            lambda: partial(sample_ddim, eta=family.eta, noise=StepNoise(config.seed)),
        )
    if config.sampler == "heun" and steps < MIN_HEUN_STEPS:
        logger.warning(
            "the sampler heun is unusable with %d steps: use at least %d, or another sampler.",
            steps,
            MIN_HEUN_STEPS,
        )
    sigmas = karras_sigmas(steps, family.sigma_min, family.sigma_max)
    return SamplingProcess(
        sigmas,
        evaluation_sigmas(config.sampler, sigmas),
        preconditioning,
        lambda: SAMPLERS[config.sampler],
    )
