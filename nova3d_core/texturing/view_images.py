"""Images made ready for baking: no background, no pixel blur, and what lies around a pixel."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_INTERIOR_RATIO = 0.97
"""A pixel with this share of its mask's largest value shows nothing of the background."""
_NEIGHBOUR_WEIGHT, _CENTRE_WEIGHT = 1 / 8, 6 / 8
"""Shares of the neighbours' values and of its own in the mean, over a pixel, of the straight lines
between pixel centres."""
_SHARPEN_ROUNDS = 3


def interior_pixels(mask: Tensor) -> Tensor:
    """(H, W) bool: pixels of a mask (H, W) that lie wholly on the object.

    Mattes from background removers seldom reach 1, so the mask's own largest value counts.
    """
    return mask >= max(_INTERIOR_RATIO * float(mask.max()), 0.5)


def extend_foreground(colour: Tensor, mask: Tensor) -> Tensor:
    """Colour (H, W, 3) whose pixels not wholly on the object repeat the nearest that is.

    A silhouette's pixels hold a share of the white background, which would bleed into the texture.
    """
    from scipy.ndimage import distance_transform_edt

    inside = interior_pixels(mask)
    if not bool(inside.any()):
        return colour
    row, column = distance_transform_edt(
        ~inside.numpy(), return_distances=False, return_indices=True
    )
    return colour[torch.from_numpy(row).long(), torch.from_numpy(column).long()]


def sharpen_image(image: Tensor) -> Tensor:
    """An image (H, W, C) whose bilinear interpolation has the given pixels as its means.

    A pixel is the mean of its square. Interpolating between such means blurs what is seen twice;
    this makes up for it, but for part of the finest stripes, where it would only raise noise.
    Values may leave 0..1.
    """
    given = image.movedim(-1, 0)[None]  # (1, C, H, W)
    result = given
    for _ in range(_SHARPEN_ROUNDS):
        result = result + given - _pixel_means(result)
    return result[0].movedim(0, -1)


def _pixel_means(hats: Tensor) -> Tensor:
    """Means over each pixel's square of the bilinear interpolation of values (1, C, H, W)."""
    padded = functional.pad(hats, (1, 1, 1, 1), mode="replicate")
    rows = _NEIGHBOUR_WEIGHT * (padded[:, :, :-2] + padded[:, :, 2:]) + _CENTRE_WEIGHT * padded[:, :, 1:-1]
    return _NEIGHBOUR_WEIGHT * (rows[..., :-2] + rows[..., 2:]) + _CENTRE_WEIGHT * rows[..., 1:-1]


def local_colour_range(image: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest and highest value (H, W, C) of an image (H, W, C) in each pixel's 3 x 3."""
    planes = image.movedim(-1, 0)[None]
    high = functional.max_pool2d(planes, 3, stride=1, padding=1)
    low = -functional.max_pool2d(-planes, 3, stride=1, padding=1)
    return low[0].movedim(0, -1), high[0].movedim(0, -1)
