"""Temporary names next to an output, locked while their process lives, cleared by the next run.

Everything that is being written in a folder F has names of one token:

* `F/.nova3d-<host>-<token>.lock`, made first and removed last, is locked by the writing process.
  The system releases the lock however the process dies, so a reused process id fools nobody.
* `F/.nova3d-<host>-<token>-<index>.part...` is label becomes output `index`.
* `F/.nova3d-<host>-<token>-<index>.old` is what stood there before, while it may be needed again.

Before several renames the lock file gets a journal of them. The next run that writes into F takes
the locks of dead processes: it undoes the renames of a journal that was not completed, then removes
the names. Where locks say nothing (another host, a drive without locks), a lock file older than
`ABANDONED_S` counts as dead.
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
"""No temporary name is longer."""
_LOCKED_BYTE = 1 << 30
"""Windows locks ranges: this one lies far behind the journal, which stays readable."""


@dataclass(frozen=True)
class Entry:
    """One output on its way: `part` becomes `target`, `backup` keeps what stood there."""

    part: Path
    target: Path
    backup: Path


class Staging:
    """The temporary names of one write; made by `staging`."""

    def __init__(self, folder: Path, token: str, handle: int):
        self.folder, self.token = folder, token
        self._handle: int | None = handle
        self._count = 0

    @property
    def lock(self) -> Path:
        """The lock file."""
        return self.folder / f"{PREFIX}{self.token}.lock"

    def entry(self, target: Path) -> Entry:
        """Names for one more output, which lies in this folder."""
        stem = f"{PREFIX}{self.token}-{self._count}"
        self._count += 1
        suffix = target.suffix if len(os.fsencode(target.suffix)) <= MAX_SUFFIX else ""
        part, backup = self.folder / f"{stem}.part{suffix}", self.folder / f"{stem}.old"
        return Entry(part, target, backup)

    def write_journal(self, entries: Sequence[Entry]) -> list[dict[str, Any]]:
        """Records the renames that follow; given to `roll_back`, by the next run if need be."""
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
        """Undoes what the journal says was begun and not completed."""
        with suppress(ValueError, KeyError, TypeError, AttributeError):
            roll_back(self.folder, json.loads(_content(self._handle)))

    def close(self) -> None:
        """Removes all temporary names, the lock file last."""
        if self._handle is None:
            return
        names = [name for name in os.listdir(self.folder) if name.startswith(self._payload)]
        for name in names:
            _remove(self.folder / name)
        gone = not any(os.path.lexists(self.folder / name) for name in names)
        if os.name == "nt":  # which does not remove open files
            os.close(self._handle)
        if gone:
            self.lock.unlink(missing_ok=True)
        if os.name != "nt":
            os.close(self._handle)
        self._handle = None

    @property
    def _payload(self) -> str:
        return f"{PREFIX}{self.token}-"


@contextmanager
def staging(folder: Path) -> Iterator[Staging]:
    """Temporary names in a folder for as long as the block lasts; leftovers there are removed.

    Raises:
        OSError: nothing can be made in the folder.
    """
    remove_leftovers(folder)
    stage = _new_staging(folder)
    try:
        yield stage
    finally:
        try:
            stage.close()
        except BaseException:  # Ctrl-C just then
            with suppress(OSError):
                stage.close()
            raise


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A temporary folder for this process alone; the next one removes it should this one be killed.

    Raises:
        OSError: nothing can be made in the parent.
    """
    with staging(parent) as stage:
        folder = stage.entry(parent / "scratch").part
        folder.mkdir(0o700)
        yield folder


def remove_leftovers(folder: Path) -> None:
    """Clears what dead processes left in a folder, and brings back what they had put aside."""
    try:
        names = [name for name in os.listdir(folder) if name.startswith(PREFIX)]
    except OSError:
        return
    for name in names:
        if name.endswith(".lock"):
            with suppress(OSError):
                _clear(folder, name[len(PREFIX) : -len(".lock")])


def roll_back(folder: Path, journal: Sequence[dict[str, Any]]) -> None:
    """Brings back the files and folders of a journal as they were, unless all renames were done.

    Args:
        folder: where all of it lies.
        journal: names of part, target and aside, and the part's inode, for each rename.
    """
    rows = [
        (*(_plain_path(folder, row[key]) for key in ("part", "target", "backup")), row["inode"])
        for row in journal
    ]
    if not any(os.path.lexists(part) for part, *_ in rows):
        return  # all done
    for part, target, backup, inode in reversed(rows):
        if os.path.lexists(part):  # not renamed yet; a folder may have been moved out of its way
            if os.path.lexists(backup) and not os.path.lexists(target):
                os.rename(backup, target)
        elif os.path.lexists(backup):
            os.replace(backup, target)
        elif os.path.lexists(target) and target.lstat().st_ino == inode:
            target.unlink()


def _plain_path(folder: Path, name: Any) -> Path:
    """A name that a journal gives, in the folder and nowhere else."""
    if not isinstance(name, str) or name in ("", ".", "..") or set(name) & set("/\\:\0"):
        raise ValueError(f"{name!r} is no plain name")
    return folder / name


def _new_staging(folder: Path) -> Staging:
    """Makes and locks a lock file."""
    while True:
        token = f"{_host()}-{secrets.token_hex(4)}"
        path = folder / f"{PREFIX}{token}.lock"
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            _lock(handle)
        except BlockingIOError:  # another run took it for a dead one's and removes it
            os.close(handle)
            continue
        except OSError:  # no locks on this drive: its age has to do
            return Staging(folder, token, handle)
        if os.name == "nt" or os.fstat(handle).st_nlink:  # 0: it was removed before it was locked
            return Staging(folder, token, handle)
        os.close(handle)


def _clear(folder: Path, token: str) -> None:
    """Recovers and removes one leftover, if its process is dead."""
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
    """Whether the process that made a lock file is gone; if so, the lock is ours now."""
    about = os.fstat(handle)
    if hasattr(os, "geteuid") and about.st_uid != os.geteuid():
        return False  # somebody else's, who clears it in his next run
    abandoned = time.time() - about.st_mtime > ABANDONED_S
    try:
        _lock(handle)
    except BlockingIOError:
        return False
    except OSError:  # no locks on this drive
        return abandoned
    return abandoned or token.partition("-")[0] == _host()


def _lock(handle: int) -> None:
    """Takes the lock of a lock file.

    Raises:
        BlockingIOError: another process has it.
        OSError: the drive has no locks.
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


def _content(handle: int) -> bytes:
    os.lseek(handle, 0, os.SEEK_SET)
    return os.read(handle, 1 << 16)


def _host() -> str:
    """Eight letters that stand for this machine."""
    return f"{zlib.crc32(platform.node().encode()):08x}"


def _remove(path: Path) -> None:
    """Removes a file, a link or a whole folder, as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):
        path.unlink()
