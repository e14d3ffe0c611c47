"""Atomic writes: output goes to a temporary name and is renamed, so that it is complete or absent.

Either the old or the new output exists at any time, even if the process is killed:

* A file or a new folder appears by one rename. Without `overwrite` the rename fails if the name
  has been taken meanwhile, so that one of two processes wins.
* A replaced folder is exchanged with the new one in a single step on Linux and macOS. Where that is
  unsupported (Windows, some network drives), the old folder is moved away first; if the process is
  killed at that moment, the next write to this location restores the old folder.
* Files of one output (`atomic_files`) appear in order. If the process is killed in between, the
  next write to this location restores the earlier files.
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
"""Limits of names and paths if the system does not report them."""
_RESERVED_BYTES = 64
"""Path bytes reserved for files inside an output folder."""


class OutputExistsError(InputError):
    """An output exists already and may not be replaced."""


@contextmanager
def atomic_file(path: Path | str, overwrite: bool = False) -> Iterator[Path]:
    """Yields a temporary path, which becomes `path` on success and is removed on failure.

    Args:
        path: the file; missing parent folders are created, and removed again on failure. Symbolic
            links are followed.
        overwrite: replace an existing file, whoever wrote it.

    Raises:
        OutputExistsError: the file exists, or was created meanwhile.
        InputError: the path is not writable, or the disk is full.
    """
    path = Path(path)
    with translate_os_errors(path):
        check_usable_path(path)
        target = path.resolve()
        with atomic_files(target.parent, (target.name,), overwrite, label=path) as (part,):
            yield part


@contextmanager
def atomic_files(
    folder: Path, names: Sequence[str], overwrite: bool = False, label: Path | None = None
) -> Iterator[tuple[Path, ...]]:
    """Yields a temporary path for each name; on success all files appear, otherwise none.

    Args:
        folder: the folder of the files, with links resolved.
        names: the file names, in the order of appearance.
        overwrite: replace existing files, whoever wrote them.
        label: names the output in errors; by default the last file.

    Raises:
        InputError: a file exists, the folder is not writable, or the disk is full.
    """
    label = label or folder / names[-1]
    with translate_os_errors(label):
        for name in names:
            each = label if len(names) == 1 else folder / name
            check_usable_path(each)
            if each.is_dir():
                raise InputError(f"{each} is a folder.", "Choose a file name.")
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
    """Yields an empty temporary folder, which becomes `path` on success and is removed on failure.

    With `overwrite`, an existing folder is replaced as a whole, but only if all its content was
    written by an earlier run, according to the manifest that this function writes.

    Args:
        path: the folder; missing parents are created, and removed again on failure. Symbolic links
            are followed.
        overwrite: replace an existing folder.
        replaces: names of the entries of such a folder; folders with other entries are not
            replaced.

    Raises:
        InputError: the folder exists or has other content, the path is not writable, or the disk
            is full.
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
            check_can_write_folder(path, overwrite, replaces)  # it may have changed meanwhile
            _publish_folder(stage, entry, overwrite)


@contextmanager
def _parents_of(path: Path) -> Iterator[None]:
    """Creates the missing parents of a path; removes them if the body fails."""
    created = [parent for parent in path.parents if not parent.exists()]  # innermost first
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for parent in created:
            with suppress(OSError):
                parent.rmdir()
        raise


def _publish_files(stage: Staging, entries: Sequence[Entry], overwrite: bool) -> None:
    """Renames the temporary files to their targets, in order; rolls back on failure."""
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
    """Backs up a file that will be replaced, by a hard link or a copy."""
    try:
        os.link(entry.target, entry.backup, follow_symlinks=False)
    except (OSError, NotImplementedError):
        shutil.copy2(entry.target, entry.backup, follow_symlinks=False)


def _publish_folder(stage: Staging, entry: Entry, overwrite: bool) -> None:
    """Renames the temporary folder to the target; an earlier folder is removed afterwards."""
    try:
        renames.move_folder(entry.part, entry.target)
        return
    except FileExistsError:
        if not overwrite:
            raise
    if renames.exchange(entry.part, entry.target):
        return  # `part` is the old folder now and is removed with the staging names
    journal = stage.write_journal([entry])
    try:
        os.rename(entry.target, entry.backup)
        os.rename(entry.part, entry.target)
    except BaseException:  # Ctrl-C between the two renames must not lose the earlier folder
        roll_back(stage.folder, journal)
        raise


def reject_existing(path: Path, overwrite: bool) -> None:
    """Raises OutputExistsError if a path exists, except for empty folders and with `overwrite`."""
    if path.exists() and not overwrite and not (path.is_dir() and not any(path.iterdir())):
        raise _exists_error(path)


def reject_symlink(path: Path) -> None:
    """Raises InputError if a path is a symbolic link, whose target might be anything."""
    if path.is_symlink():
        raise InputError(f"{path} is a symbolic link.", "Choose another name, or remove the link.")


