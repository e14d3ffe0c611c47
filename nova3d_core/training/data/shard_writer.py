"""Writing shards of training objects: plain tar files, written atomically."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...io.files.atomic import atomic_file
from .config import ImageFormat
from .shards import SHARD_INFO

SHARD_FORMAT = 1
"""Version of the format; raised on changes that older readers cannot read."""
IMAGES = ("colour", "normal", "mask")
Members = dict[str, bytes]
"""Files of one object: content by name, such as `colour.png`."""


def encode_members(
    images: Mapping[str, Any], metadata: Mapping[str, Any], image_format: ImageFormat
) -> Members:
    """Encodes the files of one object.

    Args:
        images: as returned by `render.render_object`.
        metadata: further content of the object's JSON.
        image_format: file format of the images.
    """
    angles = {name: _rounded(images[name]) for name in ("elevation_deg", "azimuth_deg")}
    members = {"json": json.dumps({**metadata, **angles}).encode()}
    for name in IMAGES:
        array = images[name].numpy()  # (V, H, W, ...)
        encode = encode_png_strip if image_format == "png" else encode_npy
        members[f"{name}.{image_format}"] = encode(array)
    return members


def _rounded(values: torch.Tensor) -> list[float]:
    return [round(float(value), 4) for value in values]


def encode_png_strip(images: np.ndarray) -> bytes:
    """Stacks images (V, H, W, ...) uint8 vertically into one PNG."""
    from PIL import Image

    content = io.BytesIO()
    strip = np.ascontiguousarray(images.reshape(-1, *images.shape[2:]))
    Image.fromarray(strip).save(content, "PNG", compress_level=1)
    return content.getvalue()


def encode_npy(array: np.ndarray) -> bytes:
    """The bytes of an array's .npy file."""
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    return content.getvalue()


def write_shard(
    path: Path,
    objects: Iterable[tuple[str, Members]],
    info: Mapping[str, Any],
    overwrite: bool = False,
) -> None:
    """Writes a shard atomically.

    Args:
        path: tar file to write.
        objects: key and files of each object, in order.
        info: description of the shard.
        overwrite: replace an existing shard.

    Raises:
        InputError: the disk is full, or the path cannot be written.
    """
    objects = list(objects)
    names = sorted(objects[0][1]) if objects else []
    info = {"format": SHARD_FORMAT, **info, "count": len(objects), "members": names}
    with atomic_file(path, overwrite) as temporary, tarfile.open(temporary, "w") as tar:
        _add(tar, SHARD_INFO, json.dumps(info, indent=1).encode())
        for key, members in objects:
            for name, content in members.items():
                _add(tar, f"{key}.{name}", content)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Adds a member without owner and date: equal objects make equal files."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
