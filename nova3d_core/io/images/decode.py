"""Decodes image files safely: whitelisted formats, bounded sizes, uniform errors.

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
"""Formats of cameras, renderers and image editors, recognised by their first bytes. Excluded are
formats that run programs (EPS), documents, and rare formats with little-tested decoders."""
FORMATS_BY_SUFFIX = {".tga": "TGA"}
"""Formats recognised by suffix: TGA, used for textures of older meshes, has no signature."""
MAX_PIXELS = 2**27
"""Size limit of an image: 134 million pixels, twice an 8192 x 8192 texture."""
MAX_SCAN_PIXELS = 2**31
"""Limit of pixels times scans of a progressive JPEG: each scan, however short, takes time for the
whole image. Encoders write about 10 scans."""
_STRIP_PX = 2**18
"""Pixels converted together, which bounds the temporary memory."""
_ORIENTATION_TAG = 0x0112
_WITH_ALPHA = {"RGBA", "RGBa", "LA", "La", "PA"}
_GREY_16_BIT = {"I;16", "I;16L", "I;16B", "I;16N", "I"}  # pillow opens 16-bit PGM as "I"
_CONVERTIBLE = {"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", *_WITH_ALPHA}
_LOCK = threading.RLock()  # warning filters are global to the process

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
"""For each EXIF orientation, the view of an upright array in stored orientation."""
_SWAPS_SIDES = {5, 6, 7, 8}
_INVERSE = {6: 8, 8: 6}


@dataclass(frozen=True)
class ImageHeader:
    """The header of an image file."""

    width: int
    """Stored width in pixels."""
    height: int
    """Stored height in pixels."""
    orientation: int
    """EXIF orientation, 1 to 8; 1 is upright."""


def printable_name(name: Path | str, limit: int = 200) -> str:
    """A name for error messages: printable, on one line, shortened in the middle if long."""
    text = str(name)
    text = text if text.isprintable() else repr(text)
    half = limit // 2
    return text if len(text) <= limit else f"{text[:half]}...{text[-half:]}"


@contextmanager
def open_image(
    source: Path | bytes, label: str, formats: tuple[str, ...] = FORMATS
) -> Iterator[Image]:
    """Opens an image file; its pixels are decoded inside the `with` block, not before.

    Of animations and files with several pages, the first image is read. Exceptions in the
    block become an InputError and warnings are silenced, so use it for pillow calls only.

    Args:
        source: a file path or the content of a file.
        label: names the image in errors, for example "texture wood.png referenced by chair.obj".
        formats: pillow's names of the allowed formats.

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
        raise InputError(f"{label} does not fit into memory.", "Scale it down.") from error
    except Image.UnidentifiedImageError as error:
        raise InputError(
            f"{label} is not an image of a supported format.",
            "Save it as PNG, JPEG, WebP, TIFF, BMP, GIF, TGA or PPM.",
        ) from error
    except Image.DecompressionBombError as error:
        raise _too_large(label, "") from error
    except Exception as error:  # pillow raises any exception on damaged files
        reason = printable_name(" ".join(str(error).split()) or type(error).__name__, 120).rstrip(
            "."
        )
        raise InputError(
            f"{label} cannot be decoded, it is damaged or truncated: {reason}.",
            "Copy or export it again.",
        ) from error


def read_image_header(path: Path) -> ImageHeader:
    """Reads size and orientation of an image file without decoding it.

    Raises:
        InputError: as `open_image`.
    """
    with open_image(path, f"image {printable_name(path)}") as image:
        width, height = image.size
        orientation = _orientation(image)
        if image.format == "TIFF":  # pillow may report the size of the upright image
            width, height = int(image.tag_v2[256]), int(image.tag_v2[257])
        return ImageHeader(width, height, orientation)


