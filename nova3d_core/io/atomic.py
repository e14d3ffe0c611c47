"""Writing beside, then renaming: a file or folder appears whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import InputError, Nova3DError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def new_file(path: Path | str, overwrite: bool = False) -> Iterator[Path]:
    """Gives a path to write to; on success it becomes `path`, otherwise it is removed.

    Args:
        path: where the file shall appear; missing folders are made, and removed again on failure.
            A link is followed: what it points at is written.
        overwrite: replace a file that is there already.

    Raises:
        InputError: the file exists, or the place cannot be written, or the disk is full.
    """
    path = Path(path)
    with explained_write_errors(path):
        if path.is_dir():
            raise InputError(f"{path} is a folder.", "Name a file.")
        refuse_existing(path, overwrite)
        target = path.resolve()
        beside = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part{target.suffix}")
        with _parents_of(target):
            try:
                yield beside
                os.replace(beside, target)
            finally:
                beside.unlink(missing_ok=True)


@contextmanager
def new_folder(
    path: Path | str, overwrite: bool = False, replaces: Collection[str] = ()
) -> Iterator[Path]:
    """Gives an empty folder to fill; on success it becomes `path`, otherwise it is removed.

    With `overwrite`, an earlier folder of that name is replaced as a whole, but only if it holds
    nothing beside the names in `replaces`: no slip of the user's may delete something else.

    Args:
        path: where the folder shall appear; missing parents are made, and removed again on
            failure. A link is followed: what it points at is replaced.
        overwrite: replace a folder that is there already.
        replaces: the files and folders that an earlier folder of this kind holds.

    Raises:
        InputError: the folder exists, or holds something else, or the place cannot be written, or
            the disk is full.
    """
    path = Path(path)
    with explained_write_errors(path):
        refuse_folder(path, overwrite, replaces)
        target = path.resolve()
        token = secrets.token_hex(4)
        beside = target.with_name(f".{target.name}.{token}.part")
        with _parents_of(target):
            try:
                beside.mkdir()
                yield beside
                _put_in_place(beside, target, target.with_name(f".{target.name}.{token}.old"))
            finally:
                shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def _parents_of(path: Path) -> Iterator[None]:
    """Makes the missing parents of a path; if the body fails, they go again."""
    made = [parent for parent in path.parents if not parent.exists()]  # innermost first
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for parent in made:
            with suppress(OSError):
                parent.rmdir()
        raise


def _put_in_place(new: Path, path: Path, aside: Path) -> None:
    """Renames `new` to `path`; what was there is kept aside until the new one stands."""
    if not path.exists():
        os.replace(new, path)
        return
    try:
        os.replace(path, aside)
        os.replace(new, path)
    except BaseException:  # Ctrl-C between the two renames must not lose the earlier folder
        if aside.exists() and not path.exists():
            os.replace(aside, path)
        raise
    finally:
        if path.exists():
            shutil.rmtree(aside, ignore_errors=True)


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raises InputError if something is there and may not be replaced."""
    if path.exists() and not overwrite and not (path.is_dir() and not any(path.iterdir())):
        raise InputError(f"{path} already exists.", "Choose another name, or pass --overwrite.")


def refuse_unwritable(path: Path) -> None:
    """Raises InputError if the place of a file or folder may not be written, before long work."""
    parent = next((folder for folder in path.resolve().parents if folder.exists()), None)
    if parent is None:
        raise InputError(f"{path} could not be written: its drive does not exist.")
    if not parent.is_dir():
        raise InputError(f"{path} could not be written: {parent} is a file.", "Name another place.")
    if not os.access(parent, os.W_OK):
        raise _forbidden(path)


def _forbidden(path: Path) -> InputError:
    return InputError(
        f"{path} could not be written: permission denied.",
        "Choose a folder that you may write to.",
    )


def refuse_folder(path: Path, overwrite: bool, replaces: Collection[str]) -> None:
    """Raises InputError unless `new_folder` may make the folder; asked before long work."""
    if path.is_file():
        raise InputError(f"{path} is a file.", "Name a folder.")
    refuse_existing(path, overwrite)
    held = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    others = sorted(held - set(replaces))
    if others:
        raise InputError(
            f"{path} is not replaced: it also holds {others[0]}, which is not from here.",
            "Choose another name, or empty it yourself.",
        )
    refuse_unwritable(path)


@contextmanager
def explained_write_errors(path: Path) -> Iterator[None]:
    """Turns the system's write errors into one clear line that names the file."""
    try:
        yield
    except Nova3DError:
        raise
    except OSError as error:
        if error.errno in _FULL:
            raise InputError(
                f"{path} could not be written: no space left for it.",
                "Free some disk space or write elsewhere; nothing half-written was left.",
            ) from error
        if error.errno in _FORBIDDEN:
            raise _forbidden(path) from error
        raise InputError(f"{path} could not be written: {error.strerror or error}.") from error
