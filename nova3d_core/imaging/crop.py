"""Crops an object into a square image on white, the input format of multi-view models."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..checks import check_bounds, check_finite
from ..errors import InputError
from ..wording import counted, there_are
from .alpha import flatten_on_white
from .mask_checks import check_not_inverted, invert_hint
from .matte import is_mostly_white, matte_from_white

_HALF_LEVEL = 0.5 / 255.0
FRAMING_ALPHA = 0.05
"""Coverage above which a pixel belongs to the framed object: glass, hair and soft shadows do, noise
of a matte does not."""
MIN_COMPONENT_FRACTION = 0.01
"""Connected components below this fraction of the object's area do not affect its framing."""


@dataclass(frozen=True)
class CropConfig:
    """Size and framing of a cropped object."""

    size_px: int = 256
    """Width and height of the result in pixels."""
    foreground_ratio: float = 0.7
    """Ratio of the longer side of the object's bounding box to the side of the image."""
    keep_framing: bool = False
    """Keep the image's own framing, padded to a square, instead of cropping to the object."""

    def __post_init__(self):
        check_bounds(
            self,
            "crop",
            size_px=(16, 8192),
            foreground_ratio=(0.05, 1.0),
        )


def prepare_images(
    images: Tensor, masks: Tensor | None = None, config: CropConfig | None = None
) -> tuple[Tensor, Tensor]:
    """Crops images to their objects, centred, on white.

    The object's bounding box contains everything that covers a pixel by more than 5 %, except for
    components below 1 % of the object's area.

    Args:
        images: (V, H, W, 3), or (V, H, W, 4) whose alpha is the mask unless masks are given.
        masks: (V, H, W) in 0..1, 1 on the object. A mask that is 1 everywhere, or an opaque alpha
            channel, is ignored; without any mask, a matte is made from the white background.
        config: size and framing.

    Returns:
        Images (V, size, size, 3) and masks (V, size, size), in 0..1.

    Raises:
        InputError: an image contains no object, or has neither a mask nor a white background; most
            masks look inverted.
    """
    config = config or CropConfig()
    colour, masks = composite_on_white(images, masks)
    pairs = zip(colour, masks, strict=True)
    cropped = [_crop_to_object(*pair, config, view) for view, pair in enumerate(pairs)]
    colour, masks = (torch.stack(part) for part in zip(*cropped, strict=True))
    return colour, masks


def composite_on_white(images: Tensor, masks: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Images (V, H, W, 3) on white and masks (V, H, W); arguments as in `prepare_images`.

    Raises:
        InputError: the number or size of the masks differs from the images, most masks look
            inverted, or there are neither masks nor a white background.
    """
    check_finite("images", images)
    if masks is not None:
        check_batch_matches_images("masks", masks, images)
    colour = images[..., :3].clamp(0.0, 1.0)
    alpha = images[..., 3].clamp(0.0, 1.0) if images.shape[-1] == 4 else None
    if alpha is not None:
        colour = flatten_on_white(torch.cat([colour, alpha[..., None]], dim=-1))
    given = masks if _has_background(masks) else alpha if _has_background(alpha) else None
    if given is None:
        return colour, matte_from_white(colour)
    check_finite("masks", given)
    check_not_inverted(given, "alpha channel" if given is alpha else "mask")
    given = given.clamp(0.0, 1.0)
    if given is not alpha and not is_mostly_white(colour[given <= 0]):
        # soft edges of an image on another background are not blended with white yet
        colour = colour * given[..., None] + (1.0 - given[..., None])
    return colour, given


def check_batch_matches_images(name: str, batch: Tensor, images: Tensor) -> None:
    """Raises InputError unless a batch (V, H, W, ...) matches the images in number and size."""
    if len(batch) != len(images):
        raise InputError(
            f"{there_are(len(batch), name.removesuffix('s'))} but {counted(len(images), 'image')}.",
            "Provide one for each image, in the same order.",
        )
    if batch.shape[1:3] != images.shape[1:3]:
        sizes = [f"{each.shape[2]}x{each.shape[1]} px" for each in (batch, images)]
        raise InputError(
            f"the {name} are {sizes[0]} but the images are {sizes[1]}.",
            "Resize them to the same size first.",
        )


def _has_background(mask: Tensor | None) -> bool:
    """Whether a mask marks any pixel as background."""
    return mask is not None and float(mask.min()) < 1.0 - _HALF_LEVEL


def _crop_to_object(
    colour: Tensor, mask: Tensor, config: CropConfig, view: int
) -> tuple[Tensor, Tensor]:
    """Crops one image (H, W, 3) and mask (H, W) to `config.size_px` squared."""
    bounds = object_bounds(mask)
    if bounds is None:
        raise InputError(
            f"the mask of image {view} is empty: there is no object to crop to.",
            invert_hint(),
        )
    top, bottom, left, right = bounds
    side = max(round(max(bottom - top, right - left) / config.foreground_ratio), 1)
    if config.keep_framing:
        top, left, (bottom, right) = 0, 0, mask.shape
        side = max(bottom, right)
    first_row = round((top + bottom - side) / 2)
    first_column = round((left + right - side) / 2)
    rgba = torch.cat([colour, mask[..., None]], dim=-1).movedim(-1, 0)  # (4, H, W)
    background = rgba.new_tensor([1.0, 1.0, 1.0, 0.0])[:, None, None]
    square = background.expand(4, side, side).clone()
    height, width = mask.shape
    rows_in = slice(max(first_row, 0), min(first_row + side, height))
    columns_in = slice(max(first_column, 0), min(first_column + side, width))
    square[
        :,
        rows_in.start - first_row : rows_in.stop - first_row,
        columns_in.start - first_column : columns_in.stop - first_column,
    ] = rgba[:, rows_in, columns_in]
    size = (config.size_px, config.size_px)
    resized = functional.interpolate(
        square[None], size, mode="bicubic", align_corners=False, antialias=True
    )[0].clamp(0.0, 1.0)
    new_mask = resized[3]
    new_colour = torch.where(new_mask[..., None] > 0, resized[:3].movedim(0, -1), 1.0)
    return new_colour, new_mask


def object_bounds(mask: Tensor) -> tuple[int, int, int, int] | None:
    """Bounding box (top, bottom, left, right) of the object in a mask (H, W); None if it is empty.

    See `prepare_images`; ends are exclusive.
    """
    import numpy as np
    from scipy import ndimage

    inside = (mask > FRAMING_ALPHA).cpu().numpy()
    labels, count = ndimage.label(inside, np.ones((3, 3), dtype=bool))
    if not count:
        return None
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    kept = areas >= MIN_COMPONENT_FRACTION * areas[1:].sum()
    kept[0] = False  # the background
    if kept.any():
        inside = kept[labels]
    rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
