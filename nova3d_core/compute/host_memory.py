"""Host memory: available bytes, checks, and release of unused memory."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import InputError

_MEMINFO = Path("/proc/meminfo")


def available_bytes() -> int | None:
    """Main memory available without swapping; None if unknown."""
    try:
        import psutil

        return int(psutil.virtual_memory().available)
    except ImportError:
        pass
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return None


def check_memory(
    label: str,
    needed: int,
    available: int | None,
    hint: str = "Close other programs, load it as float16 or bfloat16, or use a smaller model.",
) -> None:
    """Raises InputError if `needed` exceeds `available`.

    Args:
        label: name of the data or task, for the message.
        needed: bytes.
        available: bytes; None disables the check.
        hint: advice for the user.
    """
    if available is not None and needed > available:
        raise InputError(
            f"{label} needs {needed / 2**30:.1f} GiB of memory, but only "
            f"{available / 2**30:.1f} GiB are free.",
            hint,
        )


def release_unused_memory() -> None:
    """Returns unused memory of the C allocator to the operating system (glibc only).

    After many allocations of some megabytes, glibc retains hundreds of megabytes.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Any:
    """glibc's `malloc_trim`; None on other platforms."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # another C library
        return None
