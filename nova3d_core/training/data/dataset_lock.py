"""Whose folder it is: a set of shards with its settings, which the same command goes on with."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...io.files.atomic import atomic_file, check_usable_path, check_parent_writable
from ...io.files.json_text import read_json
from ...io.files.ownership import GENERATOR
from ...io.files.staging import remove_leftovers
from ..config import flatten_settings

SETTINGS = "dataset.json"
_SHARD = re.compile(r"shard-\d{6,}\.tar")


def open_dataset_dir(folder: Path, identity: dict[str, Any], overwrite: bool) -> None:
    """Makes the folder this set's own.

    Args:
        folder: made if it is missing.
        identity: all that decides what the set holds.
        overwrite: delete the shards of a set with other settings.

    Raises:
        InputError: it is another set's, or holds something else, or cannot be written.
    """
    settings, identity = folder / SETTINGS, json_roundtrip({"generator": GENERATOR, **identity})
    earlier = existing_settings(folder)
    if earlier == identity:
        return
    if earlier is not None and not overwrite:
        raise InputError(
            f"{folder} holds a set with other settings: {_differences(earlier, identity)}.",
            "Choose another folder, or pass --overwrite to make it anew.",
        )
    for old in shards_in(folder) if earlier is not None else ():
        old.unlink()
    write_json(settings, identity)


def existing_settings(folder: Path) -> dict[str, Any] | None:
    """The settings of the set in a folder, None if there is nothing; asked before long work.

    Raises:
        InputError: the folder holds something else, or a set cannot be written there.
    """
    settings = folder / SETTINGS
    check_usable_path(settings)
    remove_leftovers(folder)
    if folder.is_file():
        raise InputError(f"{folder} is a file.", "Name a folder.")
    held = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    earlier = _settings_of(settings) if SETTINGS in held else None
    if earlier is not None and earlier.get("generator") != GENERATOR:
        earlier = None  # damaged, or another program's
    if earlier is None and any(not name.startswith(".") for name in held):
        raise InputError(
            f"{folder} is not empty and holds no set of training objects.", "Choose another folder."
        )
    for path in (settings, *shards_in(folder)):
        if path.is_dir():
            raise InputError(f"{path} is a folder.", "Move it away, or choose another folder.")
    check_parent_writable(settings)
    return earlier


def shards_in(folder: Path) -> list[Path]:
    """The files and folders that have the name of a shard of a set."""
    return sorted(path for path in folder.glob("shard-*.tar") if _SHARD.fullmatch(path.name))


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings of the set in a folder; empty if there is none, or its file is damaged."""
    return _settings_of(folder / SETTINGS)


def json_roundtrip(value: Any) -> Any:
    """The value as it comes back from a JSON file."""
    return json.loads(json.dumps(value))


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file, whole or not at all."""
    with atomic_file(path, overwrite=True) as beside:
        beside.write_text(json.dumps(value, indent=1), encoding="utf-8")


def _settings_of(path: Path) -> dict[str, Any]:
    """An earlier run's settings; damaged ones are unlike any."""
    try:
        document = read_json(path)
    except InputError:
        return {}
    return document if isinstance(document, dict) else {}


def _differences(earlier: dict[str, Any], now: dict[str, Any]) -> str:
    """What changed, in words."""
    flat = [flatten_settings(each) for each in (earlier, now)]
    names = [name for name in {**flat[0], **flat[1]} if flat[0].get(name) != flat[1].get(name)]
    return ", ".join(f"{n} was {flat[0].get(n)}, now {flat[1].get(n)}" for n in names)
