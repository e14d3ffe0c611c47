"""SIGTERM and SIGHUP end a command as Ctrl-C does: cleanly, with a line and an exit code."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

INTERRUPTED = 128 + signal.SIGINT
"""Exit code after Ctrl-C."""
_ENDING = ("SIGTERM", "SIGHUP")


class Terminated(KeyboardInterrupt):
    """The system asks the process to end; whatever cleans up after Ctrl-C cleans up after this.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int):
        self.number = number
        super().__init__()


@contextmanager
def ending_signals() -> Iterator[None]:
    """Inside, the signals that end a process raise `Terminated` in the main thread.

    A signal that the parent had this process ignore (`nohup`) stays ignored. Outside of the main
    thread nothing changes.
    """
    earlier: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for name in _ENDING:
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                earlier[number] = signal.signal(number, _raise)
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def exit_code(stop: KeyboardInterrupt) -> int:
    """The exit code of a command that was stopped, as shells count it: 130, 143, 129."""
    return 128 + stop.number if isinstance(stop, Terminated) else INTERRUPTED


def _raise(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second one does not interrupt the cleaning up
    raise Terminated(number)
