"""Opens image files safely: known formats only, sizes bounded before decoding, one kind of error.

Every image that this package reads, from a path or from bytes, goes through `open_image`.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from ...errors import InputError, Nova3DError

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
"""What cameras, renderers and painting programs write, by its first bytes. Left out are formats
that start programs (EPS), hold documents, or are so rare that their readers are little tested."""
FORMATS_BY_SUFFIX = {".tga": "TGA"}
"""Textures of older meshes; TGA has no signature, so only files of that name may be one."""
MAX_PIXELS = 2**27
"""The largest image that is decoded: 134 million pixels, twice an 8192 x 8192 texture."""
MAX_SCAN_PIXELS = 2**31
"""Pixels times scans of a progressive JPEG: each scan passes over the whole image, however short
it is. Encoders write about 10 scans."""
_STRIP_PX = 2**18
"""Pixels converted together: bounds the memory besides the result."""
_ORIENTATION_TAG = 0x0112
_WITH_ALPHA = {"RGBA", "RGBa", "LA", "La", "PA"}
_GREY_16_BIT = {"I;16", "I;16L", "I;16B", "I;16N", "I"}  # pillow opens 16-bit PGM as "I"
_CONVERTIBLE = {"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", *_WITH_ALPHA}
_LOCK = threading.RLock()  # Python's warning filters belong to the whole process

_STORED_VIEW: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: np.rot90(upright, 2).swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}
"""For each EXIF orientation: an upright array, looked at as the file stores it."""
_SWAPS_SIDES = {5, 6, 7, 8}
_INVERSE = {6: 8, 8: 6}


@dataclass(frozen=True)
class ImageHeader:
    """What an image file says before its pixels."""

    width: int
    """Pixels in a row, as stored."""
    height: int
    """Rows, as stored."""
    orientation: int
    """EXIF orientation, 1 to 8; 1 is upright."""


def printable_name(name: Path | str, limit: int = 200) -> str:
    """A name as errors show it: on one line, its middle left out where it is very long."""
    text = str(name)
    text = text if text.isprintable() else repr(text)
    half = limit // 2
    return text if len(text) <= limit else f"{text[:half]}...{text[-half:]}"


@contextmanager
def open_image(
    source: Path | bytes, label: str, formats: tuple[str, ...] = FORMATS
) -> Iterator[Image]:
    """Opens an image file; its pixels are decoded inside the `with` block, not before.

    Of animations and files with several pages, the first image is read. Whatever pillow raises in
    the block becomes an InputError, and its warnings are silent: keep anything else out of it.

    Args:
        source: a file or the content of one.
        label: names the image in errors, for example "texture wood.png named by chair.obj".
        formats: pillow's names of the formats that are allowed.

    Raises:
        InputError: the file is missing, of another format, damaged, or has more than `MAX_PIXELS`.
    """
    from PIL import Image

    if isinstance(source, Path) and source.suffix.lower() in FORMATS_BY_SUFFIX:
        formats = (*formats, FORMATS_BY_SUFFIX[source.suffix.lower()])
    try:
        with _LOCK, warnings.catch_warnings(), _open_binary(source, label) as file:
            warnings.simplefilter("ignore")
            with Image.open(file, formats=formats) as image:
                _check_cost(image, file, label)
                yield image
    except Nova3DError:
        raise
    except MemoryError as error:
        raise InputError(f"{label} does not fit into memory.", "Make it smaller.") from error
    except Image.UnidentifiedImageError as error:
        raise InputError(
            f"{label} is not an image of a known format.",
            "Save it as PNG, JPEG or WebP; TIFF, BMP, GIF, TGA and PPM are read too.",
        ) from error
    except Image.DecompressionBombError as error:
        raise _too_large(label, "") from error
    except Exception as error:  # pillow's readers raise any kind on damaged files
        reason = printable_name(" ".join(str(error).split()) or type(error).__name__, 120).rstrip(
            "."
        )
        raise InputError(
            f"{label} cannot be decoded, it is damaged or cut off: {reason}.",
            "Copy or render it again.",
        ) from error


def read_image_header(path: Path) -> ImageHeader:
    """Size and orientation of an image file; nothing is decoded.

    Raises:
        InputError: as `open_image`.
    """
    with open_image(path, f"image {printable_name(path)}") as image:
        width, height = image.size
        orientation = _orientation(image)
        if image.format == "TIFF":  # pillow may give the size of the upright image
            width, height = int(image.tag_v2[256]), int(image.tag_v2[257])
        return ImageHeader(width, height, orientation)


def decode_pixels(
    image: Image,
    label: str,
    alpha: bool = True,
    upright: bool = False,
    longest_px: int | None = None,
) -> np.ndarray:
    """The pixels of an image that `open_image` opened; besides the result it needs little memory.

    Args:
        image: not yet decoded.
        label: names the image in errors.
        alpha: False drops transparency.
        upright: turn the image as its EXIF orientation says; otherwise pixels come as stored.
        longest_px: an image at least twice as long is reduced by a whole factor while its pixels
            are still bytes; its longer side stays below twice this.

    Returns:
        (H, W, 3), or (H, W, 4) where the file has transparency, float32 in 0..1.

    Raises:
        InputError: floating point or 32-bit numbers, or colours of another kind (Lab).
    """
    orientation = _orientation(image)
    factor = _reduction_factor(image.size, longest_px)
    factor //= _reduce_while_decoding(image, factor)
    image.load()
    if image.format == "TIFF":  # pillow has turned it upright
        orientation = 1 if upright else _INVERSE.get(orientation, orientation)
    elif not upright:
        orientation = 1
    transparent = alpha and (image.mode in _WITH_ALPHA or "transparency" in image.info)
    is_16_bit = image.mode in _GREY_16_BIT
    height, width = -(-image.height // factor), -(-image.width // factor)
    size = (width, height) if orientation in _SWAPS_SIDES else (height, width)
    pixels = np.zeros((*size, 4 if transparent and not is_16_bit else 3), dtype=np.float32)
    stored = _STORED_VIEW[orientation](pixels)
    if is_16_bit:
        _fill_from_16_bit(stored, image, factor, label)
    else:
        _fill_from_8_bit(stored, image, factor, label)
    return pixels


def _fill_from_8_bit(target: np.ndarray, image: Image, factor: int, label: str) -> None:
    """Writes an image, reduced by `factor`, into `target` (H, W, 3 or 4), a few rows at a time."""
    if image.mode == "F":
        raise InputError(
            f"{label} holds floating point numbers, which have no agreed white.",
            "Save it with 8 or 16 bits a channel.",
        )
    if image.mode not in _CONVERTIBLE:
        raise InputError(
            f"{label} holds colours of kind {image.mode}, which cannot be read.", "Save it as RGB."
        )
    for top, bottom in _strips(image, factor):
        strip = image.crop((0, top, image.width, bottom))
        strip = strip.convert("RGB" if target.shape[2] == 3 else "RGBA")
        if factor > 1:
            strip = strip.reduce(factor)  # weighs colours by their alpha
        rows = target[top // factor : -(-bottom // factor)]
        np.divide(np.asarray(strip), 255.0, out=rows, dtype=np.float32)


def _fill_from_16_bit(target: np.ndarray, image: Image, factor: int, label: str) -> None:
    """Writes a grey image of 16 bits, reduced by `factor`, into all channels of `target`."""
    from PIL import Image as images

    levels = np.asarray(image)  # (H, W)
    if int(levels.min()) < 0 or int(levels.max()) > 65535:
        raise InputError(
            f"{label} holds 32-bit numbers, which have no agreed white.",
            "Save it with 8 or 16 bits a channel.",
        )
    for top, bottom in _strips(image, factor):
        grey = levels[top:bottom].astype(np.float32) / 65535.0
        if factor > 1:
            grey = np.asarray(images.fromarray(grey).reduce(factor))
        target[top // factor : -(-bottom // factor)] = grey[..., None]


def _strips(image: Image, factor: int) -> Iterator[tuple[int, int]]:
    """First and last + 1 row of strips that make up an image, each whole squares of `factor`."""
    step = factor * max(_STRIP_PX // (image.width * factor), 1)
    for top in range(0, image.height, step):
        yield top, min(top + step, image.height)


def _reduction_factor(size: tuple[int, int], longest_px: int | None) -> int:
    """The whole factor by which an image is reduced; large ones suit a JPEG decoder (4, 8, 16)."""
    factor = 1 if longest_px is None else max(size) // longest_px
    if factor >= 8:
        return factor // 8 * 8
    return 4 if factor >= 4 else max(factor, 1)


def _reduce_while_decoding(image: Image, factor: int) -> int:
    """Lets a JPEG decoder reduce the image by a part of `factor`; returns that part."""
    factor_part = next(factor_part for factor_part in (8, 4, 2, 1) if factor % factor_part == 0)
    if factor_part == 1 or image.format not in ("JPEG", "MPO") or min(image.size) < 2 * factor_part:
        return 1
    size = image.size
    image.draft(None, (image.width // factor_part, image.height // factor_part))
    return factor_part if image.size != size else 1


def _orientation(image: Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none or the EXIF data are damaged."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # metadata in disorder do not make the pixels unreadable
        return 1
    return value if isinstance(value, int) and value in _STORED_VIEW else 1


def _check_cost(image: Image, file: BinaryIO, label: str) -> None:
    """Raises InputError for an image without pixels, or one that takes too much to decode."""
    width, height = image.size
    if width < 1 or height < 1:
        raise InputError(f"{label} is damaged or cut off: its size is {width}x{height} px.")
    if width * height > MAX_PIXELS:
        raise _too_large(label, f"{width}x{height} px, ")
    if image.format in ("JPEG", "MPO") and width * height * _scan_count(file) > MAX_SCAN_PIXELS:
        raise InputError(
            f"{label} is a JPEG of {width}x{height} px in {_scan_count(file)} scans, which would "
            "take too long to decode.",
            "Save it again without progressive scans.",
        )


def _too_large(label: str, size: str) -> InputError:
    return InputError(
        f"{label} is too large: {size}more than {MAX_PIXELS / 1e6:.0f} million pixels.",
        "Make it smaller.",
    )


def _scan_count(file: BinaryIO) -> int:
    """How many scans a JPEG file has, those of embedded previews included."""
    place = file.tell()
    file.seek(0)
    count, last = 0, b""
    while chunk := file.read(2**20):
        count += (last + chunk).count(b"\xff\xda")  # in compressed data, 00 follows each FF
        last = chunk[-1:]
    file.seek(place)
    return count


def _open_binary(source: Path | bytes, label: str) -> BinaryIO:
    """The source as an open file; pipes and devices, which may never end, are refused."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    try:
        if source.is_dir():
            raise InputError(f"{label} is a folder.", "Name an image file.")
        if source.exists() and not source.is_file():
            raise InputError(f"{label} is not a regular file.", "Name an image file.")
        return source.open("rb")
    except FileNotFoundError as error:
        raise InputError(f"{label} does not exist.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{label} cannot be opened: {reason}.", "Check that it is a file and may be read."
        ) from error
