"""Loads the frames of a folder of views, in the layout of any supported program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import InputError
from ..images.decode import printable_name
from .colmap import read_colmap_frames
from .layouts import TRANSFORMS, detect_layout
from .transforms_fields import ViewFrame, read_frames
from .wonder3d import read_wonder3d_frames

CONVERTIBLE_EXPORTS = {
    "polycam": ("Polycam", "polycam"),
    "record3d": ("Record3D", "record3d"),
}
"""Exports that nerfstudio can convert: name of the program and of the command."""
SUPPORTED_FOLDERS = (
    f"a {TRANSFORMS} (nerfstudio, instant-ngp), a COLMAP model (sparse/0 with images/), or "
    "Wonder3D's images (rgb_000_front.png and others)"
)


def load_frames(path: Path) -> tuple[Path, dict[str, Any], list[ViewFrame]]:
    """Loads the frames of a folder of views.

    Args:
        path: the folder, or a file in the format of a transforms.json.

    Returns:
        The file to name in errors, the top-level keys, and the frames; both with the keys of a
        transforms.json, whatever the layout.

    Raises:
        InputError: the folder is missing, of an unknown layout, or invalid.
    """
    try:
        return _load_frames(path)
    except OSError as error:  # no read permission somewhere below
        raise InputError(
            f"folder {printable_name(path)} cannot be read: {error.strerror or 'reading failed'}."
        ) from error


def _load_frames(path: Path) -> tuple[Path, dict[str, Any], list[ViewFrame]]:
    if path.suffix.lower() == ".r3d":
        raise _export_error(path, "record3d")
    if path.is_file():
        if ".json" not in path.name.lower():
            raise InputError(
                f"{printable_name(path)} is a file, expected a folder of views.",
                f"Choose a folder with {SUPPORTED_FOLDERS}.",
            )
        return path, *read_frames(path)
    if not path.is_dir():
        raise InputError(
            f"folder {printable_name(path)} does not exist.",
            f"Choose a folder with {SUPPORTED_FOLDERS}.",
        )
    entries = list(path.iterdir())
    files = [entry.name for entry in entries if entry.is_file()]
    layout = detect_layout([entry.name for entry in entries if entry.is_dir()], files)
    if layout == "transforms":
        return path / TRANSFORMS, *read_frames(path / TRANSFORMS)
    if layout == "colmap":
        return read_colmap_frames(path)
    if layout == "wonder3d":
        return read_wonder3d_frames(path, files)
    if layout is not None:
        raise _export_error(path, layout)
    others = sorted(name for name in files if name.startswith("transforms") and ".json" in name)
    raise InputError(
        f"folder {printable_name(path)} has no {TRANSFORMS}.",
        f"It has {printable_name(', '.join(others))}: pass the path of that file."
        if others
        else f"A folder of views contains {SUPPORTED_FOLDERS}.",
    )


def _export_error(path: Path, layout: str) -> InputError:
    """The error for an export that nerfstudio can convert."""
    program, command = CONVERTIBLE_EXPORTS[layout]
    return InputError(
        f"{printable_name(path)} is an export of {program}, which has no {TRANSFORMS}.",
        f"Convert it with nerfstudio: ns-process-data {command} --data FOLDER --output-dir VIEWS "
        "(unpack a .zip or .r3d first).",
    )
