"""Reading shards of training objects: shuffled, shared out, resumed at the exact place."""

from __future__ import annotations

import logging
import os
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
from .stream import ObjectStream, ProceduralDataset

__all__ = ["ABOUT", "ProceduralDataset", "Shard", "ShardDataset", "read_shard"]

logger = logging.getLogger(__name__)

ABOUT = "__shard__/about.json"
"""The first member of a shard; the webdataset package passes over such names."""
OPEN_FILES = 32
MAX_ABOUT_BYTES = 1_000_000
NAMED_OBJECTS = 100
"""Objects that are named in warnings when they cannot be read; further ones are only counted."""


@dataclass(frozen=True)
class Shard:
    """Where the objects of one tar file lie."""

    path: Path
    about: dict[str, Any]
    """What the writer says: format, count of objects, settings."""
    objects: tuple[dict[str, tuple[int, int]], ...]
    """For each whole object: offset and size of its members by name (`colour.png`)."""
    keys: tuple[str, ...]
    """The objects' names."""
    lost: int = 0
    """Objects that were cut off."""


def read_shard(path: Path | str, strict: bool = False) -> Shard:
    """Looks up the objects of a shard; their images are not read.

    Args:
        path: a tar file as `render-dataset` writes it.
        strict: refuse a file that was cut off; otherwise its whole objects are used, and the log
            says how many were lost.

    Raises:
        InputError: missing, empty, no such shard, cut off before its first object, or `strict`.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"shard {path} does not exist.")
    size = path.stat().st_size
    members, reason = _members(path, size)
    about = _about(path, members)
    objects: OrderedDict[str, dict[str, tuple[int, int]]] = OrderedDict()
    for member in members:
        key, _, name = member.name.partition(".")
        if member.name != ABOUT and member.isfile():
            objects.setdefault(key, {})[name] = (member.offset_data, member.size)
    wanted = set(about["members"])
    whole = {key: held for key, held in objects.items() if wanted <= set(held)}
    lost = max(about["count"] - len(whole), 0)
    if lost:
        reason = reason or "objects are missing"
        line = f"shard {path} is not whole ({reason}): {lost} of {about['count']} objects are lost"
        if strict or not whole:
            raise InputError(f"{line}.", "Copy it again, or delete it and render it anew.")
        logger.warning("%s; the other %d are used.", line, len(whole))
    return Shard(path, about, tuple(whole.values()), tuple(whole), lost)


def _members(path: Path, size: int) -> tuple[list[tarfile.TarInfo], str]:
    """The members that lie in the file as a whole, and what ended the list too early."""
    members: list[tarfile.TarInfo] = []
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            place = -1
            while (member := tar.next()) is not None:
                if member.size < 0 or member.offset <= place:  # such a list may have no end
                    return members, "it is damaged"
                if member.offset_data + member.size > size:
                    return members, "it was cut off"
                place = member.offset
                members.append(member)
    except Exception as error:  # tarfile raises whatever comes up on damaged bytes
        if not members:
            raise InputError(
                f"{path} is not a readable shard: {str(error)[:200]}.",
                "Shards are plain tar files.",
            ) from error
        return members, "it was cut off or is damaged"
    return members, ""


def _about(path: Path, members: list[tarfile.TarInfo]) -> dict[str, Any]:
    """The shard's own description."""
    if not members or members[0].name != ABOUT:
        raise InputError(
            f"{path} is a tar file, but no shard of training objects.",
            "Make shards with: render-dataset",
        )
    with path.open("rb") as file:
        file.seek(members[0].offset_data)
        text = file.read(min(members[0].size, MAX_ABOUT_BYTES))
    about = parse_json(text, f"the description in shard {path}")
    if not isinstance(about, dict) or not {"count", "members", "format"} <= set(about):
        raise InputError(f"the description in shard {path} lacks its count or members.")
    names, numbers = about["members"], [about["count"]]
    numbers += [about[name] for name in ("views", "size_px") if about.get(name) is not None]
    if not (
        isinstance(names, list)
        and all(isinstance(name, str) for name in names)
        and all(type(number) is int and number >= 0 for number in numbers)
    ):
        raise InputError(f"the description in shard {path} has values of wrong types.")
    return {name: value for name, value in about.items() if value is not None}