def decode_pixels(
    image: Image,
    label: str,
    alpha: bool = True,
    upright: bool = False,
    longest_px: int | None = None,
) -> np.ndarray:
    """Decodes an image opened by `open_image`, with little memory besides the result.

    Args:
        image: the opened image, not yet decoded.
        label: names the image in errors.
        alpha: False drops transparency.
        upright: apply the EXIF orientation; otherwise pixels are returned as stored.
        longest_px: images at least twice as large are reduced by an integer factor before
            conversion to float; the longer side stays below twice this value.

    Returns:
        (H, W, 3), or (H, W, 4) if the file has transparency, float32 in 0..1.

    Raises:
        InputError: floating-point or 32-bit values, or an unsupported colour space (Lab).
    """
    orientation = _orientation(image)
    factor = _reduction_factor(image.size, longest_px)
    factor //= _reduce_while_decoding(image, factor)
    image.load()
    if image.format == "TIFF":  # pillow has applied the orientation
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
    """Converts an image, reduced by `factor`, into `target` (H, W, 3 or 4), strip by strip."""
    if image.mode == "F":
        raise InputError(
            f"{label} has floating-point values, whose range is undefined.",
            "Save it with 8 or 16 bits per channel.",
        )
    if image.mode not in _CONVERTIBLE:
        raise InputError(
            f"{label} has the unsupported colour space {image.mode}.", "Save it as RGB."
        )
    for top, bottom in _strips(image, factor):
        strip = image.crop((0, top, image.width, bottom))
        strip = strip.convert("RGB" if target.shape[2] == 3 else "RGBA")
        if factor > 1:
            strip = strip.reduce(factor)  # weights colours by alpha
        rows = target[top // factor : -(-bottom // factor)]
        np.divide(np.asarray(strip), 255.0, out=rows, dtype=np.float32)


def _fill_from_16_bit(target: np.ndarray, image: Image, factor: int, label: str) -> None:
    """Converts a 16-bit greyscale image, reduced by `factor`, into all channels of `target`."""
    from PIL import Image as images

    levels = np.asarray(image)  # (H, W)
    if int(levels.min()) < 0 or int(levels.max()) > 65535:
        raise InputError(
            f"{label} has 32-bit values, whose range is undefined.",
            "Save it with 8 or 16 bits per channel.",
        )
    for top, bottom in _strips(image, factor):
        grey = levels[top:bottom].astype(np.float32) / 65535.0
        if factor > 1:
            grey = np.asarray(images.fromarray(grey).reduce(factor))
        target[top // factor : -(-bottom // factor)] = grey[..., None]


def _strips(image: Image, factor: int) -> Iterator[tuple[int, int]]:
    """Start and end rows of strips that cover an image; heights are multiples of `factor`."""
    step = factor * max(_STRIP_PX // (image.width * factor), 1)
    for top in range(0, image.height, step):
        yield top, min(top + step, image.height)


def _reduction_factor(size: tuple[int, int], longest_px: int | None) -> int:
    """The integer reduction factor; large ones are multiples of 4 or 8, for JPEG decoders."""
    factor = 1 if longest_px is None else max(size) // longest_px
    if factor >= 8:
        return factor // 8 * 8
    return 4 if factor >= 4 else max(factor, 1)


def _reduce_while_decoding(image: Image, factor: int) -> int:
    """Lets the JPEG decoder downscale by a divisor of `factor`; returns that divisor."""
    divisor = next(divisor for divisor in (8, 4, 2, 1) if factor % divisor == 0)
    if divisor == 1 or image.format not in ("JPEG", "MPO") or min(image.size) < 2 * divisor:
        return 1
    size = image.size
    image.draft(None, (image.width // divisor, image.height // divisor))
    return divisor if image.size != size else 1


def _orientation(image: Image) -> int:
    """The EXIF orientation, 1 to 8; 1 if it is missing or the EXIF data are damaged."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # damaged metadata do not affect the pixels
        return 1
    return value if isinstance(value, int) and value in _STORED_VIEW else 1


def _check_cost(image: Image, file: BinaryIO, label: str) -> None:
    """Raises InputError for images without pixels or too expensive to decode."""
    width, height = image.size
    if width < 1 or height < 1:
        raise InputError(f"{label} is damaged or truncated: its size is {width}x{height} px.")
    if width * height > MAX_PIXELS:
        raise _too_large(label, f"{width}x{height} px, ")
    if image.format in ("JPEG", "MPO") and width * height * _scan_count(file) > MAX_SCAN_PIXELS:
        raise InputError(
            f"{label} is a JPEG of {width}x{height} px in {_scan_count(file)} scans, which would "
            "take too long to decode.",
            "Save it as a baseline (not progressive) JPEG.",
        )


def _too_large(label: str, size: str) -> InputError:
    return InputError(
        f"{label} is too large: {size}more than {MAX_PIXELS / 1e6:.0f} million pixels.",
        "Scale it down.",
    )


def _scan_count(file: BinaryIO) -> int:
    """The number of scans in a JPEG file, including embedded previews."""
    position = file.tell()
    file.seek(0)
    count, last = 0, b""
    while chunk := file.read(2**20):
        count += (last + chunk).count(b"\xff\xda")  # compressed data escape FF as FF 00
        last = chunk[-1:]
    file.seek(position)
    return count


def _open_binary(source: Path | bytes, label: str) -> BinaryIO:
    """Opens the source; rejects pipes and devices, which might block forever."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    try:
        if source.is_dir():
            raise InputError(f"{label} is a folder.", "Choose an image file.")
        if source.exists() and not source.is_file():
            raise InputError(f"{label} is not a regular file.", "Choose an image file.")
        return source.open("rb")
    except FileNotFoundError as error:
        raise InputError(f"{label} does not exist.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{label} cannot be opened: {reason}.", "Check that the file is readable."
        ) from error
