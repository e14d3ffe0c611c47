"""Reading shards of training objects: shuffled, distributed, resumable at the exact position."""

from __future__ import annotations

import logging
import tarfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from glob import glob
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...errors import InputError
from ...io.files.json_text import parse_json
from .shard_members import DamagedObjectError, decode_object
from .stream import ObjectStream

logger = logging.getLogger(__name__)

SHARD_INFO = "__shard__/info.json"
"""The first member of a shard; the webdataset package skips such names."""
MAX_OPEN_FILES = 32
MAX_SHARD_INFO_BYTES = 1_000_000
MAX_NAMED_OBJECTS = 100
"""Unreadable objects that are named in warnings; further ones are only counted."""


@dataclass(frozen=True)
class Shard:
    """Index of one tar file."""

    path: Path
    info: dict[str, Any]
    """The writer's description: format, number of objects, settings."""
    objects: tuple[dict[str, tuple[int, int]], ...]
    """Of each complete object: offset and size of its members by name (`colour.png`)."""
    keys: tuple[str, ...]
    """Keys of the objects."""
    lost: int = 0
    """Objects missing from a truncated file."""


def read_shard(path: Path | str, strict: bool = False) -> Shard:
    """Reads the index of a shard, not its images.

    Args:
        path: a tar file written by `render-dataset`.
        strict: reject a truncated file; otherwise its complete objects are used and a warning says
            how many were lost.

    Raises:
        InputError: missing, empty, no shard, truncated before its first object, or `strict`.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"shard {path} does not exist.")
    size = path.stat().st_size
    members, reason = _read_members(path, size)
    info = _read_info(path, members)
    objects: OrderedDict[str, dict[str, tuple[int, int]]] = OrderedDict()
    for member in members:
        key, _, name = member.name.partition(".")
        if member.name != SHARD_INFO and member.isfile():
            objects.setdefault(key, {})[name] = (member.offset_data, member.size)
    required = set(info["members"])
    complete = {key: found for key, found in objects.items() if required <= set(found)}
    lost = max(info["count"] - len(complete), 0)
    if lost:
        reason = reason or "objects are missing"
        message = (
            f"shard {path} is incomplete ({reason}): {lost} of {info['count']} objects are lost"
        )
        if strict or not complete:
            raise InputError(f"{message}.", "Copy it again, or delete it and render it again.")
        logger.warning("%s; the other %d are used.", message, len(complete))
    return Shard(path, info, tuple(complete.values()), tuple(complete), lost)


def _read_members(path: Path, size: int) -> tuple[list[tarfile.TarInfo], str]:
    """Members that the file holds completely, and why the list ended early, if it did."""
    members: list[tarfile.TarInfo] = []
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            offset = -1
            while (member := tar.next()) is not None:
                if member.size < 0 or member.offset <= offset:  # such a list may be endless
                    return members, "it is damaged"
                if member.offset_data + member.size > size:
                    return members, "it is truncated"
                offset = member.offset
                members.append(member)
    except Exception as error:  # tarfile raises all kinds of errors on damaged files
        if not members:
            raise InputError(
                f"{path} is not a readable shard: {str(error)[:200]}.",
                "Shards are plain tar files.",
            ) from error
        return members, "it is truncated or damaged"
    return members, ""


def _read_info(path: Path, members: list[tarfile.TarInfo]) -> dict[str, Any]:
    """The shard's own description."""
    if not members or members[0].name != SHARD_INFO:
        raise InputError(
            f"{path} is a tar file, but not a shard of training objects.",
            "Make shards with: render-dataset",
        )
    with path.open("rb") as file:
        file.seek(members[0].offset_data)
        text = file.read(min(members[0].size, MAX_SHARD_INFO_BYTES))
    info = parse_json(text, f"the description in shard {path}")
    if not isinstance(info, dict) or not {"count", "members", "format"} <= set(info):
        raise InputError(f"the description in shard {path} lacks its count or members.")
    names, numbers = info["members"], [info["count"]]
    numbers += [info[name] for name in ("views", "size_px") if info.get(name) is not None]
    if not (
        isinstance(names, list)
        and all(isinstance(name, str) for name in names)
        and all(type(number) is int and number >= 0 for number in numbers)
    ):
        raise InputError(f"the description in shard {path} has values of wrong types.")
    return {name: value for name, value in info.items() if value is not None}


