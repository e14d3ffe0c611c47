"""Decoding the files of one training object: images, arrays and JSON."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import InputError
from ...io.files.json_text import parse_json
from ...io.images.decode import open_image

ANGLES = ("elevation_deg", "azimuth_deg")


class DamagedObjectError(InputError):
    """One object of a shard is unreadable; the others may be fine.

    Args:
        shard: the tar file.
        key: the object's key.
        reason: which member, and what is wrong with it.
    """

    def __init__(self, shard: Path, key: str, reason: str):
        self.reason = reason
        super().__init__(f"object {key} of shard {shard} cannot be read: {reason}")


def decode_object(members: Mapping[str, bytes], info: Mapping[str, Any]) -> dict[str, Any]:
    """Decodes an object, without its key.

    Args:
        members: content by name, such as `colour.png`.
        info: the shard's description; `views` and `size_px`, if present, are checked.

    Returns:
        By name without suffix: images (V, H, W, ...) uint8, arrays as they are, and the angles (V,)
        float32.

    Raises:
        InputError: a member is damaged, or its shape differs from the description.
    """
    views = info.get("views", 1)
    item: dict[str, Any] = {}
    for name, content in members.items():
        try:
            value = decode_member(name, content, views)
            if isinstance(value, dict):
                item |= _angles(value, info.get("views"))
                continue
            _check_image(name, value, info)
            item[name.partition(".")[0]] = torch.from_numpy(value)
        except InputError as error:
            raise InputError(f"{name}: {error.message}") from error
        except Exception as error:  # decoders raise all kinds of errors on damaged bytes
            reason = next(iter(str(error).splitlines()), "")[:160] or type(error).__name__
            raise InputError(f"{name}: {reason.rstrip('.')}.") from error
    return item


def decode_member(name: str, content: bytes, views: int) -> np.ndarray | dict[str, Any]:
    """Decodes a member: the array of a .npy, images (V, H, W, ...) of a .png strip, or JSON.

    A PNG of a single image is returned as (1, H, W, ...).
    """
    if name.endswith(".npy"):
        return _array(content)
    if name.endswith(".png"):
        with open_image(content, name, ("PNG",)) as image:
            strip = np.array(image)
        width = strip.shape[1]
        return strip.reshape(len(strip) // width, width, width, *strip.shape[2:])
    document = parse_json(content, "its JSON")
    if not isinstance(document, dict):
        raise InputError("its JSON is not an object.")
    return document


def _array(content: bytes) -> np.ndarray:
    """The array of a .npy file, whose header must match its size."""
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
        version, np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read(stream)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(content) - stream.tell():
        raise InputError(f"an array of shape {shape} does not match its {len(content):,} bytes.")
    stream.seek(0)
    return np.load(stream, allow_pickle=False)


def _angles(document: Mapping[str, Any], views: int | None) -> dict[str, torch.Tensor]:
    """Camera angles, each (V,) float32."""
    result = {}
    for name in ANGLES:
        if name not in document:
            raise InputError(f"{name} is missing.")
        angles = torch.tensor(document[name], dtype=torch.float32)
        wrong = views is not None and angles.shape != (views,)
        if angles.dim() != 1 or wrong or not bool(torch.isfinite(angles).all()):
            raise InputError(f"{name} is not one angle for each view.")
        result[name] = angles
    return result


def _check_image(name: str, value: np.ndarray, info: Mapping[str, Any]) -> None:
    """Raises InputError if an image's size differs from the shard's description."""
    views, size_px = info.get("views"), info.get("size_px")
    if value.dtype != np.uint8 or views is None or size_px is None:  # latents, or another writer
        return
    if value.shape[1:3] != (size_px, size_px) or value.shape[0] not in (1, views):
        raise InputError(f"images of shape {value.shape}, expected {views} of {size_px} pixels.")
