"""Temporary names next to an output, locked by their process and cleaned up by the next run.

The temporary names of one write into a folder F share a token:

* `F/.nova3d-<host>-<token>.lock`, created first and removed last, is locked by the writing process.
  The system releases the lock when the process dies; process ids, which are reused, are not needed.
* `F/.nova3d-<host>-<token>-<index>.part...` becomes output `index`.
* `F/.nova3d-<host>-<token>-<index>.old` is the backup of the earlier output.

Before several renames, a journal of them is written to the lock file. The next run that writes into
F takes the locks of dead processes, rolls back incomplete journals and removes the names. Where
locks cannot be tested (other hosts, drives without locks), a lock file older than `ABANDONED_S`
counts as dead.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import secrets
import shutil
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PREFIX = ".nova3d-"
ABANDONED_S = 24 * 3600.0
"""Age after which a lock of another host, or one that cannot be tested, counts as dead."""
MAX_SUFFIX = 16
MAX_NAME = len(PREFIX) + 8 + 1 + 8 + 3 + len(".part") + MAX_SUFFIX
"""Maximum length of a temporary name."""
_LOCKED_BYTE = 1 << 30
"""Windows locks byte ranges: this one lies behind the journal, which stays readable."""


@dataclass(frozen=True)
class Entry:
    """The names of one output: `part` is renamed to `target`, `backup` keeps the earlier one."""

    part: Path
    target: Path
    backup: Path


class Staging:
    """The temporary names of one write; created by `staging`."""

    def __init__(self, folder: Path, token: str, handle: int):
        self.folder, self.token = folder, token
        self._handle: int | None = handle
        self._count = 0

    @property
    def lock(self) -> Path:
        """The lock file."""
        return self.folder / f"{PREFIX}{self.token}.lock"

    def entry(self, target: Path) -> Entry:
        """Creates the names for one more output in this folder."""
        stem = f"{PREFIX}{self.token}-{self._count}"
        self._count += 1
        suffix = target.suffix if len(os.fsencode(target.suffix)) <= MAX_SUFFIX else ""
        part, backup = self.folder / f"{stem}.part{suffix}", self.folder / f"{stem}.old"
        return Entry(part, target, backup)

    def write_journal(self, entries: Sequence[Entry]) -> list[dict[str, Any]]:
        """Records the renames that follow, for `roll_back` by this or the next run."""
        journal: list[dict[str, Any]] = [
            {
                "part": entry.part.name,
                "target": entry.target.name,
                "backup": entry.backup.name,
                "inode": entry.part.lstat().st_ino,
            }
            for entry in entries
        ]
        os.lseek(self._handle, 0, os.SEEK_SET)
        os.write(self._handle, json.dumps(journal).encode())
        return journal

    def recover(self) -> None:
        """Rolls back an incomplete journal."""
        with suppress(ValueError, KeyError, TypeError, AttributeError):
            roll_back(self.folder, json.loads(_read_journal(self._handle)))

    def close(self) -> None:
        """Removes all temporary names, the lock file last."""
        if self._handle is None:
            return
        names = [name for name in os.listdir(self.folder) if name.startswith(self._payload)]
        for name in names:
            _remove(self.folder / name)
        is_clean = not any(os.path.lexists(self.folder / name) for name in names)
        if os.name == "nt":  # open files cannot be removed
            os.close(self._handle)
        if is_clean:
            self.lock.unlink(missing_ok=True)
        if os.name != "nt":
            os.close(self._handle)
        self._handle = None

    @property
    def _payload(self) -> str:
        return f"{PREFIX}{self.token}-"


@contextmanager
def staging(folder: Path) -> Iterator[Staging]:
    """Provides temporary names in a folder for the block; removes leftovers of dead processes.

    Raises:
        OSError: the folder is not writable.
    """
    remove_leftovers(folder)
    stage = _new_staging(folder)
    try:
        yield stage
    finally:
        try:
            stage.close()
        except BaseException:  # Ctrl-C during close
            with suppress(OSError):
                stage.close()
            raise


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A private temporary folder; if this process is killed, the next run removes it.

    Raises:
        OSError: the parent is not writable.
    """
    with staging(parent) as stage:
        folder = stage.entry(parent / "scratch").part
        folder.mkdir(0o700)
        yield folder