class ShardDataset(ObjectStream):
    """Objects of shards, in an order that is reshuffled every epoch.

    Shards are shuffled and taken a few at a time (`shuffle_window`); the objects of those are
    shuffled together. Reads stay within few files, without a buffer of images.

    Args:
        paths: shard files, folders of `*.tar`, or patterns.
        seed: of the shuffling.
        epochs: passes over the data; endless if None.
        shuffle: False keeps the order of the files.
        shuffle_window: shards that are mixed.
        strict: reject incomplete shards, see `read_shard`.
        rank, world_size, batch_size: see `ObjectStream`.

    Yields:
        Dicts of tensors: colour, normal (V, H, W, 3) uint8; mask (V, H, W) uint8; elevation_deg,
        azimuth_deg (V,) float32; key str. Latent shards: see `precompute_latents`.

    Raises:
        InputError: no shards, or an unreadable one; while reading: no object is readable.
    """

    def __init__(
        self,
        paths: Path | str | Sequence[Path | str],
        seed: int = 0,
        epochs: int | None = None,
        shuffle: bool = True,
        shuffle_window: int = 8,
        strict: bool = False,
        rank: int = 0,
        world_size: int = 1,
        batch_size: int = 1,
    ):
        super().__init__(rank, world_size, batch_size)
        self.shards = [read_shard(path, strict) for path in shard_paths(paths)]
        self.seed, self.epochs, self.shuffle = seed, epochs, shuffle
        self.shuffle_window = shuffle_window
        self._order: tuple[int, np.ndarray] = (-1, np.zeros((0, 2), np.int64))
        self._files: OrderedDict[Path, BinaryIO] = OrderedDict()

    def __len__(self) -> int:
        """Objects per epoch, over all ranks."""
        return self._count

    @cached_property
    def _count(self) -> int:
        return sum(len(shard.objects) for shard in self.shards)

    @property
    def total(self) -> int | None:
        return None if self.epochs is None else self.epochs * self._count

    def identity(self) -> dict[str, Any]:
        return {
            "source": "shards",
            "seed": self.seed if self.shuffle else None,
            "shards": len(self.shards),
            "objects": self._count,
            "shuffle_window": self.shuffle_window,
        }

    def fetch(self, number: int) -> dict[str, Any]:
        """One object of the sequence.

        An unreadable object is replaced by the next readable one of its epoch, so a position
        refers to the same object in every run, whatever was read before.

        Raises:
            InputError: no object is readable, or a shard has disappeared.
        """
        epoch, index = divmod(number, self._count)
        if self._order[0] != epoch:
            self._order = (epoch, self.epoch_order(epoch))
        for offset in range(self._count):
            shard, member = self._order[1][(index + offset) % self._count]
            item = self._read_or_skip(self.shards[shard], int(member))
            if item is not None:
                return item
        first = next(iter(self.unreadable.items()))
        raise InputError(
            f"none of the {self._count} objects in {len(self.shards)} shards can be read, the "
            f"first: {first[0]}: {first[1]}",
            "Copy the shards again, or render them again.",
        )

    def readable_objects(self) -> Iterator[dict[str, Any]]:
        """All readable objects once, in the order of the files."""
        for shard in self.shards:
            for index in range(len(shard.objects)):
                item = self._read_or_skip(shard, index)
                if item is not None:
                    yield item

    def _read_or_skip(self, shard: Shard, index: int) -> dict[str, Any] | None:
        """An object, or None with one warning if it is damaged."""
        name = f"object {shard.keys[index]} of shard {shard.path}"
        if name in self.unreadable:
            return None
        try:
            return self.read_object(shard, index)
        except DamagedObjectError as error:
            self.unreadable[name] = error.reason
            if len(self.unreadable) <= MAX_NAMED_OBJECTS:
                logger.warning(
                    "%s is skipped (%d so far): %s", name, len(self.unreadable), error.reason
                )
            return None

    def epoch_order(self, epoch: int) -> np.ndarray:
        """(objects, 2) shard and index within it of an epoch's objects, in order."""
        rng = np.random.default_rng((self.seed, epoch))
        shards = np.arange(len(self.shards))
        if self.shuffle:
            rng.shuffle(shards)
        windows = []
        for start in range(0, len(shards), self.shuffle_window):
            window = np.concatenate(
                [
                    np.stack([np.full(count, shard), np.arange(count)], axis=1)
                    for shard in shards[start : start + self.shuffle_window]
                    for count in [len(self.shards[shard].objects)]
                ]
            )
            if self.shuffle:
                rng.shuffle(window)
            windows.append(window)
        return np.concatenate(windows)

    def read_object(self, shard: Shard, index: int) -> dict[str, Any]:
        """One object of a shard, as tensors.

        Raises:
            DamagedObjectError: naming shard, object and member.
            InputError: the shard itself can no longer be read.
        """
        members = {}
        try:
            file = self._open(shard.path)
            for name, (offset, size) in shard.objects[index].items():
                file.seek(offset)
                members[name] = file.read(size)
        except OSError as error:
            raise InputError(f"shard {shard.path} cannot be read: {error.strerror}.") from error
        try:
            return {"key": shard.keys[index], **decode_object(members, shard.info)}
        except InputError as error:
            raise DamagedObjectError(shard.path, shard.keys[index], error.message) from error

    def _open(self, path: Path) -> BinaryIO:
        """An open file; the least recently used one is closed when there are many."""
        if path not in self._files:
            self._files[path] = path.open("rb")
        self._files.move_to_end(path)
        if len(self._files) > MAX_OPEN_FILES:
            self._files.popitem(last=False)[1].close()
        return self._files[path]


def shard_paths(paths: Path | str | Sequence[Path | str]) -> list[Path]:
    """Shard files, sorted, from files, folders, and patterns such as data/train-*.tar.

    Raises:
        InputError: there are none.
    """
    given = [paths] if isinstance(paths, Path | str) else list(paths)
    found: list[Path] = []
    for path in map(Path, given):
        if path.is_dir():
            found += path.glob("*.tar")
        elif any(letter in str(path) for letter in "*?[") and not path.exists():
            found += map(Path, glob(str(path)))
        else:
            found.append(path)
    if not found:
        raise InputError(
            f"no shards were found in {', '.join(map(str, given)) or 'nothing'}.",
            "Pass .tar files, or a folder that contains some; make them with: render-dataset",
        )
    return sorted(found, key=lambda path: (path.name, str(path)))
