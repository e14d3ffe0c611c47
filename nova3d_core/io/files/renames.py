"""Renames that never replace an existing target, and an atomic exchange of two paths."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

_AT_FDCWD = -100
_LINUX = {"noreplace": 1, "exchange": 2}
"""Flags of renameat2."""
_MACOS = {"noreplace": 4, "exchange": 2}
"""Flags of renamex_np: RENAME_EXCL and RENAME_SWAP."""
_UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM}
"""Errors of file systems that lack the operation."""


def move_file(source: Path, target: Path) -> None:
    """Renames a file; atomic, and fails if the target exists.

    A single system call on Linux, macOS and Windows. On file systems without it, a hard link
    creates the new name; without hard links (FAT), an empty file reserves the name first.

    Raises:
        FileExistsError: the target exists; the source is untouched.
    """
    if sys.platform == "win32":
        os.rename(source, target)  # fails there if the target exists
        return
    if _rename_with("noreplace", source, target):
        return
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError:
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        try:
            os.replace(source, target)
        except BaseException:
            os.unlink(target)
            raise
    else:
        os.unlink(source)


def move_folder(source: Path, target: Path) -> None:
    """Renames a folder; atomic, and fails if the target exists and is not an empty folder.

    Raises:
        FileExistsError: the target is not empty; the source is untouched.
    """
    try:
        if sys.platform == "win32" and target.is_dir():
            target.rmdir()
        os.rename(source, target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        raise


def exchange(first: Path, second: Path) -> bool:
    """Swaps two existing paths atomically; False if the system or file system cannot."""
    return _rename_with("exchange", first, second)


def _rename_with(flag: str, source: Path, target: Path) -> bool:
    """Renames with a flag; False if unsupported, OSError on failure."""
    call = _flagged_rename()
    if call is None:
        return False
    code = call(os.fsencode(source), os.fsencode(target), flag)
    if code == 0:
        return True
    if code in _UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(source), None, str(target))


@cache
def _flagged_rename() -> Callable[[bytes, bytes, str], int] | None:
    """The system's rename with flags, which returns 0 or an errno; None if there is none."""
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if sys.platform.startswith("linux"):
            function = library.renameat2
        elif sys.platform == "darwin":
            function = library.renamex_np
        else:
            return None
    except (AttributeError, OSError, TypeError):
        return None
    function.restype = ctypes.c_int

    def call(source: bytes, target: bytes, flag: str) -> int:
        if sys.platform == "darwin":
            status = function(
                ctypes.c_char_p(source), ctypes.c_char_p(target), ctypes.c_uint(_MACOS[flag])
            )
        else:
            status = function(
                ctypes.c_int(_AT_FDCWD), ctypes.c_char_p(source),
                ctypes.c_int(_AT_FDCWD), ctypes.c_char_p(target), ctypes.c_uint(_LINUX[flag]),
            )  # fmt: skip
        return 0 if status == 0 else ctypes.get_errno()

    return call
