"""Guards while a file is read: time, memory, opened files, error messages."""

from __future__ import annotations

import os
import re
import signal
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nova3d_core.errors import Nova3DError

CPU_SECONDS = 5.0
MEMORY_MIB = 300.0
_MAX_MESSAGE_CHARS = 500
_RAW_PYTHON = re.compile(
    r"Traceback|\b(?:Key|Index|Value|Type|Attribute|Assertion|Unicode\w*|Overflow|ZeroDivision|"
    r"Recursion|Memory|Runtime|NotImplemented|OS|struct\.)(?:Error|error)\b|"
    r"object has no attribute|NoneType|invalid literal|unsupported operand|list index|"
    r"not subscriptable|dtype\("
)
_SYSTEM = tuple(
    os.path.realpath(path)
    for path in {
        sys.prefix,
        sys.base_prefix,
        *sysconfig.get_paths().values(),
        "/proc",
        "/sys",
        "/dev",
        str(Path(__file__).resolve().parents[2]),
    }
)
"""Where the interpreter, the packages and this project may read at any time."""


class Hang(BaseException):
    """More than `CPU_SECONDS` of CPU time; handlers of `Exception` do not catch it."""


class Violation(AssertionError):
    """A guard that failed."""


_allowed: list[str] = []
_opened_outside: list[str] = []


def _audit(event: str, arguments: tuple) -> None:
    if event != "open" or not _allowed or not isinstance(arguments[0], str | bytes | os.PathLike):
        return
    path = os.path.realpath(os.fsdecode(arguments[0]))
    if not path.startswith((*_allowed, *_SYSTEM)):
        _opened_outside.append(path)


_installed = False


@contextmanager
def guarded(folder: Path, size: int, memory_mib: float = MEMORY_MIB) -> Iterator[None]:
    """Runs the body under all guards.

    Args:
        folder: the only folder whose files may be opened.
        size: bytes of the file; memory may grow by four times that.
        memory_mib: minimum of the memory limit.

    Raises:
        Violation: a guard failed. Well-formed errors of the project are suppressed.
        Hang: too much CPU time.
    """
    global _installed
    if not _installed:
        sys.addaudithook(_audit)  # cannot be removed again, so it checks `_allowed`
        _installed = True
    before = _resident_mib(reset_peak=True)
    previous = signal.signal(signal.SIGPROF, _hang)
    _opened_outside.clear()
    _allowed[:] = [os.path.realpath(folder) + os.sep, os.path.realpath(folder)]
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        yield
    except Nova3DError as error:
        check_message(error)
    except Exception as error:
        raise Violation(f"escaped: {type(error).__name__}: {error}") from error
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, previous)
        _allowed.clear()
    if _opened_outside:
        raise Violation(f"opened outside of the folder: {_opened_outside}")
    grown = _peak_mib() - before
    if grown > max(memory_mib, 4.0 * size / 2**20):
        raise Violation(f"memory grew by {grown:.0f} MiB for a file of {size} bytes")


def check_message(error: Nova3DError) -> None:
    """Raises Violation unless an error is one short line without Python internals."""
    text = str(error)
    if "\n" in text or "\r" in text:
        raise Violation(f"more than one line: {text!r}")
    if len(text) >= _MAX_MESSAGE_CHARS:
        raise Violation(f"{len(text)} characters: {text!r}")
    quote_value = re.sub(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", "", text)
    if _RAW_PYTHON.search(quote_value):
        raise Violation(f"raw Python in a message: {text!r}")


def _hang(signum: int, frame: object) -> None:
    raise Hang(f"more than {CPU_SECONDS} s of processor time")


def _status_mib(key: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    return 0.0


def _resident_mib(reset_peak: bool) -> float:
    if reset_peak:
        Path("/proc/self/clear_refs").write_text("5")
    return _status_mib("VmRSS")


def _peak_mib() -> float:
    return _status_mib("VmHWM")
