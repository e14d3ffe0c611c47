"""Parses cameras and images of a COLMAP model, text or binary.

Counts in binary files are checked against the file size.
"""

from __future__ import annotations

import logging
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ...errors import InputError
from ..files.containment import quote_value
from ..images.decode import printable_name

logger = logging.getLogger(__name__)

_MODELS = (
    ("SIMPLE_PINHOLE", "f cx cy"),
    ("PINHOLE", "fx fy cx cy"),
    ("SIMPLE_RADIAL", "f cx cy k"),
    ("RADIAL", "f cx cy k1 k2"),
    ("OPENCV", "fx fy cx cy k1 k2 p1 p2"),
    ("OPENCV_FISHEYE", "fx fy cx cy k1 k2 k3 k4"),
    ("FULL_OPENCV", "fx fy cx cy k1 k2 p1 p2 k3 k4 k5 k6"),
    ("FOV", "fx fy cx cy omega"),
    ("SIMPLE_RADIAL_FISHEYE", "f cx cy k"),
    ("RADIAL_FISHEYE", "f cx cy k1 k2"),
    ("THIN_PRISM_FISHEYE", "fx fy cx cy k1 k2 p1 p2 k3 k4 sx1 sy1"),
    ("RAD_TAN_THIN_PRISM_FISHEYE", "fx fy cx cy k0 k1 k2 k3 k4 k5 p0 p1 s0 s1 s2 s3"),
    ("SIMPLE_DIVISION", "f cx cy k"),
    ("DIVISION", "fx fy cx cy k"),
    ("SIMPLE_FISHEYE", "f cx cy"),
    ("FISHEYE", "fx fy cx cy"),
    ("EUCM", "fx fy cx cy alpha beta"),
    ("EQUIRECTANGULAR", "w h"),
)
"""COLMAP's camera models by id, with their parameters in order."""
CAMERA_PARAMETERS = {model: tuple(names.split()) for model, names in _MODELS}

MAX_NAME_BYTES = 4096
"""Limit of an image name; no file system has longer paths."""
MIN_CAMERA_BYTES = 24
MIN_IMAGE_BYTES = 64 + 1 + 8
"""Minimum size of an entry in a binary file: without parameters, name and points."""


@dataclass(frozen=True)
class ModelCamera:
    """The intrinsics of a camera."""

    model: str
    width: int
    height: int
    parameters: tuple[float, ...]
    """In the order of `CAMERA_PARAMETERS`, in pixels; the image corner is (0, 0)."""


@dataclass(frozen=True)
class ModelImage:
    """The pose of an image."""

    name: str
    """Path relative to the image folder."""
    camera_id: int
    quaternion: tuple[float, ...]
    """World-to-camera rotation w, x, y, z (OpenCV axes)."""
    translation: tuple[float, ...]
    """World-to-camera translation x, y, z."""


def read_model(
    cameras_path: Path, images_path: Path
) -> tuple[dict[int, ModelCamera], list[ModelImage]]:
    """Reads the cameras by id, and the images in the order of the file.

    Args:
        cameras_path: cameras.bin or cameras.txt.
        images_path: images.bin or images.txt.

    Raises:
        InputError: a file is unreadable, damaged or empty.
    """
    binary = cameras_path.suffix == ".bin"
    with _translate_errors(cameras_path):
        cameras = (_binary_cameras if binary else _text_cameras)(cameras_path)
    with _translate_errors(images_path):
        images = (_binary_images if binary else _text_images)(images_path)
    if not images:
        raise InputError(
            f"{printable_name(images_path)} has no images.", "Run COLMAP's mapper again."
        )
    return cameras, images


