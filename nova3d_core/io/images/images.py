"""Images from files and into files, through pillow: float tensors in 0..1 on our side."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ...checks import check_finite, check_range
from ...errors import InputError
from ..files.atomic import atomic_file
from .decode import decode_pixels, open_image, printable_name

_HALF_LEVEL = 0.5 / 255.0
"""Half a step of an 8-bit file: an alpha this close to 1 is opaque."""


def read_image(
    path: Path | str,
    channels: Literal[3, 4] | None = None,
    longest_px: int | None = None,
    upright: bool = True,
) -> Tensor:
    """Reads an image, palettes resolved.

    Args:
        path: PNG, JPEG, WebP, TIFF, BMP, GIF, TGA or PPM, 8 or 16 bits a channel, of at most
            `image_files.MAX_PIXELS`. All 16 bits are kept of grey images, the upper 8 of coloured
            ones; of animations and files with several pages, the first image is read.
        channels: 3 puts a transparent image on white; 4 adds an opaque alpha where there is
            none; without it, the file decides.
        longest_px: an image at least twice as long is reduced by a whole factor while its pixels
            are still bytes, so that a huge one takes a quarter of the memory, or less.
        upright: turn the image as its EXIF orientation says. Images that belong to cameras are to
            be read as stored: their cameras are made for those pixels.

    Returns:
        (H, W, 3) or (H, W, 4) float32 in 0..1, sRGB, alpha not multiplied in.

    Raises:
        InputError: the file is missing, unreadable, damaged, too large, or no image of these
            formats; it is named.
    """
    path = Path(path)
    label = f"image {printable_name(path)}"
    with open_image(path, label) as opened:
        pixels = decode_pixels(opened, label, upright=upright, longest_px=longest_px)
    image = torch.from_numpy(pixels)
    if channels == 3 and image.shape[2] == 4:
        return flatten_on_white(image)
    if channels == 4 and image.shape[2] == 3:
        return torch.cat([image, torch.ones_like(image[..., :1])], dim=-1)
    return image


def read_mask(path: Path | str, longest_px: int | None = None, upright: bool = True) -> Tensor:
    """Reads a mask: the alpha of an image that has transparent pixels, else its brightness.

    Args:
        path: as in `read_image`.
        longest_px: as in `read_image`; images of the same size are reduced to the same size.
        upright: as in `read_image`.

    Returns:
        (H, W) float32 in 0..1.

    Raises:
        InputError: as `read_image`.
    """
    image = read_image(path, longest_px=longest_px, upright=upright)
    alpha = alpha_channel(image)
    return image[..., :3].mean(dim=-1) if alpha is None else alpha


def alpha_channel(image: Tensor) -> Tensor | None:
    """The alpha (H, W) of an image (H, W, 3 or 4); None if no pixel is transparent.

    Many programs write an alpha that is opaque everywhere: that says nothing about the object.
    """
    if image.shape[2] < 4 or float(image[..., 3].min()) >= 1.0 - _HALF_LEVEL:
        return None
    return image[..., 3]


def flatten_on_white(image: Tensor) -> Tensor:
    """Puts an image (..., 4) with alpha on a white ground: (..., 3), mixed in sRGB."""
    alpha = image[..., 3:]
    return image[..., :3] * alpha + (1.0 - alpha)


def write_image(path: Path | str, image: Tensor, overwrite: bool = False) -> Path:
    """Writes an image with 8 bits a channel; the name's ending says in which format.

    Args:
        path: the file to make, e.g. `front.png`.
        image: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) float in 0..1.
        overwrite: replace a file that is there already.

    Returns:
        The path.

    Raises:
        InputError: a wrong shape, NaN, values out of range, an unknown ending, a file that exists
            or a place that cannot be written.
    """
    path = Path(path)
    content = encode_image(image, path.suffix)
    with atomic_file(path, overwrite) as beside:
        beside.write_bytes(content)
    return path


def encode_image(image: Tensor, suffix: str = ".png", label: str = "image") -> bytes:
    """The content of an image file, 8 bits a channel.

    Encoding in memory first keeps pillow from hiding why a write failed (a full disk).

    Args:
        image: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) float in 0..1.
        suffix: the file name's ending, with its dot.
        label: names the image in errors.

    Raises:
        InputError: a wrong shape, NaN, values out of range, or an unknown ending.
    """
    from PIL import Image

    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    if not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))):
        raise InputError(
            f"{label} has shape {tuple(image.shape)}, expected (H, W), (H, W, 3) or (H, W, 4)."
        )
    check_finite(label, image)
    check_range(label, image, 0.0, 1.0)
    kind = Image.registered_extensions().get(suffix.lower())
    if kind not in Image.SAVE:
        raise InputError(
            f"{label} cannot be written as '{suffix}'.", "Use .png, .jpg, .webp or .tif."
        )
    levels = (image.detach().cpu().float().clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)
    content = io.BytesIO()
    try:
        Image.fromarray(levels.numpy()).save(content, format=kind)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{label} of shape {tuple(image.shape)} cannot be written as '{suffix}': {error}.",
            "Use .png.",
        ) from error
    return content.getvalue()
