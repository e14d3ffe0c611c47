"""Writing shards of training objects: plain tar files that appear whole or not at all."""

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

FORMAT = 1
"""Of the shards; raised when a reader of today could not read them."""
IMAGES = ("colour", "normal", "mask")
Members = dict[str, bytes]
"""The files of one object: content by name, such as `colour.png`."""


def encode_members(images: Mapping[str, Any], about: Mapping[str, Any], kind: ImageFormat) -> Members:
    """The files of one object.

    Args:
        images: as `images.render_object` gives them.
        about: what else is written of the object.
        kind: how images are kept.
    """
    angles = {name: _rounded(images[name]) for name in ("elevation_deg", "azimuth_deg")}
    members = {"json": json.dumps({**about, **angles}).encode()}
    for name in IMAGES:
        array = images[name].numpy()  # (V, H, W, ...)
        members[f"{name}.{kind}"] = encode_png_strip(array) if kind == "png" else encode_npy(array)
    return members


def _rounded(values: torch.Tensor) -> list[float]:
    return [round(float(value), 4) for value in values]


def encode_png_strip(images: np.ndarray) -> bytes:
    """Images (V, H, W, ...) uint8 below one another in one PNG."""
    from PIL import Image

    content = io.BytesIO()
    strip = np.ascontiguousarray(images.reshape(-1, *images.shape[2:]))
    Image.fromarray(strip).save(content, "PNG", compress_level=1)
    return content.getvalue()


def encode_npy(array: np.ndarray) -> bytes:
    """An array as a .npy file."""
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    return content.getvalue()


def write_shard(
    path: Path,
    objects: Iterable[tuple[str, Members]],
    about: Mapping[str, Any],
    overwrite: bool = False,
) -> None:
    """Writes a shard; it appears under its name when all of it is on the disk.

    Args:
        path: the tar file to make.
        objects: key and files of each object, in order.
        about: what is said of the whole shard.
        overwrite: replace a shard that is there.

    Raises:
        InputError: the disk is full, or the place cannot be written.
    """
    objects = list(objects)
    names = sorted(objects[0][1]) if objects else []
    whole = {"format": FORMAT, **about, "count": len(objects), "members": names}
    with atomic_file(path, overwrite) as beside, tarfile.open(beside, "w") as tar:
        _add(tar, SHARD_INFO, json.dumps(whole, indent=1).encode())
        for key, members in objects:
            for name, content in members.items():
                _add(tar, f"{key}.{name}", content)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """A member without owner and date, so that the same objects give the same bytes."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
