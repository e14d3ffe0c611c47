"""Runs long calls so that a cancel takes effect at once, even inside a call into a library."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, TimeoutError
from contextvars import copy_context
from typing import TypeVar

from ..progress import Progress

T = TypeVar("T")

POLL_INTERVAL_S = 0.1
"""Interval of checks for a cancel."""


def run_cancellable(function: Callable[[Progress], T], progress: Progress, stage: str) -> T:
    """Runs a function in a worker thread and returns its result; a cancel raises at once.

    After a cancel the worker's `Progress` is cancelled for good, so that the worker ends at its
    next check; until then it finishes the library call that it is in.

    Args:
        function: receives the `Progress` to report to.
        progress: checked every tenth of a second in the calling thread.
        stage: names the stage in `Cancelled`.

    Raises:
        Cancelled: cancelled through `progress`.
        BaseException: whatever the function raises.
    """
    abandoned = threading.Event()
    own_progress = progress.with_cancellation(abandoned.is_set)
    context = copy_context()
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(context.run(function, own_progress))
        except BaseException as error:  # raised again in the calling thread
            future.set_exception(error)

    threading.Thread(target=work, name=f"nova3d {stage}", daemon=True).start()
    try:
        while True:
            try:
                return future.result(POLL_INTERVAL_S)
            except TimeoutError:
                if future.done():  # the function itself raised one
                    raise
                progress.check(stage)
    finally:
        abandoned.set()
