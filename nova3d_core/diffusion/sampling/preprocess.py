"""The user's image as a model wants to see it: one object, centred, on white, of one size."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from ...checks import check_finite, check_range
from ...errors import InputError
from ...imaging.crop import CropConfig, check_batch_matches_images, prepare_images
from ...imaging.resize import downscale_on_white, strips

logger = logging.getLogger(__name__)

DOWNSCALE_RATIO = 4
"""An image this many times larger than wanted is made smaller before anything else."""
BLUR_RATIO = 0.25
"""An object this share as large as it will be shown comes out blurred: users are told."""
MIN_PART_FRACTION = 0.1
"""A separate part this large, measured by the largest one, counts as an object."""


@dataclass(frozen=True, eq=False)
class PreprocessedImage:
    """An image ready for a model."""

    image: Tensor
    """(S, S, 3) float32 in 0..1, the object on white."""
    mask: Tensor
    """(S, S) float32 in 0..1, 1 on the object."""
    notes: tuple[str, ...] = ()
    """What the user should know about the image, one sentence each."""


def preprocess_image(
    image: Tensor, mask: Tensor | None, size_px: int, foreground_ratio: float = 0.7
) -> PreprocessedImage:
    """Frames the object of an image as a model saw objects in training.

    Several objects are taken together, as one, since many things consist of parts that do not
    touch; the notes say so.

    Args:
        image: (H, W, 3), (H, W, 4) with alpha, or grey as (H, W), (H, W, 1) or, with alpha,
            (H, W, 2); floats in 0..1 or whole numbers over their format's range (8 or 16 bits).
        mask: (H, W) in 0..1 or bool, 1 on the object. Without one, the alpha says where the object
            is; without that, whatever is not connected white.
        size_px: width and height of the result.
        foreground_ratio: the object's longer side, as a share of the result.

    Raises:
        InputError: another shape, values out of range, no object, or neither mask nor alpha nor a
            white background.
    """
    colour = _with_channels(_as_floats("the image", image))
    if mask is not None:
        if mask.dim() != 2:
            raise InputError(f"the mask has shape {tuple(mask.shape)}, expected (H, W).")
        mask = _as_floats("the mask", mask)
        check_batch_matches_images("mask(s)", mask[None], colour[None])
    _check_values("the image", colour)
    if mask is not None:
        _check_values("the mask", mask)
    height, width = colour.shape[:2]
    if max(height, width) >= DOWNSCALE_RATIO * size_px:
        colour, mask = downscale_on_white(colour, mask, 2 * size_px)
    framing = CropConfig(size_px, foreground_ratio)
    images, masks = prepare_images(colour[None], None if mask is None else mask[None], framing)
    notes = _notes(masks[0], (height, width), size_px)
    for note in notes:
        logger.warning("%s", note)
    return PreprocessedImage(images[0], masks[0], notes)


def _as_floats(name: str, numbers: Tensor) -> Tensor:
    """Whole numbers over 0..their highest -> 0..1; floats as they are."""
    if numbers.dtype == torch.bool or numbers.is_floating_point():
        return numbers if numbers.dtype in (torch.float32, torch.bool) else numbers.float()
    highest = {torch.uint8: 255.0, torch.int16: 32767.0}.get(numbers.dtype, 65535.0)
    if str(numbers.dtype) not in ("torch.uint8", "torch.int16", "torch.uint16", "torch.int32"):
        raise InputError(
            f"{name} holds numbers of type {numbers.dtype}.",
            "Give floats in 0..1, or 8 or 16 bits.",
        )
    return numbers.to(torch.float32) / highest


def _with_channels(image: Tensor) -> Tensor:
    """(H, W, 3 or 4) from any of the shapes that `preprocess_image` knows."""
    if image.dim() == 2:
        image = image[..., None]
    if image.dim() != 3 or image.shape[2] not in (1, 2, 3, 4) or 0 in image.shape:
        raise InputError(
            f"the image has shape {tuple(image.shape)}, expected (H, W, 3) or (H, W, 4).",
            "Give one image, with its channels last.",
        )
    if image.shape[2] <= 2:
        grey = image[..., :1].expand(-1, -1, 3)
        image = torch.cat([grey, image[..., 1:]], dim=2) if image.shape[2] == 2 else grey
    return image


def _check_values(name: str, batch: Tensor) -> None:
    """Raises InputError for NaN, or values out of 0..1; a few rows at a time."""
    for rows in strips(batch):
        if rows.dtype != torch.bool:
            check_finite(name, rows)
            check_range(name, rows, 0.0, 1.0)


def _notes(mask: Tensor, size: tuple[int, int], size_px: int) -> tuple[str, ...]:
    """What to say about the framed mask (S, S) of an image that was `size` high and wide."""
    notes = []
    parts = _large_parts(mask)
    if parts > 1:
        notes.append(
            f"the image shows {parts} objects that do not touch: all are taken as one. Mask one "
            "of them to get it alone."
        )
    if max(size) < BLUR_RATIO * size_px:
        notes.append(
            f"the image has only {size[1]}x{size[0]} px and is enlarged to {size_px}: expect "
            "blurred views."
        )
    return tuple(notes)


def _large_parts(mask: Tensor) -> int:
    """Parts of a mask (S, S) that do not touch, small crumbs left out."""
    import numpy as np
    from scipy import ndimage

    labels, count = ndimage.label((mask > 0.5).cpu().numpy(), np.ones((3, 3), dtype=bool))
    if count < 2:
        return count
    areas = np.bincount(labels.ravel())[1:]
    return int((areas >= MIN_PART_FRACTION * areas.max()).sum())
