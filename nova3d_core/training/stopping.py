"""Ends a run cleanly: Ctrl-C, SIGTERM, SIGHUP, a cancel, or its time is up."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any, Literal

StopReason = Literal["finished", "time", "terminated", "interrupted", "cancelled"]


class StopHandler:
    """Inside, signals are only noted, so that a step and a checkpoint are always whole.

    A second Ctrl-C interrupts at once, as Python usually does.

    Args:
        minutes: after which the run shall end; None for no end.
    """

    def __init__(self, minutes: float | None = None):
        self._end = None if minutes is None else time.monotonic() + 60.0 * minutes
        self._signal: int | None = None
        self._old: dict[int, Any] = {}

    def __enter__(self) -> StopHandler:
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                number = getattr(signal, name, None)  # Windows has no SIGHUP
                ignored = signal.getsignal(number) == signal.SIG_IGN if number else True
                if not ignored or name != "SIGHUP":
                    self._old[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self._old.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number

    @property
    def reason(self) -> StopReason | None:
        """Why the run shall end now, if it shall."""
        if self._signal is not None:
            return "interrupted" if self._signal == signal.SIGINT else "terminated"
        if self._end is not None and time.monotonic() >= self._end:
            return "time"
        return None
