"""Checks that masks and normal maps belong to the images that they are given with."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from ..errors import InputError
from .matte import matte_from_white

logger = logging.getLogger(__name__)

_SIDE_PX = 64
MIN_IOU_GAIN, MIN_IOU = 0.06, 0.8
"""Masks in another order are reported if that raises the mean IoU with the images by this much, to
at least this much."""
MAX_DISJOINT_IOU = 0.4
"""Below this IoU, masks cover other regions than the images' objects."""
MIN_LENGTH, MAX_LENGTH = 0.75, 1.25
"""Lengths of decoded normals, which are unit vectors but for rounding and blending."""
MIN_UNIT_FRACTION = 0.5
"""Fraction of an object's pixels with such lengths in a normal map."""
MIN_UNIT_FRACTION_OF_COPIES = 0.85
"""The same if the colour images are the same: normal maps may be fused as colours too."""
SAME_IMAGE = 0.02
"""Mean difference of normal images that are copies of the colour images."""


def warn_if_masks_mismatch(images: Tensor, masks: Tensor) -> None:
    """Warns about masks that cover something else than the objects of images on white.

    Images on other backgrounds are not checked.

    Args:
        images: (V, H, W, 3) in 0..1, as given, not composited with the masks.
        masks: (V, H, W) in 0..1.
    """
    small, small_masks = _downsampled(images), _downsampled(masks[..., None])[..., 0]
    try:
        mattes = matte_from_white(small)
    except InputError:
        return  # the background is not white
    iou = _iou_matrix(mattes > 0.5, small_masks > 0.5)
    indices = torch.arange(len(iou))
    own = float(iou.diagonal().mean())
    orders = [(indices + shift) % len(iou) for shift in range(1, len(iou))]
    orders += [(shift - indices) % len(iou) for shift in range(len(iou))]
    best = max((float(iou[indices, order].mean()) for order in orders), default=0.0)
    if best > max(own + MIN_IOU_GAIN, MIN_IOU):
        logger.warning(
            "the masks are in another order than the images: they overlap the objects by %.0f %%, "
            "in another order by %.0f %%",
            100 * own,
            100 * best,
        )
    elif own < MAX_DISJOINT_IOU and _covers_white(small, mattes, small_masks):
        logger.warning(
            "the masks do not match the images: they overlap the objects by %.0f %% only",
            100 * own,
        )


def _covers_white(images: Tensor, mattes: Tensor, masks: Tensor) -> bool:
    """Whether masks contain background while they leave out parts of the objects."""
    inside, objects = masks > 0.5, mattes > 0.5
    empty = float((inside & ~objects).sum()) / max(float(inside.sum()), 1.0)
    missed = float((objects & ~inside).sum()) / max(float(objects.sum()), 1.0)
    return min(empty, missed) > 1.0 - 2.0 * MAX_DISJOINT_IOU


def check_normal_maps(normals: Tensor, images: Tensor, masks: Tensor) -> None:
    """Raises InputError for images that are no normal maps.

    Args:
        normals: (V, H, W, 3) in 0..1, encoded as 0.5 n + 0.5.
        images: (V, H, W, 3) colours in 0..1.
        masks: (V, H, W) in 0..1.
    """
    inside = masks > 0.95
    if not bool(inside.any()):
        return
    encoded = normals[inside]  # (P, 3)
    length = (2.0 * encoded - 1.0).norm(dim=-1)
    has_value = length > 0.1  # grey: undefined
    is_unit = (length > MIN_LENGTH) & (length < MAX_LENGTH)
    fraction = float(is_unit.sum()) / max(float(has_value.sum()), 1.0)
    same = float((encoded - images[inside]).abs().mean()) < SAME_IMAGE
    limit = MIN_UNIT_FRACTION_OF_COPIES if same else MIN_UNIT_FRACTION
    if fraction >= limit or not bool(has_value.any()):
        return
    if _is_blank(encoded):
        return  # the checks of the fusion name blank views
    what = "the same as the colour images" if same else "not normal maps"
    raise InputError(
        f"the normal images are {what}: only {fraction:.0%} of the object's pixels decode to unit "
        "vectors.",
        "Connect normal maps (0.5 n + 0.5), or leave the normals out.",
    )


def _is_blank(encoded: Tensor) -> bool:
    """Whether most pixels (P, 3) are black or white: an image that a model failed to generate."""
    darkest, brightest = encoded.amin(dim=-1), encoded.amax(dim=-1)
    return float(((brightest < 0.05) | (darkest > 0.95)).float().mean()) > 0.5


def _iou_matrix(objects: Tensor, masks: Tensor) -> Tensor:
    """(V, V) IoU of each object (V, H, W) with each mask (V, H, W)."""
    one, other = objects.flatten(1).float(), masks.flatten(1).float()
    shared = one @ other.T
    union = one.sum(dim=1)[:, None] + other.sum(dim=1)[None] - shared
    return shared / union.clamp_min(1.0)


def _downsampled(batch: Tensor) -> Tensor:
    """(V, h, w, C) at most `_SIDE_PX` on the longer side, from (V, H, W, C)."""
    height, width = batch.shape[1:3]
    scale = min(_SIDE_PX / max(height, width), 1.0)
    size = (max(round(height * scale), 1), max(round(width * scale), 1))
    planes = [
        torch.nn.functional.interpolate(image.movedim(-1, 0)[None], size=size, mode="area")[0]
        for image in batch
    ]
    return torch.stack(planes).movedim(1, -1)
