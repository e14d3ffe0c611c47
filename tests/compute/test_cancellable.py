"""Long calls in a worker thread: results, errors, context, and cancels inside a blocking call."""

from __future__ import annotations

import threading
import time
from contextvars import ContextVar

import pytest
import torch

from nova3d_core.compute.cancellable import run_cancellable
from nova3d_core.errors import Cancelled, InputError
from nova3d_core.progress import SILENT, Progress


def test_returns_the_result_and_forwards_reports_and_context():
    variable: ContextVar[int] = ContextVar("variable", default=0)
    variable.set(3)
    events = []

    def function(progress: Progress) -> tuple[int, bool]:
        progress.update("working", 1, 2)
        return variable.get(), torch.is_grad_enabled()

    result = run_cancellable(function, Progress(events.append), "working")
    assert result == (3, True)
    assert [(event.stage, event.step, event.total) for event in events] == [("working", 1, 2)]


@pytest.mark.parametrize("error", [InputError("wrong"), TimeoutError(), KeyboardInterrupt()])
def test_errors_of_the_function_are_raised(error):
    def function(progress: Progress) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        run_cancellable(function, SILENT, "working")
    assert caught.value is error


def test_cancel_interrupts_a_blocking_call_and_ends_the_worker_at_its_next_check():
    started, release, ended = threading.Event(), threading.Event(), threading.Event()
    cancelled, reached = threading.Event(), []

    def function(progress: Progress) -> None:
        try:
            started.set()
            release.wait(20.0)  # a library call that does not check
            progress.update("working", 1, 2)
            reached.append("went on")
        finally:
            ended.set()

    threading.Thread(target=lambda: (started.wait(), cancelled.set())).start()
    with pytest.raises(Cancelled):
        run_cancellable(function, Progress(is_cancelled=cancelled.is_set), "working")
    assert not ended.is_set()
    cancelled.clear()  # ComfyUI resets its flag before the worker looks again
    release.set()
    assert ended.wait(10.0)
    assert not reached


def test_cancel_is_seen_within_a_second():
    start = time.monotonic()
    progress = Progress(is_cancelled=lambda: time.monotonic() > start + 0.2)
    release = threading.Event()
    with pytest.raises(Cancelled):
        run_cancellable(lambda _: release.wait(20.0), progress, "working")
    assert time.monotonic() - start < 1.2
    release.set()
