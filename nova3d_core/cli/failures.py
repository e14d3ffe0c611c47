"""Describes an exception in one short line, with the exit code of the command."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import Cancelled, InputError, MissingDependencyError, Nova3DError, StageError

TRACEBACK_VARIABLE = "NOVA3D_TRACEBACK"
"""Environment variable that enables tracebacks."""
ISSUES = "https://github.com/nova3d/comfyui-nova3d/issues"
MAX_LINE_LENGTH = 480
"""Maximal length of an error line; longer ones are shortened in the middle."""
FAILED, BAD_INPUT, INTERRUPTED, BROKEN_PIPE = 1, 2, 130, 141

_PACKAGE = Path(__file__).resolve().parents[1]


def describe_error(error: BaseException) -> tuple[str, int]:
    """The error line without "error: ", and the exit code of the command."""
    if isinstance(error, Nova3DError):
        bad_input = isinstance(error, InputError | MissingDependencyError)
        code = INTERRUPTED if isinstance(error, Cancelled) else BAD_INPUT if bad_input else FAILED
        return one_line(str(error)), code
    if is_out_of_memory(error):
        return (
            "memory ran out. Close other programs, or reduce the number or size of images, the "
            "resolution, or the number of faces.",
            FAILED,
        )
    if isinstance(error, ImportError):
        return (
            one_line(
                f"a package cannot be imported: {first_line(error)}.",
                "Install missing packages with: pip install -r requirements.txt",
            ),
            BAD_INPUT,
        )
    if isinstance(error, OSError):
        return _describe_os_error(error)
    if isinstance(error, RecursionError):
        return "the input is nested too deeply.", FAILED
    if isinstance(error, OverflowError):
        return one_line(f"a number is too large: {first_line(error)}."), FAILED
    kind, location = type(error).__name__, error_location(error)
    return (
        one_line(
            f"internal error: {kind} at {location}: {first_line(error)}.",
            f"Please report it at {ISSUES} with the traceback that {TRACEBACK_VARIABLE}=1 prints.",
        ),
        FAILED,
    )


def _describe_os_error(error: OSError) -> tuple[str, int]:
    path = error.filename if isinstance(error.filename, str) else ""
    reason = error.strerror or first_line(error)
    temporary = tempfile.tempdir or ""
    if "No usable temporary directory" in reason or (temporary and path.startswith(temporary)):
        return (
            one_line(
                f"no temporary file can be created: {reason}.",
                "Set TMPDIR (TEMP on Windows) to a writable folder with free space.",
            ),
            FAILED,
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        reason = f"{reason} (the disk is full)"
    return one_line(f"{path}: {reason}." if path else f"system error: {reason}."), FAILED


def is_out_of_memory(error: BaseException) -> bool:
    """`devices.is_out_of_memory`, without importing torch if nothing else has."""
    if isinstance(error, MemoryError):
        return True
    if "torch" not in sys.modules:
        return isinstance(error, OSError) and error.errno == errno.ENOMEM
    from ..compute.devices import is_out_of_memory as is_out_of_any_memory

    return is_out_of_any_memory(error)


@contextmanager
def memory_errors(stage: str, hint: str) -> Iterator[None]:
    """Translates exhausted memory in the `with` block into a StageError with a hint."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise StageError(stage, "memory ran out.", hint) from error


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, without a full stop; its class if it is empty."""
    reason = error.strerror if isinstance(error, OSError) else None
    lines = (reason or str(error)).strip().splitlines()
    return lines[0][:MAX_LINE_LENGTH].rstrip(". ") if lines else type(error).__name__


def error_location(error: BaseException) -> str:
    """The innermost traceback line in this package, for example "io/mesh/stl.py:20"."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(_PACKAGE)]
    if not own:
        return "an unknown location"
    return f"{Path(own[-1].filename).relative_to(_PACKAGE).as_posix()}:{own[-1].lineno}"


def one_line(text: str, hint: str = "") -> str:
    """Fits text on one line of at most `MAX_LINE_LENGTH` characters; a hint is never shortened."""
    text = "".join(each if each.isprintable() else _escape(each) for each in text)
    available = MAX_LINE_LENGTH - len(hint) - 1
    if len(text) > available:
        tail = "" if hint else text[-160:]
        text = f"{text[: available - len(tail) - 5]} ... {tail}".rstrip()
    return f"{text} {hint}".rstrip()


def _escape(character: str) -> str:
    """A control character as a blank or its code; the stream escapes surrogates."""
    if character.isspace():
        return " "
    return character if "\ud800" <= character <= "\udfff" else f"\\x{ord(character):02x}"


def traceback_enabled() -> bool:
    """Whether tracebacks are enabled."""
    return os.environ.get(TRACEBACK_VARIABLE, "") not in ("", "0")
