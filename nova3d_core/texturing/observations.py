"""What the views say about a sample of the surface: where they differ shows who is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..imaging.sampling import sample_image
from .texels import Texels
from .view_images import local_colour_range
from .visibility import VisiblePoints

_MAX_TEXELS = 60_000
"""About one for each pixel of the usual images; more change nothing that could be measured."""
_MAX_SAMPLES = 8_000_000
"""Texels times views, which bounds the memory."""


@dataclass(frozen=True, eq=False)
class Observations:
    """S samples: what one view says about one texel of the sample; in the order of the texels."""

    texels: int
    """How many texels were asked about."""
    views: int
    """How many views were asked, V."""
    texel: Tensor
    """(S,) in 0..texels."""
    view: Tensor
    """(S,) in 0..V."""
    pixels: Tensor
    """(S, 2) where in the view's image."""
    cosine: Tensor
    """(S,) between the surface's normal and the view."""
    trust: Tensor
    """(S,) above 0, at most 1: how much the view's pixel counts."""
    colour: Tensor
    """(S, 3)."""
    low: Tensor
    """(S, 3) lowest colour around the pixel."""
    high: Tensor
    """(S, 3) highest colour around the pixel."""

    def divided_by(self, gains: Tensor) -> Observations:
        """The same samples with each view's gains (V, 3) undone."""
        gain = gains[self.view]
        return replace(self, colour=self.colour / gain, low=self.low / gain, high=self.high / gain)


def subsample_texels(texels: Texels, views: int) -> Texels:
    """A sample of the texels, spread evenly and the same each time."""
    count = min(len(texels.index), _MAX_TEXELS, max(_MAX_SAMPLES // views, 1))
    if count == len(texels.index):
        return texels
    generator = torch.Generator().manual_seed(0)
    return texels.chosen(torch.randperm(len(texels.index), generator=generator)[:count].sort()[0])


def collect_observations(
    texels: Texels, images: Iterable[Tensor], trust: Tensor, sights: Iterable[VisiblePoints]
) -> Observations:
    """Asks the views about texels.

    Args:
        texels: the sample.
        images: (H, W, 3) of each view, without background.
        trust: (V, H, W) in 0..1.
        sights: what each view sees of the texels, in the order of the views.
    """
    parts = []
    for view, (image, sight) in enumerate(zip(images, sights, strict=True)):
        counts = sample_image(trust[view][..., None], sight.pixels)[:, 0]
        kept = counts > 0
        pixels = sight.pixels[kept]
        low, high = local_colour_range(image)
        parts.append(
            (
                sight.place[kept],
                torch.full((len(pixels),), view),
                pixels,
                sight.cosine[kept],
                counts[kept],
                *(sample_image(layer, pixels) for layer in (image, low, high)),
            )
        )
    columns = [torch.cat(column) for column in zip(*parts, strict=True)]
    order = torch.argsort(columns[0], stable=True)
    return Observations(len(texels.index), len(trust), *(column[order] for column in columns))


def group_by_view_count(survey: Observations, values_at_once: int) -> Iterator[Tensor]:
    """Indices of samples (B, n) of B texels that n views see, for each n, in parts.

    Args:
        survey: S samples.
        values_at_once: B n^2 stays below this, so that views can be compared in pairs.
    """
    seen_by = torch.bincount(survey.texel, minlength=survey.texels)  # (texels,)
    first = torch.cumsum(seen_by, 0) - seen_by
    for count in range(2, int(seen_by.max()) + 1 if len(survey.texel) else 2):
        starts = first[seen_by == count]
        for part in starts.split(max(values_at_once // count**2, 1)):
            yield part[:, None] + torch.arange(count)
