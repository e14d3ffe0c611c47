"""Adds normal maps of any source to views: decodes, resizes, masks and checks them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..checks import check_choice, check_finite, check_range, check_shape
from ..conventions import NORMAL_FRAMES, NormalFrame, decode_normals
from ..errors import InputError
from ..fusion.checks.normals import NormalConvention, NormalConventionError, check_normals
from ..imaging.match_checks import check_normal_maps
from ..views import Views
from ..wording import counted, there_are
from .config import FLIPPED_CHANNELS, NORMAL_FLIPS, NormalFlip

MIN_LENGTH = 0.1
"""Shorter vectors are undefined: means of opposite normals, or of normals and background."""


def add_normals(
    views: Views, images: Tensor, frame: NormalFrame = "camera", flip: NormalFlip = "none"
) -> Views:
    """Views with normals decoded from images; cameras, colours and masks are unchanged.

    Args:
        views: V views with masks; normals that they have are replaced.
        images: (V, h, w, 3) normal maps in 0..1, 0.5 n + 0.5, of the views' aspect ratio; mid-grey
            pixels are undefined. They are resized to the views, and ignored outside the masks.
        frame: the frame of the normals.
        flip: channels to invert first: red for maps whose red points left, green for DirectX maps.

    Returns:
        The views with unit normals in `frame`, zero where undefined and outside the masks.

    Raises:
        InputError: the views have no masks; or images of another number or aspect ratio, NaN, out
            of range, or no normal maps.
        NormalConventionError: the normals do not fit the silhouettes; names the frame and flip that
            would.
    """
    check_choice("normal_frame", frame, NORMAL_FRAMES)
    check_choice("flip", flip, NORMAL_FLIPS)
    _check_images(views, images)
    normals = decode_normals(images.to(views.colour)) * _flip_signs(flip, views.colour)
    normals = resize_normals(normals, views.cameras.height, views.cameras.width)
    added = replace(views, normals=normals * (views.masks > 0)[..., None], normal_frame=frame)
    try:
        check_normals(added)
    except NormalConventionError as error:
        hint = _settings_hint(error.fitting, flip)
        raise NormalConventionError(error.message, hint, error.fitting) from None
    return added


def check_masks(views: Views) -> None:
    """Raises InputError if views without masks are given: normals are used on the object only."""
    if views.masks is None:
        raise InputError(
            "the views have no masks: normals are used on the object only.",
            "Provide masks to Assemble Views, or images with an alpha channel or a white "
            "background.",
        )


def _check_images(views: Views, images: Tensor) -> None:
    """Raises InputError unless images (V, h, w, 3) are normal maps of the views' aspect ratio."""
    check_masks(views)
    check_shape("the normal images", images, "V H W 3")
    if len(images) != len(views):
        raise InputError(
            f"{there_are(len(images), 'normal image')} but {counted(len(views), 'view')}.",
            "Provide one for each view, in the same order.",
        )
    height, width = images.shape[1:3]
    full_height, full_width = views.cameras.height, views.cameras.width
    # sides that were scaled and rounded differ by up to half a pixel each
    if abs(width * full_height - height * full_width) > (full_height + full_width) / 2:
        raise InputError(
            f"the normal images are {width}x{height} px but the views are "
            f"{full_width}x{full_height} px: they show different sections.",
            "Estimate the normals from the views' own images, without cropping or padding.",
        )
    check_finite("the batch of normal images", images)
    check_range("the batch of normal images", images, 0.0, 1.0)
    if (height, width) == (full_height, full_width):
        check_normal_maps(images.to(views.colour), views.colour, views.masks)


def _flip_signs(flip: NormalFlip, like: Tensor) -> Tensor:
    """(3,) -1 for inverted channels, else 1: inverting 0.5 n + 0.5 negates n."""
    flipped = FLIPPED_CHANNELS[flip]
    return like.new_tensor([-1.0 if name in flipped else 1.0 for name in ("red", "green", "blue")])


def resize_normals(normals: Tensor, height: int, width: int) -> Tensor:
    """Unit or zero normals (V, h, w, 3) resized to (V, height, width, 3), renormalised."""
    if normals.shape[1:3] != (height, width):
        normals = torch.nn.functional.interpolate(
            normals.movedim(-1, 1), size=(height, width), mode="bilinear", antialias=True
        ).movedim(1, -1)
    length = normals.norm(dim=-1, keepdim=True)
    return torch.where(length > MIN_LENGTH, normals / length.clamp_min(MIN_LENGTH), 0.0)


def _settings_hint(fitting: NormalConvention, flip: NormalFlip) -> str:
    """The settings under which the normals fit, given the convention that fits after `flip`."""
    channels = FLIPPED_CHANNELS[flip].symmetric_difference(fitting.flipped)
    for choice, flipped in FLIPPED_CHANNELS.items():
        if flipped == channels:
            return f"Set normal_frame to '{fitting.frame}' and flip to '{choice}'."
    return (
        f"Set normal_frame to '{fitting.frame}', and invert the channels "
        f"{', '.join(sorted(channels))} in the normal images (1 - value)."
    )
