"""Clean end of a run: on Ctrl-C, SIGTERM, SIGHUP, cancellation, or a time limit."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any, Literal

StopReason = Literal["finished", "time", "terminated", "interrupted", "cancelled"]


class StopHandler:
    """Context in which signals are recorded, so that steps and checkpoints are completed.

    A second Ctrl-C interrupts immediately.

    Args:
        minutes: time limit of the run; None for no limit.
    """

    def __init__(self, minutes: float | None = None):
        self._deadline = None if minutes is None else time.monotonic() + 60.0 * minutes
        self._signal: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopHandler:
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                number = getattr(signal, name, None)  # Windows has no SIGHUP
                ignored = signal.getsignal(number) == signal.SIG_IGN if number else True
                if not ignored or name != "SIGHUP":
                    self._previous[number] = signal.signal(number, self._record)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _record(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number

    @property
    def reason(self) -> StopReason | None:
        """Why the run should end now; None if it should not."""
        if self._signal is not None:
            return "interrupted" if self._signal == signal.SIGINT else "terminated"
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return "time"
        return None