def check_can_write_file(path: Path, overwrite: bool, inputs: Collection[Path | None] = ()) -> None:
    """Raises InputError unless a command may write this file; called before long work.

    Args:
        path: the file.
        overwrite: whether a file of an earlier run may be replaced.
        inputs: files and folders that the command reads; they are never replaced.
    """
    with translate_os_errors(path):
        check_usable_path(path)
        remove_leftovers(path.resolve().parent)
        if path.is_dir():
            raise InputError(f"{path} is a folder.", "Choose a file name.")
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
    """Raises InputError unless `atomic_folder` may write the folder; called before long work.

    Args:
        path: the folder.
        overwrite: whether a folder of an earlier run may be replaced.
        replaces: names of the entries of such a folder.
        inputs: files and folders that the command reads; they are never replaced.
    """
    with translate_os_errors(path):
        check_usable_path(path, inner=_RESERVED_BYTES)
        remove_leftovers(path.resolve().parent)
        if path.is_file():
            raise InputError(f"{path} is a file.", "Choose a folder name.")
        reject_existing(path, overwrite)
        reject_input_path(path, inputs)
        if path.is_dir():
            reject_foreign_content(path, replaces)
        check_parent_writable(path)


def check_usable_path(path: Path, inner: int = 0) -> None:
    """Raises InputError if a path, or a temporary name next to it, is invalid or too long.

    Args:
        path: a file or folder; it and its parents need not exist.
        inner: bytes of the longest path below it.
    """
    if "\0" in str(path):
        raise InputError(
            f"{str(path)!r} is not a path: it contains a NUL character.", "Choose another path."
        )
    existing = Path(path)
    try:
        absolute = Path(os.path.abspath(path))
        existing = next(each for each in (*absolute.parents,) if _path_exists(each))
        resolved = absolute.resolve()
    except (OSError, RuntimeError, StopIteration) as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            raise _too_long_error(path) from error
        reason = getattr(error, "strerror", None) or "its symbolic links form a loop"
        raise InputError(
            f"{path} could not be written: {reason}.", "Choose another path."
        ) from error
    max_name = _path_limit(existing, "PC_NAME_MAX", _DEFAULT_MAX_NAME_BYTES)
    max_path = _path_limit(existing, "PC_PATH_MAX", _DEFAULT_MAX_PATH_BYTES)
    longest = max(len(os.fsencode(name)) for name in resolved.parts)
    temporary = len(os.fsencode(resolved.parent)) + 1 + MAX_NAME
    if longest > max_name or max(len(os.fsencode(resolved)), temporary) + inner >= max_path:
        raise _too_long_error(path)


def _path_exists(path: Path) -> bool:
    """Whether a path exists; False if the system rejects it, for example as too long."""
    try:
        return path.exists()
    except OSError:
        return False


def _path_limit(folder: Path, name: str, default: int) -> int:
    """A system limit for paths in a folder, in bytes (`os.pathconf`)."""
    try:
        found = os.pathconf(folder, name)
    except (AttributeError, OSError, ValueError):
        return default
    return found if found > 0 else default


def _too_long_error(path: Path) -> InputError:
    text = str(path)
    text = text if len(text) <= 120 else f"{text[:60]}...{text[-50:]}"
    return InputError(
        f"{text} could not be written: the name is too long.", "Choose a shorter name."
    )


def _exists_error(path: Path) -> OutputExistsError:
    return OutputExistsError(f"{path} already exists.", "Choose another name, or pass --overwrite.")


def check_parent_writable(path: Path) -> None:
    """Raises InputError if the parent of a path is not writable; called before long work."""
    parent = next((folder for folder in path.resolve().parents if folder.exists()), None)
    if parent is None:
        raise InputError(f"{path} could not be written: its drive does not exist.")
    if not parent.is_dir():
        raise InputError(
            f"{path} could not be written: {parent} is a file.", "Choose another path."
        )
    if not os.access(parent, os.W_OK | os.X_OK):
        raise _permission_error(path)


def _permission_error(path: Path) -> InputError:
    return InputError(
        f"{path} could not be written: permission denied.",
        "Choose a folder with write permission.",
    )


@contextmanager
def translate_os_errors(path: Path) -> Iterator[None]:
    """Turns OSErrors of writing into an InputError of one line that names the file."""
    try:
        yield
    except Nova3DError:
        raise
    except OSError as error:
        if isinstance(error, FileExistsError) and os.path.lexists(path):
            raise _exists_error(path) from error
        if error.errno in _DISK_FULL_ERRNOS:
            raise InputError(
                f"{path} could not be written: no space left on the disk.",
                "Free some disk space or write elsewhere; no partial output was left.",
            ) from error
        if error.errno == errno.ENAMETOOLONG:
            raise _too_long_error(path) from error
        if error.errno in _PERMISSION_ERRNOS:
            raise _permission_error(path) from error
        raise InputError(f"{path} could not be written: {error.strerror or error}.") from error
