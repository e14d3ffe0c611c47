"""Alpha channels: the mask they hold, and compositing over white."""

from __future__ import annotations

from torch import Tensor

_HALF_LEVEL = 0.5 / 255.0
"""Half an 8-bit level: alpha this close to 1 counts as opaque."""


def alpha_channel(image: Tensor) -> Tensor | None:
    """The alpha (H, W) of an image (H, W, 3 or 4); None if no pixel is transparent.

    Many programs write a fully opaque alpha channel, which carries no mask.
    """
    if image.shape[2] < 4 or float(image[..., 3].min()) >= 1.0 - _HALF_LEVEL:
        return None
    return image[..., 3]


def flatten_on_white(image: Tensor) -> Tensor:
    """Composites an image (..., 4) over white: (..., 3), blended in sRGB."""
    alpha = image[..., 3:]
    return image[..., :3] * alpha + (1.0 - alpha)
