"""What the command line says of an exception: one short line, and an exit code."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import traceback
from pathlib import Path

from ..errors import Cancelled, InputError, MissingDependencyError, Nova3DError

TRACEBACK_VARIABLE = "NOVA3D_TRACEBACK"
"""Environment variable that makes an error show where it came from."""
ISSUES = "https://github.com/nova3d/comfyui-nova3d/issues"
MAX_LINE_LENGTH = 480
"""Characters of an error's line; the middle of longer ones is left out."""
FAILED, BAD_INPUT, INTERRUPTED, BROKEN_PIPE = 1, 2, 130, 141

_PACKAGE = Path(__file__).resolve().parents[1]


def describe_error(error: BaseException) -> tuple[str, int]:
    """An exception as a line without "error: ", and the exit code of the command."""
    if isinstance(error, Nova3DError):
        bad_input = isinstance(error, InputError | MissingDependencyError)
        code = INTERRUPTED if isinstance(error, Cancelled) else BAD_INPUT if bad_input else FAILED
        return one_line(str(error)), code
    if is_out_of_memory(error):
        return (
            "memory ran out. Close other programs, or choose less: fewer or smaller images, "
            "a lower resolution, fewer faces.",
            FAILED,
        )
    if isinstance(error, ImportError):
        return (
            one_line(
                f"a package cannot be loaded: {first_line(error)}.",
                "Install what is missing with: pip install -r requirements.txt",
            ),
            BAD_INPUT,
        )
    if isinstance(error, OSError):
        return _explain_os_error(error)
    if isinstance(error, RecursionError):
        return "the input is nested too deeply to be followed.", FAILED
    if isinstance(error, OverflowError):
        return one_line(f"a number is too large to compute with: {first_line(error)}."), FAILED
    kind, place = type(error).__name__, error_location(error)
    return (
        one_line(
            f"internal error: {kind} at {place}: {first_line(error)}.",
            f"Please report it at {ISSUES} with what {TRACEBACK_VARIABLE}=1 shows.",
        ),
        FAILED,
    )


def _explain_os_error(error: OSError) -> tuple[str, int]:
    where = error.filename if isinstance(error.filename, str) else ""
    reason = error.strerror or first_line(error)
    temporary = tempfile.tempdir or ""
    if "No usable temporary directory" in reason or (temporary and where.startswith(temporary)):
        return (
            one_line(
                f"no temporary file can be written: {reason}.",
                "Set TMPDIR (TEMP on Windows) to a folder that can be written and has room.",
            ),
            FAILED,
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        reason = f"{reason} (the disk is full)"
    return one_line(f"{where}: {reason}." if where else f"the system said: {reason}."), FAILED


def is_out_of_memory(error: BaseException) -> bool:
    """`devices.is_out_of_memory`, without loading torch where nothing else has."""
    if isinstance(error, MemoryError):
        return True
    if "torch" not in sys.modules:
        return isinstance(error, OSError) and error.errno == errno.ENOMEM
    from ..compute.devices import is_out_of_memory as in_any_form

    return in_any_form(error)


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, without a full stop; its class if it has none."""
    reason = error.strerror if isinstance(error, OSError) else None
    lines = (reason or str(error)).strip().splitlines()
    return lines[0][:MAX_LINE_LENGTH].rstrip(". ") if lines else type(error).__name__


def error_location(error: BaseException) -> str:
    """The innermost line of this package that an exception went through: "io/mesh/stl.py:20"."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(_PACKAGE)]
    if not own:
        return "an unknown place"
    return f"{Path(own[-1].filename).relative_to(_PACKAGE).as_posix()}:{own[-1].lineno}"


def one_line(text: str, hint: str = "") -> str:
    """Text on one line of at most `MAX_LINE_LENGTH` characters; a hint at its end stays whole."""
    text = "".join(letter if letter.isprintable() else _escaped(letter) for letter in text)
    room = MAX_LINE_LENGTH - len(hint) - 1
    if len(text) > room:
        end = 0 if hint else 160
        text = f"{text[: room - end - 5]} ... {text[len(text) - end :] if end else ''}".rstrip()
    return f"{text} {hint}".rstrip()


def _escaped(letter: str) -> str:
    """A control character as a blank or its code; surrogates are left to the stream."""
    if letter.isspace():
        return " "
    return letter if "\ud800" <= letter <= "\udfff" else f"\\x{ord(letter):02x}"


def traceback_enabled() -> bool:
    """Whether the user asked to see where errors come from."""
    return os.environ.get(TRACEBACK_VARIABLE, "") not in ("", "0")
