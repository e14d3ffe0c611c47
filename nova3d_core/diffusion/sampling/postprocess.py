"""Painted images as views: masks from their white background, normals as vectors."""

from __future__ import annotations

import logging

import torch
from torch import Tensor
from torch.nn import functional

from ...cameras.cameras import Cameras
from ...conventions import decode_normals
from ...errors import InputError
from ...imaging.matte import WHITE_TOLERANCE, matte_from_white
from ...views import Views

logger = logging.getLogger(__name__)

NORMAL_WHITE_TOLERANCE = 0.18
"""A pixel of a normal image this close to white shows no normal: all of those are 0.36 away."""
SMOOTH_WHITE_TOLERANCE = 0.12
"""The same of a pixel's mean with its eight neighbours, which has less noise."""
EDGE_PX = 2
"""Within this distance of what is not surely white, a pixel may be mixed with the object."""
NOISE_QUANTILE = 0.99
"""How much of the background's noise counts as noise at the silhouette, too."""
MIN_COVERAGE = 0.25
"""A pixel that the object covers less than this shows no normal."""


def views_from_samples(
    cameras: Cameras, colour: Tensor, normals: Tensor | None, first_mask: Tensor | None = None
) -> Views:
    """Views of painted images.

    Masks come from the normals where there are some: an image of unit normals is nowhere white on
    the object, while its colours may be. Where neither background is white, the views are without
    masks, and the log says so.

    Args:
        cameras: V cameras, the first sees the input image.
        colour: (V, H, W, 3) in 0..1.
        normals: (V, H, W, 3) images in 0..1 of normals in the first camera's frame, or None.
        first_mask: (H, W) of the first view where it is known.
    """
    masks = _masks(colour, normals)
    if masks is not None and first_mask is not None:
        masks = torch.cat([first_mask[None].to(masks), masks[1:]])
    if masks is not None:
        colour = torch.where(masks[..., None] > 0, colour, 1.0)
    if normals is None:
        return Views(cameras, colour, masks)
    return Views(cameras, colour, masks, normal_vectors(normals, masks), "front_view")


def upscale(views: Views, times: int) -> Views:
    """The same views with images so many times larger, their pixels blended smoothly.

    16 views of 64 pixels, with noise, fuse to normals that are 5.3 degrees off the truth instead of
    7.6 where they are doubled first.
    """
    if times == 1:
        return views
    masks = None if views.masks is None else _blended(views.masks[..., None], times)[..., 0]
    normals = None
    if views.normals is not None:
        mixed = _blended(views.normals, times)  # shorter towards what is off the object
        length = mixed.norm(dim=-1, keepdim=True)
        normals = torch.where(length >= MIN_COVERAGE, mixed / length.clamp_min(MIN_COVERAGE), 0.0)
    width, height = times * views.cameras.width, times * views.cameras.height
    return Views(
        views.cameras.resized(width, height),
        _blended(views.colour, times).clamp(0.0, 1.0),
        None if masks is None else masks.clamp(0.0, 1.0),
        normals,
        views.normal_frame,
    )


def _blended(images: Tensor, times: int) -> Tensor:
    """(V, H, W, C) -> (V, times H, times W, C), bicubic."""
    channels_first = images.movedim(-1, 1)
    larger = functional.interpolate(
        channels_first, scale_factor=float(times), mode="bicubic", align_corners=False
    )
    return larger.movedim(1, -1)


def normal_vectors(images: Tensor, masks: Tensor | None) -> Tensor:
    """Unit normals (V, H, W, 3), zero off the object, of images that show them on white.

    A pixel on the silhouette holds a normal mixed with white. Its mask is only a guess of how much,
    so white is taken out where that leaves a vector closer to unit length than the pixel's own.

    Args:
        images: (V, H, W, 3) in 0..1.
        masks: (V, H, W) in 0..1; without them white is what is off the object.
    """
    if masks is None:
        off = images.amin(dim=-1, keepdim=True) >= 1.0 - WHITE_TOLERANCE
        return decode_normals(images) * ~off
    share = masks[..., None]
    pure = (images - (1.0 - share)) / share.clamp_min(MIN_COVERAGE)
    taken_out = _off_unit(pure) < _off_unit(images)
    return decode_normals(torch.where(taken_out, pure, images)) * (share >= MIN_COVERAGE)


def _off_unit(images: Tensor) -> Tensor:
    """(..., 1) how far the vectors of a normal image (..., 3) are from unit length."""
    return ((images * 2.0 - 1.0).norm(dim=-1, keepdim=True) - 1.0).abs()


def white_of_normals(images: Tensor) -> Tensor:
    """(V, H, W) bool: which pixels of normal images (V, H, W, 3) on painted white are white.

    A network's white is never quite white. Far from the object, all that is nearer to white than
    any normal is background. What is left of white there, the noise, is what may be missing from it
    at the silhouette, where a pixel with some of the object in it must not be taken for white.
    """
    from_white = 1.0 - images
    near = from_white.norm(dim=-1) < NORMAL_WHITE_TOLERANCE  # (V, H, W)
    smooth = functional.avg_pool2d(from_white.movedim(-1, 1), 3, 1, 1)  # (V, 3, H, W)
    doubtful = (smooth.norm(dim=1, keepdim=True) >= SMOOTH_WHITE_TOLERANCE).float()
    deep = functional.max_pool2d(doubtful, 2 * EDGE_PX + 1, 1, EDGE_PX)[:, 0] == 0
    missing = from_white.amax(dim=-1)  # (V, H, W)
    noise = float(missing[deep].sort()[0][_place(int(deep.sum()))]) if bool(deep.any()) else 0.0
    return deep | (near & (missing <= max(noise, WHITE_TOLERANCE)))


def _place(count: int) -> int:
    """Where the quantile lies among so many sorted numbers."""
    return min(int(NOISE_QUANTILE * count), count - 1)


def _masks(colour: Tensor, normals: Tensor | None) -> Tensor | None:
    """(V, H, W) mattes of the normals or else of the colours; None if neither stands on white."""
    reason = ""
    for images in (normals, colour):
        if images is None:
            continue
        white = white_of_normals(images) if images is normals else None
        try:
            return matte_from_white(images, white)
        except InputError as error:
            reason = error.message
    logger.warning("the views come without masks: %s", reason)
    return None
