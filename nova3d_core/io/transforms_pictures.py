"""The files of one frame of a transforms.json: colour, mask and normals that fit together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..conventions import decode_normals
from ..errors import InputError
from ..imaging.undistort import undistorted
from .images import alpha_of, on_white, read_image, read_mask
from .lenses import check_field_of_view, distortion_of
from .transforms_fields import Frame, intrinsics


@dataclass(frozen=True, eq=False)
class FramePictures:
    """What one frame's files show."""

    colour: Tensor
    """(H, W, 3) on white."""
    mask: Tensor | None
    """(H, W), None without mask_path and without transparent pixels."""
    normals: Tensor | None
    """(H, W, 3) unit vectors or zero."""


def read_pictures(frame: Frame, first: FramePictures | None) -> FramePictures:
    """Reads a frame's files and checks that their sizes agree with each other and the file."""
    picture = read_image(frame.picture)
    height, width = picture.shape[:2]
    for key, size in (("w", width), ("h", height)):
        stated = frame.positive(key)
        if stated is not None and stated != size:
            raise InputError(
                f"{frame.where}: the picture is {width}x{height} px, but {key} says {stated:g}.",
                "Scale the intrinsics with the pictures.",
            )
    if first is not None and first.colour.shape[:2] != picture.shape[:2]:
        one = f"{first.colour.shape[1]}x{first.colour.shape[0]}"
        raise InputError(
            f"{frame.where}: the picture is {width}x{height} px, the first one {one} px.",
            "All pictures of a folder have one size.",
        )
    mask, normals = alpha_of(picture), None
    colour = picture if picture.shape[2] == 3 else on_white(picture)
    if frame.mask is not None:
        mask = read_mask(frame.mask)
        _check_size(f"{frame.where}: mask {frame.mask.name}", mask, width, height)
        colour = torch.where(mask[..., None] > 0, colour, 1.0)
    if mask is not None:
        _check_mask(frame, mask)
    if frame.normals is not None:
        encoded_normals = read_image(frame.normals)[..., :3]
        what = f"{frame.where}: normal picture {frame.normals.name}"
        _check_size(what, encoded_normals, width, height)
        normals = decode_normals(encoded_normals)
        if mask is not None:
            normals = normals * (mask[..., None] > 0)
    return without_distortion(frame, FramePictures(colour, mask, normals))


def without_distortion(frame: Frame, pictures: FramePictures) -> FramePictures:
    """The images as a pinhole camera with the frame's intrinsics sees them."""
    distortion = distortion_of(frame)
    if distortion is None:
        return pictures
    height, width = pictures.colour.shape[:2]
    lens = intrinsics(frame, "perspective", width, height)
    check_field_of_view(frame, distortion, lens, width, height)
    layers = (pictures.colour, pictures.mask, pictures.normals)
    return FramePictures(*undistorted(*layers, lens, distortion))


def _check_size(what: str, picture: Tensor, width: int, height: int) -> None:
    if tuple(picture.shape[:2]) != (height, width):
        raise InputError(
            f"{what} is {picture.shape[1]}x{picture.shape[0]} px, the colour picture "
            f"{width}x{height} px.",
            "Both must have one size.",
        )


def _check_mask(frame: Frame, mask: Tensor) -> None:
    """Raises InputError on a mask without object or without background."""
    brightest, darkest = float(mask.max()), float(mask.min())
    if brightest < 0.5:
        raise InputError(
            f"{frame.where}: the mask is empty, its brightest value is {brightest * 255:.0f} "
            "of 255.",
            "A mask is white (255) on the object; remove frames that do not show it.",
        )
    if darkest >= 0.5:
        raise InputError(
            f"{frame.where}: the mask is full, the object fills the whole picture.",
            "Nothing can be carved from it: the background must be visible around the object.",
        )


def stack_all_or_none(
    frames: Sequence[Frame], tensors: Sequence[Tensor | None], what: str
) -> Tensor | None:
    """Stacks tensors that all frames have; None if none has one; an error between the two."""
    lacking = [frame for frame, tensor in zip(frames, tensors, strict=True) if tensor is None]
    if not lacking:
        return torch.stack([tensor for tensor in tensors if tensor is not None])
    if len(lacking) == len(frames):
        return None
    raise InputError(
        f"{lacking[0].where} has no {what}, but other frames have one "
        f"({len(lacking)} of {len(frames)} lack it).",
        "Give it to every frame or to none.",
    )
