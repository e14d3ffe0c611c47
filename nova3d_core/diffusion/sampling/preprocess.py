"""Preprocessing of the input image: one object, centred and scaled, on white."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from ...checks import check_finite, check_range
from ...errors import InputError
from ...imaging.crop import (
    CropConfig,
    check_batch_matches_images,
    object_bounds,
    prepare_images,
)
from ...imaging.resize import downscale_on_white, row_chunks

logger = logging.getLogger(__name__)

DOWNSCALE_RATIO = 4
"""Images at least this many times larger than the model's input are downscaled first."""
BLUR_RATIO = 0.25
"""Images smaller than this fraction of the model's input give blurred views: users are warned."""
MIN_PART_FRACTION = 0.1
"""Area of a separate object over that of the largest one; smaller components are ignored."""
MIN_COVERAGE = 0.5
"""Warn if the object covers less than this fraction of every pixel."""
MAX_OFFSET = 0.1
"""Warn if the object's centre is farther from the image's, as a fraction of the image's side."""


@dataclass(frozen=True, eq=False)
class PreprocessedImage:
    """An input image as the model expects it."""

    image: Tensor
    """(S, S, 3) float32 in 0..1, the object on white."""
    mask: Tensor
    """(S, S) float32 in 0..1, 1 on the object."""
    notes: tuple[str, ...] = ()
    """Remarks for the user about the image, one sentence each."""


def preprocess_image(
    image: Tensor,
    mask: Tensor | None,
    size_px: int,
    foreground_ratio: float = 0.7,
    keep_framing: bool = False,
) -> PreprocessedImage:
    """Crops, centres and scales the object of an image as in training, on a white background.

    Several separate objects are treated as one, since many objects have disconnected parts; the
    notes report it.

    Args:
        image: (H, W, 3), (H, W, 4) with alpha, or grey as (H, W), (H, W, 1) or, with alpha,
            (H, W, 2); floats in 0..1, or integers of 8 or 16 bits over their full range.
        mask: (H, W) in 0..1 or bool, 1 on the object. Defaults to the alpha channel, and without
            one to everything that is not connected white background.
        size_px: width and height of the result.
        foreground_ratio: longer side of the object over the side of the result.
        keep_framing: only pad the image to a square; `foreground_ratio` is ignored.

    Raises:
        InputError: wrong shape, values out of range, no object, or neither a mask nor alpha nor a
            white background.
    """
    colour = _to_rgb_or_rgba(_to_float("the image", image))
    if mask is not None:
        if mask.dim() != 2:
            raise InputError(f"the mask has shape {tuple(mask.shape)}, expected (H, W).")
        mask = _to_float("the mask", mask)
        check_batch_matches_images("mask(s)", mask[None], colour[None])
    _check_values("the image", colour)
    if mask is not None:
        _check_values("the mask", mask)
    height, width = colour.shape[:2]
    if max(height, width) >= DOWNSCALE_RATIO * size_px:
        colour, mask = downscale_on_white(colour, mask, 2 * size_px, crop=not keep_framing)
    crop = CropConfig(size_px, foreground_ratio, keep_framing)
    images, masks = prepare_images(colour[None], None if mask is None else mask[None], crop)
    notes = _notes(masks[0], (height, width), keep_framing)
    for note in notes:
        logger.warning("%s", note)
    return PreprocessedImage(images[0], masks[0], notes)


def _to_float(name: str, values: Tensor) -> Tensor:
    """Integers of 8 or 16 bits -> float32 in 0..1; floats to float32; bool unchanged."""
    if values.dtype == torch.bool or values.is_floating_point():
        return values if values.dtype in (torch.float32, torch.bool) else values.float()
    max_value = {torch.uint8: 255.0, torch.int16: 32767.0}.get(values.dtype, 65535.0)
    if str(values.dtype) not in ("torch.uint8", "torch.int16", "torch.uint16", "torch.int32"):
        raise InputError(
            f"{name} has the unsupported dtype {values.dtype}.",
            "Provide floats in 0..1, or integers of 8 or 16 bits.",
        )
    return values.to(torch.float32) / max_value


def _to_rgb_or_rgba(image: Tensor) -> Tensor:
    """(H, W, 3 or 4) from any of the shapes that `preprocess_image` accepts."""
    if image.dim() == 2:
        image = image[..., None]
    if image.dim() != 3 or image.shape[2] not in (1, 2, 3, 4) or 0 in image.shape:
        raise InputError(
            f"the image has shape {tuple(image.shape)}, expected (H, W, 3) or (H, W, 4).",
            "Provide a single image with the channels last.",
        )
    if image.shape[2] <= 2:
        grey = image[..., :1].expand(-1, -1, 3)
        image = torch.cat([grey, image[..., 1:]], dim=2) if image.shape[2] == 2 else grey
    return image


def _check_values(name: str, batch: Tensor) -> None:
    """Raises InputError for NaN or values out of 0..1; works on chunks of rows."""
    for rows in row_chunks(batch):
        if rows.dtype != torch.bool:
            check_finite(name, rows)
            check_range(name, rows, 0.0, 1.0)


def _notes(mask: Tensor, size: tuple[int, int], keep_framing: bool) -> tuple[str, ...]:
    """Remarks on a cropped mask (S, S) and the original image size (height, width)."""
    notes, size_px = [], len(mask)
    coverage = float(mask.max())
    if coverage < MIN_COVERAGE:
        notes.append(
            f"the object is hardly visible to the model: it covers at most {coverage:.0%} of a "
            "pixel. Correct the mask, or crop the image to the object."
        )
    offset = _offset_from_centre(mask) if keep_framing else 0.0
    if offset > MAX_OFFSET:
        notes.append(
            f"the object is {offset:.0%} of the image's side off its centre, where the models "
            "expect it: use framing object, or centre it."
        )
    objects = _count_objects(mask)
    if objects > 1:
        notes.append(
            f"the image shows {objects} separate objects, which are treated as one. Mask a single "
            "one to use it alone."
        )
    if max(size) < BLUR_RATIO * size_px:
        notes.append(
            f"the image has only {size[1]}x{size[0]} px and is upscaled to {size_px}: expect "
            "blurred views."
        )
    return tuple(notes)


def _offset_from_centre(mask: Tensor) -> float:
    """Offset of the object's bounding box in a mask (S, S), the larger of both axes, over S."""
    top, bottom, left, right = object_bounds(mask) or (0, len(mask), 0, len(mask))
    return max(abs(top + bottom - len(mask)), abs(left + right - len(mask))) / (2 * len(mask))


def _count_objects(mask: Tensor) -> int:
    """Connected components of a mask (S, S), without small ones."""
    import numpy as np
    from scipy import ndimage

    labels, count = ndimage.label((mask > 0.5).cpu().numpy(), np.ones((3, 3), dtype=bool))
    if count < 2:
        return count
    areas = np.bincount(labels.ravel())[1:]
    return int((areas >= MIN_PART_FRACTION * areas.max()).sum())
