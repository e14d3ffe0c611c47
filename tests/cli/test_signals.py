"""SIGTERM and SIGHUP end a command like Ctrl-C, even if a library swallows the exception."""

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
from .test_interrupts import SLOW_STAGES, interrupt_at

pytestmark = pytest.mark.skipif(os.name == "nt", reason="sends signals to one process")
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
each_signal = pytest.mark.parametrize("number", list(CODES), ids=lambda number: number.name)


@pytest.fixture(autouse=True)
def default_handlers():
    """The default handlers, even in a background process, which ignores Ctrl-C."""
    previous = {number: signal.getsignal(number) for number in CODES}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in previous.items():
        signal.signal(number, handler)


@each_signal
def test_signal_is_raised_and_recorded(number):
    signals = TerminationSignals()
    with pytest.raises(Terminated), signals.handle():
        assert not signals.is_received()
        signal.raise_signal(number)
    assert signals.is_received()
    assert signals.exit_code() == CODES[number]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@each_signal
def test_swallowed_signal_ends_the_command_at_the_next_progress_report(number):
    signals = TerminationSignals()
    progress = Progress().with_cancellation(signals.is_received)
    with pytest.raises(Terminated), signals.handle():
        progress.update("before", 0, 1)
        with suppress(BaseException):
            signal.raise_signal(number)
        with pytest.raises(Cancelled):
            progress.update("after", 0, 1)
        raise Cancelled("after")


def test_error_after_a_signal_is_raised_as_termination():
    signals = TerminationSignals()
    with pytest.raises(StageError), signals.handle():
        raise StageError("stage", "broke")
    with pytest.raises(Terminated), signals.handle():
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise StageError("stage", "broke") from None


def test_second_sigterm_does_not_interrupt_the_cleanup():
    signals, cleaned = TerminationSignals(), []
    with pytest.raises(Terminated), signals.handle():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            cleaned.append(True)
    assert cleaned


def test_signal_ignored_by_the_parent_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signals = TerminationSignals()
    with signals.handle():
        signal.raise_signal(signal.SIGHUP)
    assert not signals.is_received()


def test_has_no_effect_outside_of_the_main_thread():
    failures = []

    def work() -> None:
        try:
            with TerminationSignals().handle():
                pass
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == []


def test_terminating_fuse_and_its_worker_leaves_nothing_behind(knight_views, tmp_path):
    words = [
        "fuse",
        knight_views,
        "-o",
        tmp_path / "mesh.glb",
        "--method",
        "hull",
        *SLOW_STAGES["unwrapping"],
    ]
    code, stderr, children = interrupt_at("unwrapping", words, signal.SIGTERM)
    assert code == 143, stderr
    assert "stopped: no incomplete files were left behind." in stderr
    assert "Traceback" not in stderr
    assert list(tmp_path.iterdir()) == []
    _, alive = psutil.wait_procs(children, timeout=2)
    assert [each for each in alive if each.status() != psutil.STATUS_ZOMBIE] == []


def test_terminating_render_while_writing_leaves_nothing_behind(tmp_path):
    rig = [*SMALL_RIG[2:], "--rig.count", "96", "--render.supersample", "4"]
    words = ["render", KNIGHT, "-o", tmp_path / "views", *rig]
    code, stderr, _ = interrupt_at("writing views", words, signal.SIGTERM)
    assert code == 143, stderr
    assert list(tmp_path.iterdir()) == []
