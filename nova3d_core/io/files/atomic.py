"""Writing to a temporary name, then renaming: a file or folder appears whole or not at all.

There is no moment without the old or the new output, also if the process is killed:

* A file, and a folder that is new, appear by one rename. Without `overwrite` it fails if somebody
  else made the name meanwhile, so of two processes one wins.
* A folder that is replaced is swapped with the new one in one step on Linux and macOS. Where the
  system or the drive cannot (Windows, some network drives), it is moved aside first; a process
  killed right then leaves neither, and the next one that writes there brings the old one back.
* Files that belong together (`atomic_files`) appear in order. A process killed between two of them
  leaves some; the next one that writes there brings back what was before.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ...errors import InputError, Nova3DError
from . import renames
from .ownership import (
    reject_foreign_content,
    reject_foreign_file,
    reject_input_path,
    write_manifest,
)
from .staging import MAX_NAME, Entry, Staging, remove_leftovers, roll_back, staging

_DISK_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_PERMISSION_ERRNOS = {errno.EACCES, errno.EPERM, errno.EROFS}
_DEFAULT_MAX_NAME_BYTES, _DEFAULT_MAX_PATH_BYTES = 255, 4096
"""Limits of names and paths where the system does not tell its own."""
_RESERVED_BYTES = 64
"""Left for what is written below a folder."""


class OutputExistsError(InputError):
    """Something has the name of an output and may not be replaced."""


@contextmanager
def atomic_file(path: Path | str, overwrite: bool = False) -> Iterator[Path]:
    """Gives a path to write to; on success it becomes `path`, otherwise it is removed.

    Args:
        path: where the file shall appear; missing folders are made, and removed again on failure.
            A link is followed: what it points at is written.
        overwrite: replace a file that is there already, whoever wrote it.

    Raises:
        ExistsError: the file exists, from the beginning or since.
        InputError: the place cannot be written, or the disk is full.
    """
    path = Path(path)
    with translate_os_errors(path):
        check_usable_path(path)
        target = path.resolve()
        with atomic_files(target.parent, (target.name,), overwrite, shown=path) as (part,):
            yield part


@contextmanager
def atomic_files(
    folder: Path, names: Sequence[str], overwrite: bool = False, shown: Path | None = None
) -> Iterator[tuple[Path, ...]]:
    """Gives a path to write to for each name; on success all of them appear, otherwise none.

    Args:
        folder: where the files shall appear, links resolved.
        names: of the files; they appear in this order.
        overwrite: replace files that are there already, whoever wrote them.
        shown: names the output in errors; the last file if not given.

    Raises:
        InputError: a file exists, or the place cannot be written, or the disk is full.
    """
    shown = shown or folder / names[-1]
    with translate_os_errors(shown):
        for name in names:
            each = shown if len(names) == 1 else folder / name
            check_usable_path(each)
            if each.is_dir():
                raise InputError(f"{each} is a folder.", "Name a file.")
            reject_existing(each, overwrite)
            reject_symlink(folder / name)
        with _parents_of(folder / names[-1]), staging(folder) as stage:
            entries = [stage.entry(folder / name) for name in names]
            yield tuple(entry.part for entry in entries)
            _publish_files(stage, entries, overwrite)


@contextmanager
def atomic_folder(
    path: Path | str, overwrite: bool = False, replaces: Collection[str] = ()
) -> Iterator[Path]:
    """Gives an empty folder to fill; on success it becomes `path`, otherwise it is removed.

    With `overwrite`, an earlier folder of that name is replaced as a whole, but only if an earlier
    run wrote all that it holds: its manifest, which this writes, says so.

    Args:
        path: where the folder shall appear; missing parents are made, and removed again on
            failure. A link is followed: what it points at is replaced.
        overwrite: replace a folder that is there already.
        replaces: the files and folders that a folder of this kind holds; one of another kind is
            not replaced.

    Raises:
        InputError: the folder exists, or holds something else, or the place cannot be written, or
            the disk is full.
    """
    path = Path(path)
    with translate_os_errors(path):
        check_can_write_folder(path, overwrite, replaces)
        target = path.resolve()
        with _parents_of(target), staging(target.parent) as stage:
            entry = stage.entry(target)
            entry.part.mkdir()
            yield entry.part
            write_manifest(entry.part)
            check_can_write_folder(
                path, overwrite, replaces
            )  # somebody may have put something there since
            _publish_folder(stage, entry, overwrite)


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


def _publish_files(stage: Staging, entries: Sequence[Entry], overwrite: bool) -> None:
    """Renames the parts to their targets, in order; if that fails, all is as it was."""
    if len(entries) == 1:
        _publish_file(entries[0], overwrite)
        return
    journal = stage.write_journal(entries)
    try:
        for entry in entries:
            if overwrite and entry.target.exists():
                _back_up(entry)
        for entry in entries:
            _publish_file(entry, overwrite)
    except BaseException:
        roll_back(stage.folder, journal)
        raise


def _publish_file(entry: Entry, overwrite: bool) -> None:
    if overwrite:
        os.replace(entry.part, entry.target)
    else:
        renames.move_file(entry.part, entry.target)


def _back_up(entry: Entry) -> None:
    """Keeps what is about to be replaced under a second name, without moving it."""
    try:
        os.link(entry.target, entry.backup, follow_symlinks=False)
    except (OSError, NotImplementedError):
        shutil.copy2(entry.target, entry.backup, follow_symlinks=False)


def _publish_folder(stage: Staging, entry: Entry, overwrite: bool) -> None:
    """Renames the part to the target; what was there is removed once the new one stands."""
    try:
        renames.move_folder(entry.part, entry.target)
        return
    except FileExistsError:
        if not overwrite:
            raise
    if renames.exchange(entry.part, entry.target):
        return  # the part is the old one now, and goes with the staging
    journal = stage.write_journal([entry])
    try:
        os.rename(entry.target, entry.backup)
        os.rename(entry.part, entry.target)
    except BaseException:  # Ctrl-C between the two renames must not lose the earlier folder
        roll_back(stage.folder, journal)
        raise


def reject_existing(path: Path, overwrite: bool) -> None:
    """Raises InputError if something is there and may not be replaced."""
    if path.exists() and not overwrite and not (path.is_dir() and not any(path.iterdir())):
        raise _exists_error(path)


def reject_symlink(path: Path) -> None:
    """Raises InputError if a path is a link: what it leads to is not to be guessed."""
    if path.is_symlink():
        raise InputError(f"{path} is a link.", "Choose another name, or remove the link.")


def check_can_write_file(path: Path, overwrite: bool, inputs: Collection[Path | None] = ()) -> None:
    """Raises InputError unless a command may write this file; asked before long work.

    Args:
        path: the file.
        overwrite: whether a file of an earlier run may be replaced.
        inputs: what the command reads, which is never replaced.
    """
    with translate_os_errors(path):
        check_usable_path(path)
        remove_leftovers(path.resolve().parent)
        if path.is_dir():
            raise InputError(f"{path} is a folder.", "Name a file.")
        reject_existing(path, overwrite)
        reject_input_path(path, inputs)
        reject_foreign_file(path.resolve())
        check_parent_writable(path)


def check_can_write_folder(
    path: Path,
    overwrite: bool,
    replaces: Collection[str] = (),
    inputs: Collection[Path | None] = (),
) -> None:
    """Raises InputError unless `atomic_folder` may make the folder; asked before long work.

    Args:
        path: the folder.
        overwrite: whether a folder of an earlier run may be replaced.
        replaces: the files and folders that a folder of this kind holds.
        inputs: what the command reads, which is never replaced.
    """
    with translate_os_errors(path):
        check_usable_path(path, inner=_RESERVED_BYTES)
        remove_leftovers(path.resolve().parent)
        if path.is_file():
            raise InputError(f"{path} is a file.", "Name a folder.")
        reject_existing(path, overwrite)
        reject_input_path(path, inputs)
        if path.is_dir():
            reject_foreign_content(path, replaces)
        check_parent_writable(path)


def check_usable_path(path: Path, inner: int = 0) -> None:
    """Raises InputError if a path, or a temporary name next to it, is too long for its drive.

    Args:
        path: a file or folder that may be missing, with its parents.
        inner: bytes of the longest path below it.
    """
    if "\0" in str(path):
        raise InputError(f"{str(path)!r} is no path: it holds a NUL character.", "Name another.")
    existing = Path(path)
    try:
        absolute = Path(os.path.abspath(path))
        existing = next(each for each in (*absolute.parents,) if _path_exists(each))
        resolved = absolute.resolve()
    except (OSError, RuntimeError, StopIteration) as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            raise _too_long_error(path) from error
        reason = getattr(error, "strerror", None) or "its links lead in a circle"
        raise InputError(
            f"{path} could not be written: {reason}.", "Name another place."
        ) from error
    names, paths = (
        _path_limit(existing, "PC_NAME_MAX", _DEFAULT_MAX_NAME_BYTES),
        _path_limit(existing, "PC_PATH_MAX", _DEFAULT_MAX_PATH_BYTES),
    )
    longest = max(len(os.fsencode(name)) for name in resolved.parts)
    beside = len(os.fsencode(resolved.parent)) + 1 + MAX_NAME
    if longest > names or max(len(os.fsencode(resolved)), beside) + inner >= paths:
        raise _too_long_error(path)


def _path_exists(path: Path) -> bool:
    """Whether a path exists; False too if it is too long to be asked for."""
    try:
        return path.exists()
    except OSError:
        return False


def _path_limit(folder: Path, name: str, otherwise: int) -> int:
    """One of the system's limits for what lies in a folder, in bytes."""
    try:
        found = os.pathconf(folder, name)
    except (AttributeError, OSError, ValueError):
        return otherwise
    return found if found > 0 else otherwise


