"""Ownership of a dataset folder: its settings, with which the same command resumes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...io.files.atomic import atomic_file, check_parent_writable, check_usable_path
from ...io.files.json_text import read_json
from ...io.files.ownership import GENERATOR
from ...io.files.staging import remove_leftovers
from ..config import flatten_settings

SETTINGS = "dataset.json"
_SHARD = re.compile(r"shard-\d{6,}\.tar")


def open_dataset_dir(folder: Path, identity: dict[str, Any], overwrite: bool) -> None:
    """Creates a dataset folder, or reopens one with the same identity.

    Args:
        folder: created if it is missing.
        identity: everything that determines the dataset's content.
        overwrite: delete the shards of a dataset with other settings.

    Raises:
        InputError: it holds another dataset or other files, or cannot be written.
    """
    settings, identity = folder / SETTINGS, json_roundtrip({"generator": GENERATOR, **identity})
    earlier = existing_settings(folder)
    if earlier == identity:
        return
    if earlier is not None and not overwrite:
        raise InputError(
            f"{folder} holds a dataset with other settings: {_differences(earlier, identity)}.",
            "Choose another folder, or pass --overwrite to replace it.",
        )
    for old in shards_in(folder) if earlier is not None else ():
        old.unlink()
    write_json(settings, identity)


def existing_settings(folder: Path) -> dict[str, Any] | None:
    """Settings of the dataset in a folder, None if it is empty; a check before long work.

    Raises:
        InputError: the folder holds other files, or a dataset cannot be written there.
    """
    settings = folder / SETTINGS
    check_usable_path(settings)
    remove_leftovers(folder)
    if folder.is_file():
        raise InputError(f"{folder} is a file.", "Choose a folder.")
    names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    earlier = _read_settings(settings) if SETTINGS in names else None
    if earlier is not None and earlier.get("generator") != GENERATOR:
        earlier = None  # damaged, or of another program
    if earlier is None and any(not name.startswith(".") for name in names):
        raise InputError(
            f"{folder} is not empty and holds no training dataset.", "Choose another folder."
        )
    for path in (settings, *shards_in(folder)):
        if path.is_dir():
            raise InputError(f"{path} is a folder.", "Move it away, or choose another folder.")
    check_parent_writable(settings)
    return earlier


def shards_in(folder: Path) -> list[Path]:
    """Files and folders named like shards."""
    return sorted(path for path in folder.glob("shard-*.tar") if _SHARD.fullmatch(path.name))


def read_settings(folder: Path) -> dict[str, Any]:
    """Settings of the dataset in a folder; empty if there are none, or the file is damaged."""
    return _read_settings(folder / SETTINGS)


def json_roundtrip(value: Any) -> Any:
    """The value as read back from a JSON file."""
    return json.loads(json.dumps(value))


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file atomically."""
    with atomic_file(path, overwrite=True) as temporary:
        temporary.write_text(json.dumps(value, indent=1), encoding="utf-8")


def _read_settings(path: Path) -> dict[str, Any]:
    """Settings of an earlier run; empty if damaged."""
    try:
        document = read_json(path)
    except InputError:
        return {}
    return document if isinstance(document, dict) else {}


def _differences(earlier: dict[str, Any], now: dict[str, Any]) -> str:
    """The changed settings, for messages."""
    flat = [flatten_settings(each) for each in (earlier, now)]
    names = [name for name in {**flat[0], **flat[1]} if flat[0].get(name) != flat[1].get(name)]
    return ", ".join(f"{n} was {flat[0].get(n)}, now {flat[1].get(n)}" for n in names)
