"""Noise levels of training: log-normal, with stages that shift upwards during the run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .config import NoiseStage

_EPS = 1e-6
"""Quantiles are clamped to [eps, 1 - eps]: the normal distribution's are infinite at 0 and 1."""


def stage_at(stages: Sequence[NoiseStage], step: int, steps: int) -> NoiseStage:
    """The noise stage of a step.

    Args:
        stages: in order of their start.
        step: 0 to steps - 1.
        steps: length of the run.
    """
    fraction = step / max(steps, 1)
    # a step on a boundary belongs to the later stage, whatever the rounding of the division
    return [stage for stage in stages if stage.start <= fraction + 1e-9][-1]


def log_normal_sigmas(stage: NoiseStage, normals: Tensor) -> Tensor:
    """Noise levels exp(mean + std z) of standard normal values z, both (B,) float32."""
    return torch.exp(stage.mean + stage.std * normals)


def stratified_normals(uniforms: Tensor, strata: Tensor, count: int) -> Tensor:
    """Stratified standard normal samples.

    Each sample alone is standard normal if its stratum is uniformly random. A batch covers the
    distribution more evenly than independent samples, which reduces the variance of the gradient.

    Args:
        uniforms: (B,) in 0..1, position within the stratum.
        strata: (B,) int, 0 to count - 1, each at most once per batch.
        count: number of strata, of equal probability.
    """
    quantiles = (strata + uniforms.double()) / count
    return torch.special.ndtri(quantiles.clamp(_EPS, 1.0 - _EPS)).float()
