"""A folder of views as its program left it, as the frames that `read_views` reads."""

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
"""Exports that nerfstudio converts: the program's name, and the command's."""
SUPPORTED_FOLDERS = (
    f"a {TRANSFORMS} (nerfstudio, instant-ngp), a COLMAP model (sparse/0 with images/), or "
    "Wonder3D's rgb_000_front.png and so on"
)


def load_frames(given: Path) -> tuple[Path, dict[str, Any], list[ViewFrame]]:
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
        return _load_frames(given)
    except OSError as error:  # a part of it may not be looked at
        raise InputError(
            f"folder {printable_name(given)} cannot be read: {error.strerror or 'reading failed'}."
        ) from error


def _load_frames(given: Path) -> tuple[Path, dict[str, Any], list[ViewFrame]]:
    if given.suffix.lower() == ".r3d":
        raise _export_error(given, "record3d")
    if given.is_file():
        return given, *read_frames(given)
    if not given.is_dir():
        raise InputError(
            f"folder {printable_name(given)} does not exist.",
            f"Name a folder with {SUPPORTED_FOLDERS}.",
        )
    entries = list(given.iterdir())
    files = [entry.name for entry in entries if entry.is_file()]
    layout = detect_layout([entry.name for entry in entries if entry.is_dir()], files)
    if layout == "transforms":
        return given / TRANSFORMS, *read_frames(given / TRANSFORMS)
    if layout == "colmap":
        return read_colmap_frames(given)
    if layout == "wonder3d":
        return read_wonder3d_frames(given, files)
    if layout is not None:
        raise _export_error(given, layout)
    others = sorted(name for name in files if name.startswith("transforms") and ".json" in name)
    raise InputError(
        f"folder {printable_name(given)} has no {TRANSFORMS}.",
        f"It has {printable_name(', '.join(others))}: name that file."
        if others
        else f"A folder of views holds {SUPPORTED_FOLDERS}.",
    )


def _export_error(given: Path, layout: str) -> InputError:
    """The error of an export that nerfstudio can convert."""
    program, command = CONVERTIBLE_EXPORTS[layout]
    return InputError(
        f"{printable_name(given)} is an export of {program}, which has no {TRANSFORMS}.",
        f"nerfstudio makes one: ns-process-data {command} --data FOLDER --output-dir VIEWS "
        "(unpack a .zip or .r3d first).",
    )
