"""Mattes (soft masks) from images with a white background."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..checks import check_finite, check_shape
from ..errors import InputError

WHITE_TOLERANCE = 8.0 / 255.0
"""Maximum distance of a white pixel's darkest channel from 1; covers JPEG noise."""
MIN_WHITE_BORDER_RATIO = 0.75
"""Minimum fraction of white border pixels: an object may be cropped at one of four sides."""
MOSTLY_WHITE_RATIO = 0.95
"""Minimum fraction of white pixels of a background that counts as white."""


def is_mostly_white(pixels: Tensor) -> bool:
    """Whether nearly all pixels (N, 3) in 0..1 are white; True without pixels."""
    if not len(pixels):
        return True
    is_white = pixels.amin(dim=1) >= 1.0 - WHITE_TOLERANCE
    return float(is_white.float().mean()) > MOSTLY_WHITE_RATIO


def matte_from_white(colour: Tensor, white: Tensor | None = None) -> Tensor:
    """Soft masks of objects on a white background.

    White regions connected to the image border are background; white regions inside the object are
    foreground, and so is the background visible through a closed handle: such objects need a mask.
    The outermost pixels of the object get a fractional alpha.

    Args:
        colour: (V, H, W, 3) sRGB in 0..1.
        white: (V, H, W) bool, pixels that count as white; those within `WHITE_TOLERANCE` if None.

    Returns:
        (V, H, W) float32 in 0..1, on the device of `colour`.

    Raises:
        InputError: the border of a view is not white, or a view is entirely white.
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
    """The (H, W) float32 soft mask of one image (H, W, 3); `white` (H, W) bool."""
    background = _background(white, name)
    if background.all():
        raise InputError(
            f"{name} is entirely white: it contains no object.",
            "Leave it out, or provide a mask if its object is white.",
        )
    mask = (~background).astype(np.float32)
    edge = _edge(background) & ~white  # foreground white is enclosed by a thin outline
    mask[edge] = _estimate_alpha(image[edge], _darkest_neighbour(image, edge))
    return mask


def _background(white: np.ndarray, name: str) -> np.ndarray:
    """(H, W) bool: the `white` (H, W) pixels that are 4-connected to the image border."""
    from scipy import ndimage

    border = np.ones_like(white)
    border[1:-1, 1:-1] = False
    ratio = float(white[border].mean())
    if ratio < MIN_WHITE_BORDER_RATIO:
        raise InputError(
            f"the border of {name} is not white: only {ratio:.0%} of its pixels are.",
            "Remove the background first, or provide a mask.",
        )
    return ndimage.binary_propagation(border & white, mask=white)


def _edge(background: np.ndarray) -> np.ndarray:
    """(H, W) bool: object pixels that are 8-connected to the background.

    A straight silhouette crosses no others: each mixed pixel has a neighbour that is completely
    outside and one that is completely inside.
    """
    from scipy import ndimage

    return ~background & ndimage.binary_dilation(background, np.ones((3, 3), dtype=bool))


def _darkest_neighbour(image: np.ndarray, edge: np.ndarray) -> np.ndarray:
    """(N, 3) the darkest colour in the 3 x 3 neighbourhood of each of N edge pixels.

    An estimate of the object's unmixed colour, which also works for thin parts without interior.
    """
    rows, columns = np.nonzero(edge)
    height, width = edge.shape
    offsets = np.array([(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)])
    y = (rows[:, None] + offsets[:, 0]).clip(0, height - 1)  # (N, 9)
    x = (columns[:, None] + offsets[:, 1]).clip(0, width - 1)
    neighbours = image[y, x]  # (N, 9, 3)
    darkest = neighbours.min(axis=2).argmin(axis=1)
    return neighbours[np.arange(len(rows)), darkest]


def _estimate_alpha(mixed: np.ndarray, foreground: np.ndarray) -> np.ndarray:
    """Alpha of foreground colours composited over white.

    Args:
        mixed: (N, 3) colours a f + (1 - a).
        foreground: (N, 3) foreground colours f, none of them white.

    Returns:
        (N,) the least-squares a, in 0..1.
    """
    from_white = 1.0 - foreground
    alpha = ((1.0 - mixed) * from_white).sum(axis=1) / (from_white**2).sum(axis=1)
    return alpha.clip(0.0, 1.0)