@contextmanager
def _translate_errors(path: Path) -> Iterator[None]:
    """Turns exceptions of reading a file into an InputError that names it."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{printable_name(path)} cannot be read: {error.strerror or error}."
        ) from error
    except (ValueError, struct.error) as error:
        raise InputError(
            f"{printable_name(path)} is damaged: {quote_value(str(error))}.", "Export it again."
        ) from error


class _BinaryReader:
    """Reads a little-endian binary file; InputError beyond its end."""

    def __init__(self, path: Path, file: BinaryIO):
        self.path, self.file = path, file
        self.size = os.fstat(file.fileno()).st_size

    def unpack(self, layout: str) -> tuple:
        """The next values, in a format of `struct`."""
        length = struct.calcsize("<" + layout)
        content = self.file.read(length)
        if len(content) < length:
            raise self.truncated_error()
        return struct.unpack("<" + layout, content)

    def count(self, entry_bytes: int) -> int:
        """The count of the entries that follow, of at least `entry_bytes` each."""
        (count,) = self.unpack("Q")
        if count * entry_bytes > self.size - self.file.tell():
            raise InputError(
                f"{printable_name(self.path)} declares {count} entries, more than its {self.size} "
                "bytes can hold.",
                "Copy or export it again: it is damaged or truncated.",
            )
        return count

    def skip(self, length: int) -> None:
        """Skips bytes."""
        if length > self.size - self.file.tell():
            raise self.truncated_error()
        self.file.seek(length, os.SEEK_CUR)

    def name(self) -> str:
        """A NUL-terminated string."""
        start = self.file.tell()
        content, end, _ = self.file.read(MAX_NAME_BYTES + 1).partition(b"\0")
        if not end:
            raise InputError(f"{printable_name(self.path)} is damaged: an image name has no end.")
        self.file.seek(start + len(content) + 1)
        return os.fsdecode(content)

    def truncated_error(self) -> InputError:
        """The error for a truncated file."""
        return InputError(
            f"{printable_name(self.path)} is truncated after {self.size} bytes.", "Copy it again."
        )


def _binary_cameras(path: Path) -> dict[int, ModelCamera]:
    cameras = {}
    with path.open("rb") as file:
        content = _BinaryReader(path, file)
        for _ in range(content.count(MIN_CAMERA_BYTES)):
            camera_id, number, width, height = content.unpack("IiQQ")
            if not 0 <= number < len(_MODELS):
                raise InputError(
                    f"{printable_name(path)}: camera {camera_id} has the unknown model {number}.",
                    "Undistort the images with colmap image_undistorter, which writes PINHOLE.",
                )
            model = _MODELS[number][0]
            parameters = content.unpack(f"{len(CAMERA_PARAMETERS[model])}d")
            cameras[camera_id] = ModelCamera(model, width, height, parameters)
    return cameras


def _binary_images(path: Path) -> list[ModelImage]:
    images = []
    with path.open("rb") as file:
        content = _BinaryReader(path, file)
        for _ in range(content.count(MIN_IMAGE_BYTES)):
            _, *pose, camera_id = content.unpack("I7dI")
            name = content.name()
            content.skip(content.count(24) * 24)  # points in the image: x, y, point id
            images.append(ModelImage(name, camera_id, tuple(pose[:4]), tuple(pose[4:])))
    return images


def _text_cameras(path: Path) -> dict[int, ModelCamera]:
    cameras = {}
    for number, line in _lines(path):
        words = line.split()
        if not words or line.startswith("#"):
            continue
        if len(words) < 4 or words[1] not in CAMERA_PARAMETERS:
            raise InputError(
                f"{_line_label(path, number)}: {quote_value(printable_name(line, 100))} is not a "
                "supported camera: CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS.",
                "Undistort the images with colmap image_undistorter, which writes PINHOLE.",
            )
        with _translate_line_errors(path, number):
            parameters = tuple(float(word) for word in words[4:])
            size = int(words[2]), int(words[3])
            cameras[int(words[0])] = ModelCamera(words[1], *size, parameters)
    return cameras


def _text_images(path: Path) -> list[ModelImage]:
    images, declared = [], None
    lines = _lines(path)
    for number, line in lines:
        if not line.strip() or line.startswith("#"):
            declared = _declared_count(line) or declared
            continue
        words = line.split(None, 9)
        if len(words) < 10:
            raise InputError(
                f"{_line_label(path, number)}: {quote_value(printable_name(line, 100))} is not an "
                "image: IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME."
            )
        with _translate_line_errors(path, number):
            pose = tuple(float(word) for word in words[1:8])
            image = ModelImage(words[9].strip(), int(words[8]), pose[:4], pose[4:])
        images.append(image)
        number, line = next(lines, (number + 1, ""))
        if not _may_be_points(line):
            raise InputError(
                f"{_line_label(path, number)}: expected the points of image "
                f"{quote_value(printable_name(image.name, 60))} (X, Y, POINT3D_ID etc.) or an "
                "empty line.",
                "Write two lines per image.",
            )
    if declared is not None and declared != len(images):
        logger.warning("%s declares %d images but has %d", path, declared, len(images))
    return images


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file, stripped, with 1-based numbers."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, line in enumerate(file, 1):
            yield number, line.strip("\r\n\0 \t")


def _declared_count(line: str) -> int | None:
    """The image count in COLMAP's header comment."""
    match = re.match(r"#\s*Number of images: (\d{1,9})", line)
    return int(match[1]) if match else None


def _may_be_points(line: str) -> bool:
    """Whether a line can be the points of an image: empty, or triples of numbers."""
    words = line.split(
        None, 10
    )  # lines of points can be long: ten words distinguish them from images
    try:
        [float(word) for word in words[:10]]
    except ValueError:
        return False
    return len(words) == 11 or len(words) % 3 == 0


def _line_label(path: Path, number: int) -> str:
    """Names a line of a file in errors."""
    return f"{printable_name(path, 120)}, line {number}"


@contextmanager
def _translate_line_errors(path: Path, number: int) -> Iterator[None]:
    """Turns errors of number parsing into an InputError that names the line."""
    try:
        yield
    except (ValueError, OverflowError) as error:
        raise InputError(f"{_line_label(path, number)}: {quote_value(str(error))}.") from error
