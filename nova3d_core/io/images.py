"""Pictures from files and into files, through pillow: float tensors in 0..1 on our side."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from ..checks import check_finite, check_range
from ..errors import InputError
from .atomic import new_file

if TYPE_CHECKING:
    from PIL.Image import Image

_WITH_ALPHA = {"RGBA", "RGBa", "LA", "La", "PA"}
_GREY_16_BIT = {"I;16", "I;16L", "I;16B", "I;16N", "I"}  # pillow opens 16-bit PGM as "I"
_HALF_STEP = 0.5 / 255.0
"""Half a step of an 8-bit file: an alpha this close to 1 is opaque."""


def read_image(
    path: Path | str, channels: Literal[3, 4] | None = None, longest_px: int | None = None
) -> Tensor:
    """Reads a picture as it is meant to be seen: palettes resolved, turned upright (EXIF).

    Args:
        path: a file of any kind pillow knows, 8 or 16 bits a channel. Pillow keeps all 16 bits of
            grey pictures and the upper 8 of coloured ones.
        channels: 3 puts a transparent picture on white; 4 adds an opaque alpha where there is
            none; without it, the file decides.
        longest_px: a picture at least twice as long is reduced by a whole factor while its pixels
            are still bytes, so that a huge one takes a quarter of the memory, or less.

    Returns:
        (H, W, 3) or (H, W, 4) float32 in 0..1, sRGB, alpha not multiplied in.

    Raises:
        InputError: the file is missing, unreadable, truncated, or no picture; it is named.
    """
    picture = _decoded(Path(path), longest_px)
    if channels == 3 and picture.shape[2] == 4:
        return on_white(picture)
    if channels == 4 and picture.shape[2] == 3:
        return torch.cat([picture, torch.ones_like(picture[..., :1])], dim=-1)
    return picture


def read_mask(path: Path | str, longest_px: int | None = None) -> Tensor:
    """Reads a mask: the alpha of a picture that has transparent pixels, else its brightness.

    Args:
        path: as in `read_image`.
        longest_px: as in `read_image`; the same makes the same size of pictures of the same size.

    Returns:
        (H, W) float32 in 0..1.

    Raises:
        InputError: as `read_image`.
    """
    picture = read_image(path, longest_px=longest_px)
    alpha = alpha_of(picture)
    return picture[..., :3].mean(dim=-1) if alpha is None else alpha


def alpha_of(picture: Tensor) -> Tensor | None:
    """The alpha (H, W) of a picture (H, W, 3 or 4); None if no pixel is transparent.

    Many programs write an alpha that is opaque everywhere: that says nothing about the object.
    """
    if picture.shape[2] < 4 or float(picture[..., 3].min()) >= 1.0 - _HALF_STEP:
        return None
    return picture[..., 3]


def on_white(picture: Tensor) -> Tensor:
    """Puts a picture (..., 4) with alpha on a white ground: (..., 3), mixed in sRGB."""
    alpha = picture[..., 3:]
    return picture[..., :3] * alpha + (1.0 - alpha)


def write_image(path: Path | str, picture: Tensor, overwrite: bool = False) -> Path:
    """Writes a picture with 8 bits a channel; the name's ending says in which format.

    Args:
        path: the file to make, e.g. `front.png`.
        picture: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) float in 0..1.
        overwrite: replace a file that is there already.

    Returns:
        The path.

    Raises:
        InputError: a wrong shape, NaN, values out of range, an unknown ending, a file that exists
            or a place that cannot be written.
    """
    path = Path(path)
    content = encoded(picture, path.suffix)
    with new_file(path, overwrite) as beside:
        beside.write_bytes(content)
    return path


def encoded(picture: Tensor, suffix: str = ".png", what: str = "picture") -> bytes:
    """The content of a picture file, 8 bits a channel.

    Encoding in memory first keeps pillow from hiding why a write failed (a full disk).

    Args:
        picture: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) float in 0..1.
        suffix: the file name's ending, with its dot.
        what: names the picture in errors.

    Raises:
        InputError: a wrong shape, NaN, values out of range, or an unknown ending.
    """
    from PIL import Image

    if picture.ndim == 3 and picture.shape[2] == 1:
        picture = picture[..., 0]
    if not (picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] in (3, 4))):
        raise InputError(
            f"{what} has shape {tuple(picture.shape)}, expected (H, W), (H, W, 3) or (H, W, 4)."
        )
    check_finite(what, picture)
    check_range(what, picture, 0.0, 1.0)
    kind = Image.registered_extensions().get(suffix.lower())
    if kind not in Image.SAVE:
        raise InputError(
            f"{what} cannot be written as '{suffix}'.", "Use .png, .jpg, .webp or .tif."
        )
    levels = (picture.detach().cpu().float().clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)
    content = io.BytesIO()
    try:
        Image.fromarray(levels.numpy()).save(content, format=kind)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{what} of shape {tuple(picture.shape)} cannot be written as '{suffix}': {error}.",
            "Use .png.",
        ) from error
    return content.getvalue()


def _decoded(path: Path, longest_px: int | None = None) -> Tensor:
    """(H, W, 3 or 4) float32 in 0..1 from a file."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            if longest_px is not None:
                opened = _reduced(opened, longest_px)
            return _pixels(ImageOps.exif_transpose(opened), path)
    except FileNotFoundError as error:
        raise InputError(f"picture {path} does not exist.") from error
    except IsADirectoryError as error:
        raise InputError(f"picture {path} is a folder.", "Name a picture file.") from error
    except PermissionError as error:
        raise InputError(
            f"picture {path} cannot be opened.", "Check that it is a file and may be read."
        ) from error
    except Image.UnidentifiedImageError as error:
        raise InputError(
            f"{path} is not a picture that pillow can read.", "Use PNG, JPEG or WebP."
        ) from error
    except Image.DecompressionBombError as error:
        raise InputError(f"picture {path} is too large: {error}", "Make it smaller.") from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error) as error:
        raise InputError(
            f"picture {path} is damaged or cut off: {error}.", "Copy or render it again."
        ) from error


def _reduced(image: Image, longest_px: int) -> Image:
    """The picture with squares of pixels averaged, its longer side below twice `longest_px`."""
    factor = max(image.size) // longest_px
    if factor < 2 or image.mode in (*_GREY_16_BIT, "F"):
        return image
    turned = image.getexif()
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        # what is clear has no colour that could bleed into the average
        small = image.convert("RGBA").convert("RGBa").reduce(factor).convert("RGBA")
    else:
        small = image.convert("RGB").reduce(factor)
    small.info["exif"] = turned.tobytes()
    return small


def _pixels(image: Image, path: Path) -> Tensor:
    """(H, W, 3 or 4) float32 in 0..1 from an open picture."""
    if image.mode in _GREY_16_BIT:
        grey = torch.from_numpy(np.asarray(image).astype(np.float32) / 65535.0).clamp(0.0, 1.0)
        return grey[..., None].repeat(1, 1, 3)
    if image.mode == "F":
        raise InputError(
            f"picture {path} holds floating point numbers, which have no agreed white.",
            "Save it with 8 or 16 bits a channel.",
        )
    transparent = image.mode in _WITH_ALPHA or "transparency" in image.info
    levels = np.asarray(image.convert("RGBA" if transparent else "RGB"))
    return torch.from_numpy(levels.astype(np.float32) / 255.0)
