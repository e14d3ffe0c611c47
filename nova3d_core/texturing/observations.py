"""Observations: colours of sampled texels in all views that see them."""

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
"""About one per pixel of typical images; more have no measurable effect."""
_MAX_SAMPLES = 8_000_000
"""Maximum number of texels times views, which bounds the memory."""


@dataclass(frozen=True, eq=False)
class Observations:
    """S samples, each one texel as seen in one view, sorted by texel."""

    num_texels: int
    """Number of sampled texels."""
    num_views: int
    """Number of views, V."""
    texel: Tensor
    """(S,) texel index."""
    view: Tensor
    """(S,) view index."""
    pixels: Tensor
    """(S, 2) x and y in the view's image."""
    cosine: Tensor
    """(S,) cosine between surface normal and direction to the camera."""
    confidence: Tensor
    """(S,) weight of the view's pixel, above 0 and at most 1."""
    colour: Tensor
    """(S, 3)."""
    low: Tensor
    """(S, 3) minimum colour in the neighbourhood of the pixel."""
    high: Tensor
    """(S, 3) maximum colour in the neighbourhood of the pixel."""

    def without_gains(self, gains: Tensor) -> Observations:
        """The samples with each view's gains (V, 3) undone."""
        gain = gains[self.view]
        return replace(self, colour=self.colour / gain, low=self.low / gain, high=self.high / gain)


def subsample_texels(texels: Texels, views: int) -> Texels:
    """A uniform random subset of the texels, always with the same seed."""
    count = min(len(texels.index), _MAX_TEXELS, max(_MAX_SAMPLES // views, 1))
    if count == len(texels.index):
        return texels
    generator = torch.Generator().manual_seed(0)
    return texels.select(torch.randperm(len(texels.index), generator=generator)[:count].sort()[0])


def collect_observations(
    texels: Texels,
    images: Iterable[Tensor],
    confidence: Tensor,
    visible_texels: Iterable[VisiblePoints],
) -> Observations:
    """Samples all views at the texels that they see.

    Args:
        texels: the sampled texels.
        images: (H, W, 3) of each view, with the foreground extended over the background.
        confidence: (V, H, W) in 0..1.
        visible_texels: the texels that each view sees, in the order of the views.
    """
    parts = []
    for view, (image, visible) in enumerate(zip(images, visible_texels, strict=True)):
        weight = sample_image(confidence[view][..., None], visible.pixels)[:, 0]
        kept = weight > 0
        pixels = visible.pixels[kept]
        low, high = local_colour_range(image)
        parts.append(
            (
                visible.index[kept],
                torch.full((len(pixels),), view),
                pixels,
                visible.cosine[kept],
                weight[kept],
                *(sample_image(layer, pixels) for layer in (image, low, high)),
            )
        )
    columns = [torch.cat(column) for column in zip(*parts, strict=True)]
    order = torch.argsort(columns[0], stable=True)
    return Observations(len(texels.index), len(confidence), *(column[order] for column in columns))


def group_by_view_count(observations: Observations, max_pairs: int) -> Iterator[Tensor]:
    """Chunks of sample indices (B, n) of B texels that exactly n views see, for each n >= 2.

    Args:
        observations: S samples.
        max_pairs: upper bound of B n^2, the number of pairs of views in a chunk.
    """
    num_views = torch.bincount(observations.texel, minlength=observations.num_texels)  # (texels,)
    first = torch.cumsum(num_views, 0) - num_views
    for count in range(2, int(num_views.max()) + 1 if len(observations.texel) else 2):
        starts = first[num_views == count]
        for chunk in starts.split(max(max_pairs // count**2, 1)):
            yield chunk[:, None] + torch.arange(count)
