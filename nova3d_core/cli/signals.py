"""SIGTERM and SIGHUP end a command like Ctrl-C: with cleanup, one line and an exit code."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNAL_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


class Terminated(KeyboardInterrupt):
    """The process received a termination signal; handled like Ctrl-C.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int):
        self.number = number
        super().__init__()


class TerminationSignals:
    """Records the signals that end a process, and raises `Terminated` in the main thread.

    If a library swallows the exception, the next progress report cancels the command, because the
    signal was recorded.
    """

    def __init__(self) -> None:
        self._received: int | None = None

    def is_received(self) -> bool:
        """Whether a termination signal was received."""
        return self._received is not None

    def exit_code(self) -> int:
        """The exit code of the stopped command, by the convention of shells: 130, 143 or 129."""
        return 128 + (signal.SIGINT if self._received is None else self._received)

    @contextmanager
    def handle(self, exits_after: bool = False) -> Iterator[None]:
        """Handles the signals inside the block; has no effect outside of the main thread.

        Args:
            exits_after: the process exits after the block: later signals are ignored, so that a
                finished command does not get the exit code of a killed one.

        An error after a signal is raised as `Terminated`: libraries turn interrupts into errors.

        Signals that the parent process set to be ignored (`nohup`) stay ignored.
        """
        previous: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for name in _SIGNAL_NAMES:
                number = getattr(signal, name, None)  # Windows has no SIGHUP
                defaults = (signal.SIG_DFL, signal.default_int_handler)
                if number is not None and signal.getsignal(number) in defaults:
                    previous[number] = signal.signal(number, self._record)
        try:
            yield
        except Exception as error:
            if self._received is None:
                raise
            raise Terminated(self._received) from error  # most likely caused by the signal
        finally:
            for number, handler in previous.items():
                signal.signal(number, signal.SIG_IGN if exits_after else handler)

    def _record(self, number: int, frame: FrameType | None) -> None:
        repeated = self._received is not None
        self._received = number
        if repeated and number != signal.SIGINT:
            return  # do not interrupt the cleanup; a second Ctrl-C does
        raise Terminated(number)
