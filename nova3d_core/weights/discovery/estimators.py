"""Folders of normal estimators, in the diffusers layout."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...errors import InputError
from ...io.files.json_text import parse_json
from .locate import default_folders

NORMALCRAFTER = "normalcrafter"
"""Part of the names of NormalCrafter's folders, and of the class in its unet/config.json: its
weights do not differ from SVD's."""
MARIGOLD_CLASS = "MarigoldNormalsPipeline"
"""Pipeline class in Marigold's model_index.json."""
DOWNLOADS = {
    "marigold": "prs-eth/marigold-normals-v1-1",
    "normalcrafter": "Yanrui95/NormalCrafter",
}
"""Repositories on the model hub."""
MAX_DEPTH = 2
"""Levels of subfolders that are searched."""
_MAX_INDEX_BYTES = 1 << 20


def is_normalcrafter(path: Path) -> bool:
    """Whether a UNet's file lies in a folder that is named NormalCrafter, or is named so."""
    return any(NORMALCRAFTER in part.lower() for part in path.absolute().parts[-3:])


def find_estimator_folder(estimator: str, folders: Sequence[Path | str] = ()) -> Path:
    """The first folder of an estimator below the model folders.

    Args:
        estimator: marigold or normalcrafter.
        folders: to search, or the estimator's own; `locate.default_folders()` if empty.

    Raises:
        InputError: there is none; says what to download.
    """
    searched = default_folders(folders)
    for folder in searched:
        for candidate in _subfolders(folder, MAX_DEPTH):
            if is_estimator_folder(candidate, estimator):
                return candidate
    below = ", ".join(str(folder) for folder in searched) or "any model folder"
    raise InputError(
        f"there is no folder of the normal estimator {estimator} in {below}.",
        f"Download the whole repository {DOWNLOADS[estimator]} of the model hub into "
        f"models/diffusers/{DOWNLOADS[estimator].rpartition('/')[2]}, or name its folder.",
    )


def is_estimator_folder(folder: Path, estimator: str) -> bool:
    """Whether a folder holds the estimator."""
    if estimator == "normalcrafter":
        if not (folder / "unet").is_dir():
            return False
        names = folder.name, _class_name(folder / "unet" / "config.json")
        return any(NORMALCRAFTER in name.lower() for name in names)
    return _class_name(folder / "model_index.json") == MARIGOLD_CLASS


def _class_name(path: Path) -> str:
    """The class that a JSON file of diffusers names; empty if there is none."""
    try:
        if path.stat().st_size > _MAX_INDEX_BYTES:
            return ""
        content = parse_json(path.read_text(encoding="utf-8"), str(path))
    except (OSError, ValueError, InputError):
        return ""
    return str(content.get("_class_name", "")) if isinstance(content, dict) else ""


def _subfolders(folder: Path, depth: int) -> Iterator[Path]:
    """The folder and its subfolders, sorted by name, outer ones first."""
    level = [folder]
    for _ in range(depth + 1):
        yield from level
        level = [child for each in level for child in _children(each)]


def _children(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(folder / entry.name for entry in entries if entry.is_dir())
    except OSError:
        return []
