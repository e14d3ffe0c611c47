"""All random numbers of a training step, keyed by seed, step and index in the batch.

They depend on nothing else: a resumed run continues with the same values without a saved generator
state, and several processes draw the same values as one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from .data.config import NoiseTarget

GREY_BACKGROUND_FRACTION = 0.5
"""Fraction of the random backgrounds that are grey."""


@dataclass(frozen=True, eq=False)
class StepRandomness:
    """Random numbers of one step for B objects."""

    level: Tensor
    """(B,) uniform in 0..1, position of the noise level within its stratum; see `batch_index`."""
    batch_index: Tensor
    """(B,) int64 index of the object in the batch over all processes."""
    dropout: Tensor
    """(B,) uniform in 0..1, decides the conditioning dropout."""
    strength: Tensor
    """(B,) standard normal, strength of the input image's noise."""
    background: Tensor
    """(B, 3) in 0..1, random background colour of the input image."""
    variant: Tensor
    """(B,) uniform in 0..1, decides whether the background is random, or which precomputed variant
    is used."""
    image_noise: Tensor
    """(B, 3, S, S) standard normal noise of the input image, or (B, C, h, w) of its latent."""
    feedback: Tensor
    """(B,) uniform in 0..1, decides whether an object has a second pass with feedback."""
    noise: Tensor
    """(D, B, V, C, h, w) standard normal noise of the latents."""

    def to(self, device: torch.device) -> StepRandomness:
        """A copy on a device."""
        values = (getattr(self, each.name) for each in fields(self))
        return StepRandomness(*(value.to(device, non_blocking=True) for value in values))

    def slice(self, start: int, end: int) -> StepRandomness:
        """Objects start to end - 1."""
        values = {each.name: getattr(self, each.name)[start:end] for each in fields(self)[:-1]}
        return StepRandomness(**values, noise=self.noise[:, start:end])

    def select_views(self, views: Tensor) -> StepRandomness:
        """The noise of the views of these indices (v,)."""
        return replace(self, noise=self.noise[:, :, views])


def keyed_generator(*key: int) -> torch.Generator:
    """A CPU generator seeded by a tuple of integers."""
    seed = np.random.SeedSequence(key).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(seed[0]) << 31 | int(seed[1]) >> 1)


def draw_views(seed: int, step: int, views: int, count: int) -> Tensor:
    """The views (count,) of a step, in increasing order: the first, and random others.

    Args:
        seed: seed of the run.
        step: number of the step.
        views: number of views of an object.
        count: number of views to draw.
    """
    others = torch.randperm(views - 1, generator=keyed_generator(seed, step))[: count - 1] + 1
    return torch.cat([torch.zeros(1, dtype=torch.int64), others.sort().values])


def draw_step_randomness(
    seed: int,
    step: int,
    indices: range,
    latents: tuple[int, int, int, int, int],
    size_px: int,
    noise_target: NoiseTarget = "image",
) -> StepRandomness:
    """Draws the random numbers of a step.

    Args:
        seed: seed of the run.
        step: number of the step.
        indices: indices of the objects in the batch over all processes.
        latents: (D, V, C, h, w) of one object.
        size_px: side of the input image.
        noise_target: what the noise of the input image is added to.
    """
    count = len(indices)
    target = (3, size_px, size_px) if noise_target == "image" else latents[2:]
    uniforms = torch.zeros(count, 7)
    strength = torch.zeros(count)
    image_noise = torch.zeros(count, *target)
    noise = torch.zeros(count, *latents)
    feedback = torch.zeros(count)
    for row, index in enumerate(indices):
        generator = keyed_generator(seed, step, index)
        uniforms[row] = torch.rand(7, generator=generator)
        strength[row].normal_(generator=generator)
        image_noise[row].normal_(generator=generator)
        noise[row].normal_(generator=generator)
        feedback[row] = torch.rand((), generator=generator)
    grey = uniforms[:, 3:4] < GREY_BACKGROUND_FRACTION
    colours = torch.where(grey, uniforms[:, 4:5].expand(-1, 3), uniforms[:, 4:7])
    return StepRandomness(
        level=uniforms[:, 0],
        batch_index=torch.tensor(list(indices), dtype=torch.int64),
        dropout=uniforms[:, 1],
        strength=strength,
        background=colours,
        variant=uniforms[:, 2],
        image_noise=image_noise,
        feedback=feedback,
        noise=noise.transpose(0, 1),
    )
