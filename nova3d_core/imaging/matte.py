"""Masks for images that have none: what of a white background belongs to the object."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..checks import check_finite, check_shape
from ..errors import InputError

WHITE_TOLERANCE = 8.0 / 255.0
"""A pixel whose darkest channel is this close to 1 counts as white (JPEG keeps white about so)."""
MIN_WHITE_BORDER_RATIO = 0.75
"""The share of border pixels that must be white: an object may be cut off by one of four sides."""


def matte_from_white(colour: Tensor, white: Tensor | None = None) -> Tensor:
    """Soft masks of objects in front of white.

    White that is connected to the image's border is background; white parts inside the object
    stay object (and so does white seen through a closed handle: give a mask for such objects). The
    object's outermost pixel gets the share of object in its mix with white.

    Args:
        colour: (V, H, W, 3) sRGB in 0..1.
        white: (V, H, W) bool, which pixels pass for white; those within `WHITE_TOLERANCE` if None.

    Returns:
        (V, H, W) float32 in 0..1, on the device of `colour`.

    Raises:
        InputError: a view's border is not white, or a view is white all over; it is named.
    """
    check_shape("colour", colour, "V H W 3")
    check_finite("colour", colour)
    images = colour.detach().cpu().float().numpy()
    names = [f"view {view}" for view in range(len(images))]
    if len(names) == 1:
        names = ["the image"]
    if white is None:
        whites = images.min(axis=3) >= 1.0 - WHITE_TOLERANCE  # (V, H, W)
    else:
        whites = white.detach().cpu().numpy()
    masks = [_matte_of_image(*each) for each in zip(images, whites, names, strict=True)]
    return torch.from_numpy(np.stack(masks)).to(colour.device)


def _matte_of_image(image: np.ndarray, white: np.ndarray, name: str) -> np.ndarray:
    """The (H, W) float32 soft mask of one image (H, W, 3) with `white` (H, W) pixels."""
    background = _background(white, name)
    if background.all():
        raise InputError(
            f"{name} is white all over: there is no object in it.",
            "Leave it out, or give a mask if its object is white.",
        )
    mask = (~background).astype(np.float32)
    edge = _edge(background) & ~white  # white that is kept lies behind a thin outline
    mask[edge] = _estimate_alpha(image[edge], _darkest_neighbour(image, edge))
    return mask


def _background(white: np.ndarray, name: str) -> np.ndarray:
    """(H, W) bool: those of the `white` (H, W) pixels that join the border side by side."""
    from scipy import ndimage

    border = np.ones_like(white)
    border[1:-1, 1:-1] = False
    share = float(white[border].mean())
    if share < MIN_WHITE_BORDER_RATIO:
        raise InputError(
            f"the border of {name} is not white: only {share:.0%} of its pixels are.",
            "Remove the background first, or give a mask.",
        )
    return ndimage.binary_propagation(border & white, mask=white)


def _edge(background: np.ndarray) -> np.ndarray:
    """(H, W) bool: object pixels that touch the background, be it by a corner.

    A straight silhouette crosses no others: whichever pixel it mixes, one of the eight around
    lies wholly outside and one wholly inside.
    """
    from scipy import ndimage

    return ~background & ndimage.binary_dilation(background, np.ones((3, 3), dtype=bool))


def _darkest_neighbour(image: np.ndarray, edge: np.ndarray) -> np.ndarray:
    """(N, 3) the colour least like white within one pixel of each of N edge pixels.

    It stands for the object's unmixed colour there; thin parts, all of them edge, have one too.
    """
    rows, columns = np.nonzero(edge)
    height, width = edge.shape
    steps = np.array([(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)])
    y = (rows[:, None] + steps[:, 0]).clip(0, height - 1)  # (N, 9)
    x = (columns[:, None] + steps[:, 1]).clip(0, width - 1)
    nearby = image[y, x]  # (N, 9, 3)
    darkest = nearby.min(axis=2).argmin(axis=1)
    return nearby[np.arange(len(rows)), darkest]


def _estimate_alpha(mixed: np.ndarray, surface: np.ndarray) -> np.ndarray:
    """How much of the object is in colours mixed with white.

    Args:
        mixed: (N, 3) colours a f + (1 - a).
        surface: (N, 3) the object's own colours f, none of them white.

    Returns:
        (N,) the least-squares a, in 0..1.
    """
    from_white = 1.0 - surface
    share = ((1.0 - mixed) * from_white).sum(axis=1) / (from_white**2).sum(axis=1)
    return share.clip(0.0, 1.0)
