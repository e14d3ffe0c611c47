"""Assembles Views from images of any source: checks counts and sizes, masks, normal frames."""

from __future__ import annotations

import torch
from torch import Tensor

from ..cameras.cameras import Cameras
from ..checks import check_finite, check_range
from ..conventions import NormalFrame, decode_normals
from ..errors import InputError
from ..views import Views
from ..wording import counted, there_are
from .crop import check_batch_matches_images, composite_on_white
from .mask_checks import invert_hint
from .match_checks import check_normal_maps, warn_if_masks_mismatch

MIN_IMAGE_PX = 16
"""Minimum width and height of an image."""


def assemble_views(
    images: Tensor,
    cameras: Cameras,
    normals: Tensor | None = None,
    masks: Tensor | None = None,
    normal_frame: NormalFrame = "world",
    first_view: int = 0,
) -> Views:
    """Combines images with cameras into views.

    Args:
        images: (V, H, W, 3) sRGB in 0..1, or (V, H, W, 4) with alpha, which is the mask unless
            masks are given.
        cameras: V cameras; they are resized to H x W.
        normals: (V, H, W, 3) normal maps, 0.5 n + 0.5; values outside the masks are ignored.
        masks: (V, H, W) in 0..1; without masks and alpha, mattes are made from the white
            background.
        normal_frame: the frame of the normals.
        first_view: index of the view that becomes view 0; the order is rotated. The pose of view 0
            is treated as exact, so it should be the input image.

    Raises:
        InputError: numbers or sizes differ, images are too small, a mask is empty, most masks look
            inverted, normal images are no normal maps, or values are out of range; the message
            names the input.
    """
    count, height, width = images.shape[:3]
    if count != len(cameras):
        raise InputError(
            f"{there_are(count, 'image')} but {counted(len(cameras), 'camera')}.",
            "Provide one image for each camera, in the same order.",
        )
    if min(height, width) < MIN_IMAGE_PX:
        raise InputError(
            f"the images are {width}x{height} px, expected at least {MIN_IMAGE_PX}x{MIN_IMAGE_PX}."
        )
    if not -count <= first_view < count:
        raise InputError(f"first_view is {first_view}, but {there_are(count, 'view')}.")
    for name, batch in (("normal images", normals), ("masks", masks)):
        if batch is not None:
            check_batch_matches_images(name, batch, images)
    for name, batch in (("images", images), ("normal images", normals), ("masks", masks)):
        if batch is not None:
            check_finite(name, batch)
            check_range(name, batch, 0.0, 1.0)
    given = masks
    colour, masks = composite_on_white(images, masks)
    _reject_empty_masks(masks)
    if given is not None and images.shape[-1] == 3:
        warn_if_masks_mismatch(images, masks)
    if normals is not None:
        check_normal_maps(normals, colour, masks)
        normals = decode_normals(normals) * (masks > 0)[..., None]
    views = Views(
        cameras.resized(width, height),
        torch.where(masks[..., None] > 0, colour, 1.0),
        masks,
        normals,
        None if normals is None else normal_frame,
    )
    first = first_view % count
    return views[[*range(first, count), *range(first)]] if first else views


def _reject_empty_masks(masks: Tensor) -> None:
    """Raises InputError if a mask (V, H, W) contains no object."""
    for view, mask in enumerate(masks):
        if not bool((mask > 0.5).any()):
            raise InputError(
                f"the mask of view {view} is empty: it contains no object.",
                invert_hint(),
            )
