"""SIGTERM and SIGHUP end a command as Ctrl-C does, also when a library swallows them."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress

import psutil
import pytest

from nova3d_core.cli.signals import Terminated, TerminationSignals
from nova3d_core.errors import Cancelled, StageError
from nova3d_core.progress import Progress

from .conftest import KNIGHT, SMALL_RIG
from .test_interrupts import SLOW_FUSE, interrupt_at

pytestmark = pytest.mark.skipif(os.name == "nt", reason="sends signals to one process")
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
each_signal = pytest.mark.parametrize("number", list(CODES), ids=lambda number: number.name)


@pytest.fixture(autouse=True)
def usual_handlers():
    """A test run in the background ignores Ctrl-C; put back as it was."""
    before = {number: signal.getsignal(number) for number in CODES}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@each_signal
def test_a_signal_is_raised_and_noted(number):
    signals = TerminationSignals()
    with pytest.raises(Terminated), signals.handled():
        assert not signals.is_received()
        signal.raise_signal(number)
    assert signals.is_received()
    assert signals.exit_code() == CODES[number]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@each_signal
def test_a_swallowed_signal_ends_the_command_at_its_next_report(number):
    signals = TerminationSignals()
    progress = Progress().also_cancelled_by(signals.is_received)
    with pytest.raises(Terminated), signals.handled():
        progress.update("before", 0, 1)
        with suppress(BaseException):
            signal.raise_signal(number)
        with pytest.raises(Cancelled):
            progress.update("after", 0, 1)
        raise Cancelled("after")


def test_an_error_after_a_signal_counts_as_the_stop_and_one_before_does_not():
    signals = TerminationSignals()
    with pytest.raises(StageError), signals.handled():
        raise StageError("stage", "broke")
    with pytest.raises(Terminated), signals.handled():
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise StageError("stage", "broke") from None


def test_a_second_sigterm_does_not_interrupt_the_cleaning_up():
    signals, cleaned = TerminationSignals(), []
    with pytest.raises(Terminated), signals.handled():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            cleaned.append(True)
    assert cleaned


def test_what_the_parent_had_ignored_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signals = TerminationSignals()
    with signals.handled():
        signal.raise_signal(signal.SIGHUP)
    assert not signals.is_received()


def test_outside_of_the_main_thread_nothing_changes():
    failures = []

    def work() -> None:
        try:
            with TerminationSignals().handled():
                pass
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == []


def test_fuse_terminated_with_its_worker_leaves_nothing(knight_views, tmp_path):
    words = ["fuse", knight_views, "-o", tmp_path / "mesh.glb", *SLOW_FUSE]
    code, said, children = interrupt_at("unwrapping", words, signal.SIGTERM)
    assert code == 143, said
    assert "stopped: nothing half-written was left." in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []
    _, alive = psutil.wait_procs(children, timeout=2)
    assert [each for each in alive if each.status() != psutil.STATUS_ZOMBIE] == []


def test_render_terminated_while_writing_leaves_nothing(tmp_path):
    rig = [*SMALL_RIG[2:], "--rig.count", "96", "--render.supersample", "4"]
    words = ["render", KNIGHT, "-o", tmp_path / "views", *rig]
    code, said, _ = interrupt_at("writing views", words, signal.SIGTERM)
    assert code == 143, said
    assert list(tmp_path.iterdir()) == []