def remove_leftovers(folder: Path) -> None:
    """Removes temporary files of dead processes from a folder and restores their backups."""
    try:
        names = [name for name in os.listdir(folder) if name.startswith(PREFIX)]
    except OSError:
        return
    for name in names:
        if name.endswith(".lock"):
            with suppress(OSError):
                _clear(folder, name[len(PREFIX) : -len(".lock")])


def roll_back(folder: Path, journal: Sequence[dict[str, Any]]) -> None:
    """Restores the files and folders of a journal, unless all of its renames were completed.

    Args:
        folder: the folder of all names.
        journal: for each rename, the names of part, target and backup, and the part's inode.
    """
    rows = [
        (*(_plain_path(folder, row[key]) for key in ("part", "target", "backup")), row["inode"])
        for row in journal
    ]
    if not any(os.path.lexists(part) for part, *_ in rows):
        return  # completed
    for part, target, backup, inode in reversed(rows):
        if os.path.lexists(part):  # not renamed yet, but the target may have been moved away
            if os.path.lexists(backup) and not os.path.lexists(target):
                os.rename(backup, target)
        elif os.path.lexists(backup):
            os.replace(backup, target)
        elif os.path.lexists(target) and target.lstat().st_ino == inode:
            target.unlink()


def _plain_path(folder: Path, name: Any) -> Path:
    """The path of a journal's name, which must lie directly in the folder."""
    if not isinstance(name, str) or name in ("", ".", "..") or set(name) & set("/\\:\0"):
        raise ValueError(f"{name!r} is not a plain file name")
    return folder / name


def _new_staging(folder: Path) -> Staging:
    """Creates and locks a lock file."""
    while True:
        token = f"{_host()}-{secrets.token_hex(4)}"
        path = folder / f"{PREFIX}{token}.lock"
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            _lock(handle)
        except BlockingIOError:  # another run is cleaning it up
            os.close(handle)
            continue
        except OSError:  # no locks on this drive: its age decides
            return Staging(folder, token, handle)
        if os.name == "nt" or os.fstat(handle).st_nlink:  # 0: removed before it was locked
            return Staging(folder, token, handle)
        os.close(handle)


def _clear(folder: Path, token: str) -> None:
    """Rolls back and removes the names of one token, if its process is dead."""
    path = folder / f"{PREFIX}{token}.lock"
    handle = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    if not _owner_is_dead(handle, token):
        os.close(handle)
        return
    stage = Staging(folder, token, handle)
    try:
        stage.recover()
    finally:
        stage.close()


def _owner_is_dead(handle: int, token: str) -> bool:
    """Whether the owner of a lock file is dead; if so, the lock is taken over."""
    status = os.fstat(handle)
    if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        return False  # another user's, whose next run removes it
    abandoned = time.time() - status.st_mtime > ABANDONED_S
    try:
        _lock(handle)
    except BlockingIOError:
        return False
    except OSError:  # no locks on this drive
        return abandoned
    return abandoned or token.partition("-")[0] == _host()


def _lock(handle: int) -> None:
    """Acquires the lock of a lock file.

    Raises:
        BlockingIOError: another process holds it.
        OSError: the drive does not support locks.
    """
    if os.name == "nt":
        import msvcrt

        os.lseek(handle, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError(errno.EAGAIN, "locked") from error
        return
    import fcntl

    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _read_journal(handle: int) -> bytes:
    os.lseek(handle, 0, os.SEEK_SET)
    return os.read(handle, 1 << 16)


def _host() -> str:
    """Eight hexadecimal digits that identify this host."""
    return f"{zlib.crc32(platform.node().encode()):08x}"


def _remove(path: Path) -> None:
    """Removes a file, a link or a folder tree; ignores errors."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):
        path.unlink()