class ShardDataset(ObjectStream):
    """Objects of shards, in an order that a seed shuffles anew in each epoch.

    Shards are shuffled and taken a few at a time (`window`), whose objects are shuffled together:
    that keeps reads in few files, and needs no buffer of images.

    Args:
        paths: shard files, folders that hold `*.tar`, or patterns.
        seed: of the shuffling.
        epochs: how often all objects come; endless if None.
        shuffle: False gives the order of the files.
        window: shards that are mixed.
        strict: refuse a damaged shard, see `read_shard`.
        rank, world, block: see `ObjectStream`.

    Yields:
        Dicts of tensors: colour, normal (V, H, W, 3) uint8; mask (V, H, W) uint8; elevation_deg,
        azimuth_deg (V,) float32; key str. Precomputed shards: see `precompute`.

    Raises:
        InputError: no shards, or one that cannot be read; while reading: no object can be read.
    """

    def __init__(
        self,
        paths: Path | str | Sequence[Path | str],
        seed: int = 0,
        epochs: int | None = None,
        shuffle: bool = True,
        window: int = 8,
        strict: bool = False,
        rank: int | None = None,
        world: int | None = None,
        block: int = 1,
    ):
        super().__init__(rank, world, block)
        self.shards = [read_shard(path, strict) for path in shard_paths(paths)]
        self.seed, self.epochs, self.shuffle, self.window = seed, epochs, shuffle, window
        self._order: tuple[int, np.ndarray] = (-1, np.zeros((0, 2), np.int64))
        self._files: OrderedDict[Path, BinaryIO] = OrderedDict()
        self._owner = os.getpid()

    def __len__(self) -> int:
        """Objects of one epoch, over all ranks."""
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
            "window": self.window,
        }

    def fetch(self, number: int) -> dict[str, Any]:
        """One object of the row.

        In the place of one that cannot be read comes the next of its epoch that can be. So a place
        in the row means the same object in every run, whatever was read before.

        Raises:
            InputError: no object can be read, or a shard is gone.
        """
        epoch, position = divmod(number, self._count)
        if self._order[0] != epoch:
            self._order = (epoch, self.order(epoch))
        for step in range(self._count):
            shard, index = self._order[1][(position + step) % self._count]
            item = self._readable(self.shards[shard], int(index))
            if item is not None:
                return item
        first = next(iter(self.unreadable.items()))
        raise InputError(
            f"none of the {self._count} objects in {len(self.shards)} shards can be read, the "
            f"first: {first[0]}: {first[1]}",
            "Copy the shards again, or render them anew.",
        )

    def readable_objects(self) -> Iterator[dict[str, Any]]:
        """All objects once, in the order of the files, without those that cannot be read."""
        for shard in self.shards:
            for index in range(len(shard.objects)):
                item = self._readable(shard, index)
                if item is not None:
                    yield item

    def _readable(self, shard: Shard, index: int) -> dict[str, Any] | None:
        """An object, or None if it is damaged, which is said once."""
        name = f"object {shard.keys[index]} of shard {shard.path}"
        if name in self.unreadable:
            return None
        try:
            return self.object_of(shard, index)
        except DamagedObjectError as error:
            self.unreadable[name] = error.reason
            if len(self.unreadable) <= NAMED_OBJECTS:
                logger.warning(
                    "%s is skipped (%d so far): %s", name, len(self.unreadable), error.reason
                )
            return None

    def order(self, epoch: int) -> np.ndarray:
        """(objects, 2) shard and index of all objects of an epoch, in turn."""
        rng = np.random.default_rng((self.seed, epoch))
        turn = np.arange(len(self.shards))
        if self.shuffle:
            rng.shuffle(turn)
        windows = []
        for start in range(0, len(turn), self.window):
            mixed = np.concatenate(
                [
                    np.stack([np.full(count, shard), np.arange(count)], axis=1)
                    for shard in turn[start : start + self.window]
                    for count in [len(self.shards[shard].objects)]
                ]
            )
            if self.shuffle:
                rng.shuffle(mixed)
            windows.append(mixed)
        return np.concatenate(windows)

    def object_of(self, shard: Shard, index: int) -> dict[str, Any]:
        """One object of a shard, as tensors.

        Raises:
            DamagedObjectError: naming shard, object and member.
            InputError: the shard itself cannot be read any more.
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
            return {"key": shard.keys[index], **decode_object(members, shard.about)}
        except InputError as error:
            raise DamagedObjectError(shard.path, shard.keys[index], error.message) from error

    def _open(self, path: Path) -> BinaryIO:
        """An open file; the one that was used longest ago is closed when there are many."""
        if self._owner != os.getpid():  # a forked reader must not move its parent's place
            self._files, self._owner = OrderedDict(), os.getpid()
        if path not in self._files:
            self._files[path] = path.open("rb")
        self._files.move_to_end(path)
        if len(self._files) > OPEN_FILES:
            self._files.popitem(last=False)[1].close()
        return self._files[path]

    def __getstate__(self) -> dict[str, Any]:
        """A copy for another process opens files of its own."""
        return {**self.__dict__, "_files": OrderedDict()}


def shard_paths(paths: Path | str | Sequence[Path | str]) -> list[Path]:
    """The shard files, sorted, of files, folders, and patterns such as data/train-*.tar.

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
            "Name .tar files, or a folder that holds some; make them with: render-dataset",
        )
    return sorted(found, key=lambda path: (path.name, str(path)))
