"""Previews of the views during sampling."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from ..codecs.pixels import PixelCodec
from ..model import Codec

MIN_INTERVAL_S = 1.0
"""Minimum time between two previews."""
LATENT_RGB_FACTORS = (
    (0.3512, 0.2297, 0.3227),
    (0.3250, 0.4974, 0.2350),
    (-0.2829, 0.1762, 0.2721),
    (-0.2120, -0.2616, -0.7177),
)
"""Linear map from the channels of a Stable Diffusion latent to RGB in -1..1.

The values are ComfyUI's `latent_rgb_factors` (`SD15` in comfy/latent_formats.py).
"""


def latents_to_rgb(latents: Tensor) -> Tensor:
    """Approximate colours of scaled latents: (..., 4, h, w) -> (..., h, w, 3) in 0..1."""
    factors = latents.new_tensor(LATENT_RGB_FACTORS, dtype=torch.float32)
    colours = latents.float().movedim(-3, -1) @ factors
    return (colours * 0.5 + 0.5).clamp(0.0, 1.0)


def image_grid(images: Tensor) -> Tensor:
    """Tiles images in one grid: a block of rows per domain, one below the other.

    Args:
        images: (D, V, H, W, 3).

    Returns:
        (H', W', 3); empty tiles are white.
    """
    domains, views, height, width, _ = images.shape
    columns = math.ceil(math.sqrt(views * domains * 2.0))  # about twice as wide as high
    columns = min(columns, views)
    rows = math.ceil(views / columns)
    tiles = images.new_ones(domains, rows * columns, height, width, 3)
    tiles[:, :views] = images
    blocks = tiles.unflatten(1, (rows, columns))  # (D, rows, columns, H, W, 3)
    return blocks.movedim(2, 3).reshape(domains * rows * height, columns * width, 3)


class LatentPreviewer:
    """Offers lazy previews of latents at a limited rate.

    Args:
        order: reorders (V, ...) to the order in which views are shown.
        clock: monotonic time in seconds.
        codec: the latents' codec; a pixel codec decodes them, others are approximated.
    """

    def __init__(
        self,
        order: Callable[[Tensor], Tensor],
        clock: Callable[[], float] = time.monotonic,
        codec: Codec | None = None,
    ):
        self._order = order
        self._pixels = codec if isinstance(codec, PixelCodec) else None
        self._clock = clock
        self._last = -math.inf

    def preview(self, latents: Tensor) -> Callable[[], Tensor] | None:
        """A function that renders the preview grid of latents (D, 1, V, C, h, w).

        None if it is too early for the next preview, or if such latents have no known colours.
        """
        now = self._clock()
        supported = self._pixels is not None or latents.shape[3] == len(LATENT_RGB_FACTORS)
        if now - self._last < MIN_INTERVAL_S or not supported:
            return None
        self._last = now
        return lambda: self._grid(latents)

    def _to_rgb(self, latents: Tensor) -> Tensor:
        """(D, V, C, h, w) -> (D, V, H, W, 3) in 0..1."""
        if self._pixels is None:
            return latents_to_rgb(latents)
        views = latents.shape[1]
        images = self._pixels.decode(latents.flatten(0, 1), views).unflatten(0, (-1, views))
        return (images * 0.5 + 0.5).clamp(0.0, 1.0).movedim(2, -1)

    def _grid(self, latents: Tensor) -> Tensor:
        colours = self._to_rgb(latents[:, 0])  # (D, V, h, w, 3)
        return image_grid(torch.stack([self._order(each) for each in colours])).cpu()
