"""SIGTERM and SIGHUP end a command as Ctrl-C does: cleanly, with a line and an exit code."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_ENDING = ("SIGINT", "SIGTERM", "SIGHUP")


class Terminated(KeyboardInterrupt):
    """The process shall end; whatever cleans up after Ctrl-C cleans up after this.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int):
        self.number = number
        super().__init__()


class TerminationSignals:
    """The signals that end a process: noted, and raised as `Terminated` in the main thread.

    A library may swallow the exception; the note stays, so that the next progress report ends the
    command all the same.
    """

    def __init__(self) -> None:
        self._received: int | None = None

    def is_received(self) -> bool:
        """Whether the process shall end."""
        return self._received is not None

    def exit_code(self) -> int:
        """The exit code of a command that was stopped, as shells count it: 130, 143 or 129."""
        return 128 + (signal.SIGINT if self._received is None else self._received)

    @contextmanager
    def handled(self, ends_process: bool = False) -> Iterator[None]:
        """Handles them inside the block; outside of the main thread nothing changes.

        Args:
            ends_process: the process ends after the block: a signal that comes so late is ignored,
                instead of giving a finished command the exit code of a killed one.

        An error after a signal counts as the stop: libraries turn interrupts into errors.

        A signal that the parent had this process ignore (`nohup`) stays ignored.
        """
        earlier: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for name in _ENDING:
                number = getattr(signal, name, None)  # Windows has no SIGHUP
                usual = (signal.SIG_DFL, signal.default_int_handler)
                if number is not None and signal.getsignal(number) in usual:
                    earlier[number] = signal.signal(number, self._note)
        try:
            yield
        except Exception as error:
            if self._received is None:
                raise
            raise Terminated(self._received) from error  # it came of the stop, most likely
        finally:
            for number, handler in earlier.items():
                signal.signal(number, signal.SIG_IGN if ends_process else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        again = self._received is not None
        self._received = number
        if again and number != signal.SIGINT:
            return  # does not interrupt the cleaning up; a second Ctrl-C does
        raise Terminated(number)
