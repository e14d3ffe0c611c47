"""Memory of reading files of splats, checked before they are read."""

from __future__ import annotations

from ...compute.host_memory import available_bytes
from ...errors import InputError

SPLAT_BYTES = 220
"""Memory per splat while its 14 values are converted and checked."""


def check_file_memory(count: int, file_bytes: int) -> None:
    """Raises InputError if a file of splats does not fit into memory.

    Args:
        count: number of splats.
        file_bytes: size of the file, which is held while it is converted.
    """
    needed, available = count * SPLAT_BYTES + file_bytes, available_bytes()
    if available is None or needed <= available:
        return
    fitting = int(count * available / needed)
    raise InputError(
        f"its {count:,} splats need {needed / 2**30:.1f} GiB of memory, but only "
        f"{available / 2**30:.1f} GiB are free.",
        f"Close other programs, or reduce the file to {fitting:,} splats.",
    )
