"""Image filters for baking: foreground extension, deconvolution of pixels, local colour range."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from ..imaging.nearest import nearest_pixels

_INTERIOR_RATIO = 0.97
"""Minimum ratio of an interior pixel's mask to the mask's maximum."""
_NEIGHBOUR_WEIGHT, _CENTRE_WEIGHT = 1 / 8, 6 / 8
"""Weights of neighbours and centre in the mean of a linear interpolation over one pixel."""
_SHARPEN_ITERATIONS = 3


def interior_pixels(mask: Tensor) -> Tensor:
    """(H, W) bool: pixels of a mask (H, W) that are completely inside the object.

    Relative to the mask's maximum, as mattes from background removers seldom reach 1.
    """
    return mask >= max(_INTERIOR_RATIO * float(mask.max()), 0.5)


def extend_foreground(colour: Tensor, mask: Tensor) -> Tensor:
    """Colour (H, W, 3) in which all other pixels copy the nearest interior pixel.

    Silhouette pixels contain some of the white background, which would bleed into the texture.
    """
    inside = interior_pixels(mask)
    if not bool(inside.any()):
        return colour
    return colour.flatten(0, 1)[nearest_pixels(inside)]


def sharpen_image(image: Tensor) -> Tensor:
    """Deconvolves an image (H, W, C): pixel means of its bilinear interpolation match the input.

    A pixel is the mean over its area; interpolating between such means blurs a second time. A few
    Van Cittert iterations undo this, except for the highest frequencies, where only noise would be
    amplified. Values may leave 0..1.
    """
    target = image.movedim(-1, 0)[None]  # (1, C, H, W)
    result = target
    for _ in range(_SHARPEN_ITERATIONS):
        result = result + target - _pixel_means(result)
    return result[0].movedim(0, -1)


def _pixel_means(values: Tensor) -> Tensor:
    """Means over each pixel's area of the bilinear interpolation of values (1, C, H, W)."""
    padded = functional.pad(values, (1, 1, 1, 1), mode="replicate")
    rows = (
        _NEIGHBOUR_WEIGHT * (padded[:, :, :-2] + padded[:, :, 2:])
        + _CENTRE_WEIGHT * padded[:, :, 1:-1]
    )
    return _NEIGHBOUR_WEIGHT * (rows[..., :-2] + rows[..., 2:]) + _CENTRE_WEIGHT * rows[..., 1:-1]


def local_colour_range(image: Tensor) -> tuple[Tensor, Tensor]:
    """Minimum and maximum (H, W, C) of an image (H, W, C) in 3 x 3 neighbourhoods."""
    planes = image.movedim(-1, 0)[None]
    high = functional.max_pool2d(planes, 3, stride=1, padding=1)
    low = -functional.max_pool2d(-planes, 3, stride=1, padding=1)
    return low[0].movedim(0, -1), high[0].movedim(0, -1)
