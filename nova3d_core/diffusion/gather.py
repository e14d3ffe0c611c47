"""Painted pictures as views: masks from their white background, normals as vectors."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from ..cameras import Cameras
from ..conventions import decode_normals
from ..errors import InputError
from ..imaging.matte import WHITE_TOLERANCE, matte_from_white
from ..views import Views

logger = logging.getLogger(__name__)

CLEAR_SHARE = 0.25
"""A pixel that the object covers less than this shows no normal."""


def gathered(
    cameras: Cameras, colour: Tensor, normals: Tensor | None, first_mask: Tensor | None = None
) -> Views:
    """Views of painted pictures.

    Masks come from the normals where there are some: a picture of unit normals is nowhere white on
    the object, while its colours may be. Where neither background is white, the views are without
    masks, and the log says so.

    Args:
        cameras: V cameras, the first sees the input picture.
        colour: (V, H, W, 3) in 0..1.
        normals: (V, H, W, 3) pictures in 0..1 of normals in the first camera's frame, or None.
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


def normal_vectors(pictures: Tensor, masks: Tensor | None) -> Tensor:
    """Unit normals (V, H, W, 3), zero off the object, of pictures that show them on white.

    A pixel on the silhouette holds a normal mixed with white. Its mask is only a guess of how much,
    so white is taken out where that leaves a vector closer to unit length than the pixel's own.

    Args:
        pictures: (V, H, W, 3) in 0..1.
        masks: (V, H, W) in 0..1; without them white is what is off the object.
    """
    if masks is None:
        off = pictures.amin(dim=-1, keepdim=True) >= 1.0 - WHITE_TOLERANCE
        return decode_normals(pictures) * ~off
    share = masks[..., None]
    pure = (pictures - (1.0 - share)) / share.clamp_min(CLEAR_SHARE)
    taken_out = _off_unit(pure) < _off_unit(pictures)
    return decode_normals(torch.where(taken_out, pure, pictures)) * (share >= CLEAR_SHARE)


def _off_unit(pictures: Tensor) -> Tensor:
    """(..., 1) how far the vectors of a normal picture (..., 3) are from unit length."""
    return ((pictures * 2.0 - 1.0).norm(dim=-1, keepdim=True) - 1.0).abs()


def _masks(colour: Tensor, normals: Tensor | None) -> Tensor | None:
    """(V, H, W) mattes of the normals or else of the colours; None if neither stands on white."""
    reason = ""
    for pictures in (normals, colour):
        if pictures is None:
            continue
        try:
            return matte_from_white(pictures)
        except InputError as error:
            reason = error.message
    logger.warning("the views come without masks: %s", reason)
    return None