def _too_long_error(path: Path) -> InputError:
    shown = str(path)
    shown = shown if len(shown) <= 120 else f"{shown[:60]}...{shown[-50:]}"
    return InputError(f"{shown} could not be written: the name is too long.", "Name a shorter one.")


def _exists_error(path: Path) -> OutputExistsError:
    return OutputExistsError(f"{path} already exists.", "Choose another name, or pass --overwrite.")


def check_parent_writable(path: Path) -> None:
    """Raises InputError if the place of a file or folder may not be written, before long work."""
    parent = next((folder for folder in path.resolve().parents if folder.exists()), None)
    if parent is None:
        raise InputError(f"{path} could not be written: its drive does not exist.")
    if not parent.is_dir():
        raise InputError(f"{path} could not be written: {parent} is a file.", "Name another place.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise _permission_error(path)


def _permission_error(path: Path) -> InputError:
    return InputError(
        f"{path} could not be written: permission denied.",
        "Choose a folder that you may write to.",
    )


@contextmanager
def translate_os_errors(path: Path) -> Iterator[None]:
    """Turns the system's write errors into one clear line that names the file."""
    try:
        yield
    except Nova3DError:
        raise
    except OSError as error:
        if isinstance(error, FileExistsError) and os.path.lexists(path):
            raise _exists_error(path) from error
        if error.errno in _DISK_FULL_ERRNOS:
            raise InputError(
                f"{path} could not be written: no space left for it.",
                "Free some disk space or write elsewhere; nothing half-written was left.",
            ) from error
        if error.errno == errno.ENAMETOOLONG:
            raise _too_long_error(path) from error
        if error.errno in _PERMISSION_ERRNOS:
            raise _permission_error(path) from error
        raise InputError(f"{path} could not be written: {error.strerror or error}.") from error
