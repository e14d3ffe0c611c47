"""One rule for every path that a file names: it stays inside that file's own folder."""

from __future__ import annotations

import reprlib
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from ...errors import InputError

_MAX_QUOTE_CHARS = 160
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _MAX_QUOTE_CHARS


def quote_value(value: Any) -> str:
    """How errors quote something from a file: on one line, long values shortened."""
    return shorten(_REPR.repr(value))


def shorten(text: str) -> str:
    """A text without its middle, if it is long."""
    return (
        text if len(text) <= _MAX_QUOTE_CHARS else f"{text[: _MAX_QUOTE_CHARS - 33]}...{text[-30:]}"
    )


def path_inside(folder: Path, given: Any, label: str, endings: tuple[str, ...] = ("",)) -> Path:
    r"""The place below `folder` that a relative path from a file means; it need not exist.

    The path is judged in every system's notation, so that the same file is refused everywhere:
    absolute paths, drives (`C:`), network shares (`\\host`), `..`, and links that lead out. A
    backslash counts as a slash. URIs are to be decoded before.

    Args:
        folder: the folder of the file that names the path.
        given: what the file says.
        label: names the field in errors, for example "texture of toy.obj".
        endings: appended to the path in turn until a file is found.

    Returns:
        The first path that is a file, else the path with the first ending.

    Raises:
        InputError: the path is not text, is unusable, or leads out of the folder.
    """
    if not isinstance(given, str) or not given.strip():
        raise InputError(f"{label} is {quote_value(given)}, expected a path.")
    relative = PurePosixPath(given.replace("\\", "/"))
    leaves = relative.is_absolute() or PureWindowsPath(given).drive or ".." in relative.parts
    path = folder / relative
    try:
        if not leaves:
            paths = [folder / f"{relative}{ending}" for ending in endings]
            path = next((path for path in paths if path.is_file()), paths[0])
            leaves = not path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError) as error:  # too long, a zero byte, a loop of links
        raise InputError(f"{label} is not a usable path: {quote_value(given)}.") from error
    if leaves:
        raise InputError(
            f"{label} leads out of the folder: {quote_value(given)}.",
            "Put the file next to the one that names it, and name it relative to that.",
        )
    return path
