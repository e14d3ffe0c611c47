"""Reads and writes images as float tensors in 0..1, through pillow."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ...checks import check_finite, check_range
from ...errors import InputError
from ...imaging.alpha import alpha_channel, flatten_on_white
from ..files.atomic import atomic_file
from .decode import decode_pixels, open_image, printable_name


def read_image(
    path: Path | str,
    channels: Literal[3, 4] | None = None,
    longest_px: int | None = None,
    upright: bool = True,
) -> Tensor:
    """Reads an image; palettes are resolved.

    Args:
        path: PNG, JPEG, WebP, TIFF, BMP, GIF, TGA or PPM, 8 or 16 bits per channel, of at most
            `decode.MAX_PIXELS`. Greyscale images keep all 16 bits, colour images the upper 8; of
            animations and multi-page files, the first image is read.
        channels: 3 composites transparent images over white; 4 adds an opaque alpha if there is
            none; None keeps the channels of the file.
        longest_px: images at least twice as large are reduced by an integer factor before
            conversion to float, which takes at most a quarter of the memory.
        upright: apply the EXIF orientation. Images of calibrated cameras must be read as stored:
            their intrinsics refer to the stored pixels.

    Returns:
        (H, W, 3) or (H, W, 4) float32 in 0..1, sRGB, straight (not premultiplied) alpha.

    Raises:
        InputError: the file is missing, unreadable, damaged, too large, or not of these formats;
            the message names it.
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
    """Reads a mask: the alpha channel if any pixel is transparent, else the brightness.

    Args:
        path: as in `read_image`.
        longest_px: as in `read_image`; images of equal size are reduced to equal sizes.
        upright: as in `read_image`.

    Returns:
        (H, W) float32 in 0..1.

    Raises:
        InputError: as `read_image`.
    """
    image = read_image(path, longest_px=longest_px, upright=upright)
    alpha = alpha_channel(image)
    return image[..., :3].mean(dim=-1) if alpha is None else alpha


def write_image(path: Path | str, image: Tensor, overwrite: bool = False) -> Path:
    """Writes an image with 8 bits per channel, in the format of the suffix.

    Args:
        path: the file to write, for example `front.png`.
        image: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) float in 0..1.
        overwrite: replace an existing file.

    Returns:
        The path.

    Raises:
        InputError: a wrong shape, NaN, values out of range, an unknown suffix, an existing file, or
            a path that is not writable.
    """
    path = Path(path)
    content = encode_image(image, path.suffix)
    with atomic_file(path, overwrite) as temporary:
        temporary.write_bytes(content)
    return path


def encode_image(image: Tensor, suffix: str = ".png", label: str = "image") -> bytes:
    """Encodes an image with 8 bits per channel.

    Encoding happens in memory because pillow hides why a write fails (full disk).

    Args:
        image: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) float in 0..1.
        suffix: the file suffix, with its dot.
        label: names the image in errors.

    Raises:
        InputError: a wrong shape, NaN, values out of range, or an unknown suffix.
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
    image_format = Image.registered_extensions().get(suffix.lower())
    if image_format not in Image.SAVE:
        raise InputError(
            f"{label} cannot be written as '{suffix}'.", "Use .png, .jpg, .webp or .tif."
        )
    levels = (image.detach().cpu().float().clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)
    content = io.BytesIO()
    try:
        Image.fromarray(levels.numpy()).save(content, format=image_format)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{label} of shape {tuple(image.shape)} cannot be written as '{suffix}': {error}.",
            "Use .png.",
        ) from error
    return content.getvalue()
