"""All random numbers of a training step, drawn for each object alone.

An object's numbers depend on the run's seed, the step and the object's place in the batch, and on
nothing else: a stopped run goes on with the same ones without keeping a generator's state, and
several processes draw what one would draw.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

GREY_SHARE = 0.5
"""Share of the random backgrounds that are grey."""


@dataclass(frozen=True, eq=False)
class Draws:
    """Of B objects."""

    level: Tensor
    """(B,) in 0..1, where in its distribution the noise level lies; see `place`."""
    place: Tensor
    """(B,) int64 place of the object in the whole batch."""
    dropped: Tensor
    """(B,) in 0..1, decides which conditions are left out."""
    strength: Tensor
    """(B,) standard normal, of the noise on the input image."""
    background: Tensor
    """(B, 3) in 0..1, a colour for the input image's background."""
    plain: Tensor
    """(B,) in 0..1, decides whether the background stays white."""
    image_noise: Tensor
    """(B, 3, S, S) standard normal."""
    noise: Tensor
    """(D, B, V, C, h, w) standard normal."""

    def to(self, device: torch.device) -> Draws:
        """The same elsewhere."""
        values = (getattr(self, each.name) for each in fields(self))
        return Draws(*(value.to(device, non_blocking=True) for value in values))

    def part(self, first: int, last: int) -> Draws:
        """Those of some of the objects."""
        values = {each.name: getattr(self, each.name)[first:last] for each in fields(self)[:-1]}
        return Draws(**values, noise=self.noise[:, first:last])


def generator_of(*key: int) -> torch.Generator:
    """A generator on the CPU that belongs to a few whole numbers."""
    seed = np.random.SeedSequence(key).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(seed[0]) << 31 | int(seed[1]) >> 1)


def draw(
    seed: int,
    step: int,
    places: range,
    latents: tuple[int, int, int, int, int],
    size_px: int,
) -> Draws:
    """The numbers of a step for the objects at some places of the whole batch.

    Args:
        seed: the run's.
        step: the step.
        places: of these objects in the batch over all processes.
        latents: (D, V, C, h, w) of an object.
        size_px: side of the input image.
    """
    count = len(places)
    few = torch.zeros(count, 7)
    strength = torch.zeros(count)
    image_noise = torch.zeros(count, 3, size_px, size_px)
    noise = torch.zeros(count, *latents)
    for index, place in enumerate(places):
        generator = generator_of(seed, step, place)
        few[index] = torch.rand(7, generator=generator)
        strength[index].normal_(generator=generator)
        image_noise[index].normal_(generator=generator)
        noise[index].normal_(generator=generator)
    grey = few[:, 3:4] < GREY_SHARE
    colours = torch.where(grey, few[:, 4:5].expand(-1, 3), few[:, 4:7])
    return Draws(
        level=few[:, 0],
        place=torch.tensor(list(places), dtype=torch.int64),
        dropped=few[:, 1],
        strength=strength,
        background=colours,
        plain=few[:, 2],
        image_noise=image_noise,
        noise=noise.transpose(0, 1),
    )
