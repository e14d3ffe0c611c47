"""Reads the images of a frame: colour, mask and normals of one size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...conventions import decode_normals
from ...errors import InputError
from ...imaging.alpha import alpha_channel, flatten_on_white
from ...imaging.undistort import undistort_image
from ..images.images import read_image, read_mask
from .lenses import check_field_of_view, read_distortion
from .transforms_fields import ViewFrame

_ROWS = 128
"""Rows of an image that are decoded together."""


@dataclass(frozen=True, eq=False)
class FrameImages:
    """The images of one frame."""

    colour: Tensor
    """(H, W, 3) on white."""
    mask: Tensor | None
    """(H, W); None without a mask_path and without transparent pixels."""
    normals: Tensor | None
    """(H, W, 3) unit vectors or zero."""


def read_images(frame: ViewFrame) -> FrameImages:
    """Reads the images of a frame and checks that their sizes agree.

    The EXIF orientation is ignored: cameras refer to stored pixels.
    """
    image = read_image(frame.image, upright=False)
    height, width = image.shape[:2]
    mask, normals = alpha_channel(image), None
    colour = image if image.shape[2] == 3 else flatten_on_white(image)
    if frame.mask is not None:
        mask = read_mask(frame.mask, upright=False)
        _check_size(f"{frame.where}: mask {frame.mask.name}", mask, width, height)
        colour[mask <= 0] = 1.0
    if mask is not None:
        _check_mask(frame, mask)
    if frame.normals is not None:
        normals = read_image(frame.normals, upright=False)[..., :3]
        label = f"{frame.where}: normal image {frame.normals.name}"
        _check_size(label, normals, width, height)
        for row in range(0, height, _ROWS):  # in chunks: decoding makes several copies
            rows = slice(row, row + _ROWS)
            normals[rows] = decode_normals(normals[rows])
        if mask is not None:
            normals *= mask[..., None] > 0
    return FrameImages(colour, mask, normals)


def undistort_images(frame: ViewFrame, images: FrameImages, lens: Tensor) -> FrameImages:
    """Undistorts a frame's images to a pinhole camera with intrinsics `lens` (3, 3)."""
    distortion = read_distortion(frame)
    if distortion is None:
        return images
    height, width = images.colour.shape[:2]
    check_field_of_view(frame, distortion, lens, width, height)
    layers = (images.colour, images.mask, images.normals)
    return FrameImages(*undistort_image(*layers, lens, distortion))


class ViewStack:
    """The images of all frames in preallocated tensors, which avoids a second copy.

    Args:
        frames: V frames.
        size: width and height of all images.

    Raises:
        InputError: the images do not fit into memory.
    """

    def __init__(self, frames: Sequence[ViewFrame], size: tuple[int, int]):
        self.frames, self.size = frames, size
        self.colour = self._allocate(3)  # (V, H, W, 3)
        self._masks: Tensor | None = None
        self._normals: Tensor | None = None
        self._without_mask: list[int] = []
        self._without_normals: list[int] = []

    def store(self, view: int, images: FrameImages) -> None:
        """Stores the images of one frame."""
        self.colour[view] = images.colour
        if images.mask is None:
            self._without_mask.append(view)
        else:
            self._masks = self._allocate() if self._masks is None else self._masks
            self._masks[view] = images.mask
        if images.normals is None:
            self._without_normals.append(view)
        else:
            self._normals = self._allocate(3) if self._normals is None else self._normals
            self._normals[view] = images.normals

    def masks(self) -> Tensor | None:
        """(V, H, W); None if no frame has a mask, InputError if only some have one."""
        label = "mask (no mask_path, no transparent pixels)"
        self._check_all_or_none(self._without_mask, label)
        return self._masks

    def normals(self) -> Tensor | None:
        """(V, H, W, 3); None if no frame has normals, InputError if only some have them."""
        self._check_all_or_none(self._without_normals, "normal_path")
        return self._normals

    def _check_all_or_none(self, missing: list[int], label: str) -> None:
        if 0 < len(missing) < len(self.frames):
            raise InputError(
                f"{self.frames[missing[0]].where} has no {label}, but other frames have one "
                f"({len(missing)} of {len(self.frames)} lack it).",
                "Add it to all frames or remove it from all.",
            )

    def _allocate(self, *channels: int) -> Tensor:
        """Zeros (V, H, W, ...)."""
        width, height = self.size
        shape = (len(self.frames), height, width, *channels)
        try:
            return torch.zeros(shape)
        except (MemoryError, RuntimeError) as error:  # torch raises RuntimeError
            gib = torch.Size(shape).numel() * 4 / 2**30
            raise InputError(
                f"{self.frames[0].where} and others: {len(self.frames)} images of "
                f"{width}x{height} px take {gib:.1f} GiB and do not fit into memory.",
                "Use fewer or smaller images.",
            ) from error


def _check_size(label: str, image: Tensor, width: int, height: int) -> None:
    if tuple(image.shape[:2]) == (height, width):
        return
    rotated = tuple(image.shape[:2]) == (width, height)
    raise InputError(
        f"{label} is {image.shape[1]}x{image.shape[0]} px, the colour image "
        f"{width}x{height} px"
        + (": one of them was probably rotated by its EXIF orientation." if rotated else "."),
        "Give both the same stored size.",
    )


def _check_mask(frame: ViewFrame, mask: Tensor) -> None:
    """Raises InputError for a mask without object or without background."""
    brightest, darkest = float(mask.max()), float(mask.min())
    if brightest < 0.5:
        raise InputError(
            f"{frame.where}: the mask is empty, its maximum is {brightest * 255:.0f} of 255.",
            "Make the mask white (255) on the object, or remove frames that do not show it.",
        )
    if darkest >= 0.5:
        raise InputError(
            f"{frame.where}: the mask is full, the object fills the whole image.",
            "Use images with visible background around the object.",
        )
