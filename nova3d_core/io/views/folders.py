"""A folder of views as its program left it, as the frames that `read_views` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import InputError
from ..images.decode import shown
from .colmap import colmap_frames
from .layouts import TRANSFORMS, layout_of
from .transforms_fields import Frame, read_frames
from .wonder3d import wonder3d_frames

OTHER_PROGRAMS = {
    "polycam": ("Polycam", "polycam"),
    "record3d": ("Record3D", "record3d"),
}
"""Exports that nerfstudio converts: the program's name, and the command's."""
KNOWN_FOLDERS = (
    f"a {TRANSFORMS} (nerfstudio, instant-ngp), a COLMAP model (sparse/0 with images/), or "
    "Wonder3D's rgb_000_front.png and so on"
)


def frames_of_folder(given: Path) -> tuple[Path, dict[str, Any], list[Frame]]:
    """The frames of a folder of views, whichever program wrote it.

    Args:
        given: the folder, or a file in the format of a transforms.json.

    Returns:
        The file that errors name, the keys that all frames share, and the frames. Both have the
        keys of a transforms.json, whatever the folder's own format.

    Raises:
        InputError: the folder is missing, of no known kind, or broken; what to do is said.
    """
    try:
        return _frames_of(given)
    except OSError as error:  # a part of it may not be looked at
        raise InputError(
            f"folder {shown(given)} cannot be read: {error.strerror or 'reading failed'}."
        ) from error


def _frames_of(given: Path) -> tuple[Path, dict[str, Any], list[Frame]]:
    if given.suffix.lower() == ".r3d":
        raise _export_error(given, "record3d")
    if given.is_file():
        return given, *read_frames(given)
    if not given.is_dir():
        raise InputError(
            f"folder {shown(given)} does not exist.", f"Name a folder with {KNOWN_FOLDERS}."
        )
    entries = list(given.iterdir())
    files = [entry.name for entry in entries if entry.is_file()]
    layout = layout_of([entry.name for entry in entries if entry.is_dir()], files)
    if layout == "transforms":
        return given / TRANSFORMS, *read_frames(given / TRANSFORMS)
    if layout == "colmap":
        return colmap_frames(given)
    if layout == "wonder3d":
        return wonder3d_frames(given, files)
    if layout is not None:
        raise _export_error(given, layout)
    others = sorted(name for name in files if name.startswith("transforms") and ".json" in name)
    raise InputError(
        f"folder {shown(given)} has no {TRANSFORMS}.",
        f"It has {shown(', '.join(others))}: name that file."
        if others
        else f"A folder of views holds {KNOWN_FOLDERS}.",
    )


def _export_error(given: Path, layout: str) -> InputError:
    """The error of an export that nerfstudio can convert."""
    program, command = OTHER_PROGRAMS[layout]
    return InputError(
        f"{shown(given)} is an export of {program}, which has no {TRANSFORMS}.",
        f"nerfstudio makes one: ns-process-data {command} --data FOLDER --output-dir VIEWS "
        "(unpack a .zip or .r3d first).",
    )
