"""Which noise levels are trained on: log-normal, shifting upwards during the run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .config import NoiseStage

_EDGE = 1e-6
"""The normal distribution's quantiles at 0 and 1 are infinite: shares stay off them by this."""


def stage_at(stages: Sequence[NoiseStage], step: int, steps: int) -> NoiseStage:
    """The distribution that holds for a step of a run.

    The paper shifts it at 8k, 16k and 24k of 30k steps; here the shifts are shares of the run.

    Args:
        stages: by growing start.
        step: 0 to steps - 1.
        steps: length of the run.
    """
    share = step / max(steps, 1)
    # a step on the border belongs to the later stage, whatever the division rounds to
    return [stage for stage in stages if stage.start <= share + 1e-9][-1]


def sigmas_of(stage: NoiseStage, normals: Tensor) -> Tensor:
    """Noise levels exp(mean + std z) of standard normal numbers z, both (B,) float32."""
    return torch.exp(stage.mean + stage.std * normals)


def spread_normals(uniforms: Tensor, places: Tensor, batch: int) -> Tensor:
    """Standard normal numbers, each from its own slice of the distribution.

    Each number alone is standard normal when places are drawn evenly; a batch together covers the
    distribution more evenly than chance would, which makes its gradient steadier.

    Args:
        uniforms: (B,) in 0..1.
        places: (B,) int, which slice: 0 to batch - 1, none twice in a batch.
        batch: number of slices.
    """
    shares = (places + uniforms.double()) / batch
    return torch.special.ndtri(shares.clamp(_EDGE, 1.0 - _EDGE)).float()
