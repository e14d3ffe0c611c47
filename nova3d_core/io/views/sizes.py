"""Resizes and pads images of several sizes to one size, together with their intrinsics."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from ...cameras.join import letterbox, letterboxed_intrinsics
from ...errors import InputError
from ...imaging.join import MAX_PIXEL_GROWTH, resize_and_pad
from ..images.decode import ImageHeader, read_image_header
from .frame_images import FrameImages
from .transforms_fields import ViewFrame

logger = logging.getLogger(__name__)

_ASPECT_TOLERANCE = 0.01
_REMEDY = "Add w, h, fl_x, fl_y, cx and cy to such frames, or resize all images to one size."


def common_size(frames: Sequence[ViewFrame]) -> tuple[int, int]:
    """Width and height that contain the images of all frames; reads headers only.

    Raises:
        InputError: an image cannot be opened; its size differs from w and h; sizes differ but the
            intrinsics are shared; resizing to one size would take far more memory.
    """
    headers = [read_image_header(frame.image) for frame in frames]
    for frame, header in zip(frames, headers, strict=True):
        _check_declared_size(frame, header)
    rotated = sum(header.orientation != 1 for header in headers)
    if rotated:
        logger.info(
            "%d of %d images have an EXIF orientation, which is ignored: cameras refer to stored "
            "pixels",
            rotated,
            len(headers),
        )
    sizes = [(header.width, header.height) for header in headers]
    width, height = (max(sides) for sides in zip(*sizes, strict=True))
    different = len(set(sizes))
    if different == 1:
        return width, height
    for frame, size in zip(frames, sizes, strict=True):
        _check_own_lens(frame, size, sizes[0])
    growth = len(sizes) * width * height / sum(w * h for w, h in sizes)
    if growth > MAX_PIXEL_GROWTH:
        raise InputError(
            f"{frames[0].where} and others have images of {different} sizes; resizing all to "
            f"{width}x{height} px would take {growth:.0f} times the memory.",
            "Scale down the largest images and their intrinsics.",
        )
    logger.info(
        "images of %d sizes are resized to %dx%d px and padded with white",
        different,
        width,
        height,
    )
    return width, height


def fit_to_size(
    frame: ViewFrame, images: FrameImages, lens: Tensor, size: tuple[int, int]
) -> tuple[FrameImages, Tensor]:
    """Resizes a frame's images to fit into a size, centred and padded with background.

    Args:
        frame: named in the log.
        images: (H, W, ...) of one size.
        lens: (3, 3) intrinsics in pixels of that size, pixel centres at +0.5.
        size: width and height of the result.

    Returns:
        The images and their exact intrinsics; unchanged if the size matches already.
    """
    width, height = size
    old_height, old_width = images.colour.shape[:2]
    if (old_width, old_height) == size:
        return images, lens
    box = letterbox((old_width, old_height), size)
    if images.mask is not None:
        rows, columns = box.inner_height < height, box.inner_width < width
        _warn_if_cut_off(frame, images.mask, rows, columns)

    def placed(image: Tensor, background: float) -> Tensor:
        return resize_and_pad(image[None], box, background)[0]

    mask = None if images.mask is None else placed(images.mask[..., None], 0.0)[..., 0]
    colour = placed(images.colour, 1.0).clamp(0.0, 1.0)
    normals = images.normals
    if normals is not None:
        normals = functional.normalize(placed(normals, 0.0), dim=-1)
        if mask is not None:
            normals = normals * (mask > 0)[..., None]
    new_lens = letterboxed_intrinsics(lens, (old_width, old_height), box)
    return FrameImages(colour, None if mask is None else mask.clamp(0.0, 1.0), normals), new_lens


def _warn_if_cut_off(frame: ViewFrame, mask: Tensor, rows: bool, columns: bool) -> None:
    """Warns if the object touches a border that is padded with background."""
    inside = mask > 0.5
    cut = rows and bool(inside[[0, -1]].any())
    if cut or (columns and bool(inside[:, [0, -1]].any())):
        logger.warning(
            "%s: the object touches the border of its image, which is padded with background: it "
            "may be truncated",
            frame.where,
        )


def _check_declared_size(frame: ViewFrame, header: ImageHeader) -> None:
    """Raises InputError unless the image has the declared w and h."""
    width, height = header.width, header.height
    declared = {key: frame.positive(key) for key in ("w", "h")}
    mismatched = [
        key
        for key, size in (("w", width), ("h", height))
        if declared[key] is not None and declared[key] != size
    ]
    if not mismatched:
        return
    if (declared["w"], declared["h"]) == (height, width):
        reason = (
            f" (its EXIF orientation is {header.orientation})" if header.orientation != 1 else ""
        )
        raise InputError(
            f"{frame.where}: the image is stored with {width}x{height} px, but w and h are "
            f"{height}x{width}: the size after its EXIF orientation was applied{reason}.",
            "Cameras refer to stored pixels: rotate the pixels and remove the EXIF tag.",
        )
    raise InputError(
        f"{frame.where}: the image is {width}x{height} px, but {mismatched[0]} is "
        f"{declared[mismatched[0]]:g}.",
        "Scale the intrinsics with the images.",
    )


def _check_own_lens(frame: ViewFrame, size: tuple[int, int], first: tuple[int, int]) -> None:
    """Raises InputError if a frame uses top-level intrinsics of another image size."""
    width, height = (
        value if isinstance(value, int | float) and value > 0 else side
        for value, side in zip((frame.shared.get(key) for key in "wh"), first, strict=True)
    )
    if size == (width, height):
        return
    focal = ("fl_x", "fl_y", "camera_angle_x", "camera_angle_y")
    own_focal = any(frame.own.get(key) is not None for key in focal)
    keys = [key for key in ("cx", "cy") if frame.own.get(key) is None]
    keys += [] if own_focal else ["fl_x", "fl_y"]
    if abs(size[0] * height / (size[1] * width) - 1.0) > _ASPECT_TOLERANCE:
        keys += [] if own_focal else ["camera_angle_x", "camera_angle_y"]
        keys += [] if frame.own.get("ortho_scale") is not None else ["ortho_scale"]
    used = [key for key in keys if frame.shared.get(key) is not None]
    if used:
        raise InputError(
            f"{frame.where}: the image is {size[0]}x{size[1]} px, the first one "
            f"{first[0]}x{first[1]} px, but both share {used[0]}.",
            _REMEDY,
        )
