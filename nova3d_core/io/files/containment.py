"""Path containment: paths in a file may not leave the folder of that file."""

from __future__ import annotations

import reprlib
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from ...errors import InputError

_MAX_QUOTE_CHARS = 160
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _MAX_QUOTE_CHARS


def quote_value(value: Any) -> str:
    """A value from a file for error messages: quoted, on one line, shortened if long."""
    return shorten(_REPR.repr(value))


def shorten(text: str) -> str:
    """Removes the middle of a long text."""
    return (
        text if len(text) <= _MAX_QUOTE_CHARS else f"{text[: _MAX_QUOTE_CHARS - 33]}...{text[-30:]}"
    )


def path_inside(
    folder: Path, relative_path: Any, label: str, suffixes: tuple[str, ...] = ("",)
) -> Path:
    r"""Resolves a relative path found in a file, which must stay below `folder`; it need not exist.

    Rejects the notations of all systems, so that a file is rejected everywhere or nowhere: absolute
    paths, drives (`C:`), network shares (`\\host`), `..`, and links that lead out. A backslash
    counts as a slash. URIs must be decoded before.

    Args:
        folder: the folder of the file that contains the path.
        relative_path: the value in the file.
        label: names the field in errors, for example "texture of toy.obj".
        suffixes: appended to the path in turn until a file is found.

    Returns:
        The first path that is a file, else the path with the first suffix.

    Raises:
        InputError: the path is not a string, is invalid, or points outside the folder.
    """
    if not isinstance(relative_path, str) or not relative_path.strip():
        raise InputError(f"{label} is {quote_value(relative_path)}, expected a path.")
    relative = PurePosixPath(relative_path.replace("\\", "/"))
    leaves = (
        relative.is_absolute() or PureWindowsPath(relative_path).drive or ".." in relative.parts
    )
    path = folder / relative
    try:
        if not leaves:
            paths = [folder / f"{relative}{suffix}" for suffix in suffixes]
            path = next((path for path in paths if path.is_file()), paths[0])
            leaves = not path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError) as error:  # too long, NUL, a loop of links
        raise InputError(f"{label} is not a usable path: {quote_value(relative_path)}.") from error
    if leaves:
        raise InputError(
            f"{label} points outside the folder: {quote_value(relative_path)}.",
            "Put the file next to the one that refers to it and use a relative path.",
        )
    return path
