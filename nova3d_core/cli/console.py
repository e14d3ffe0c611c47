"""What the command line shows: bars and warnings on stderr, results on stdout."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import time
import traceback
from contextlib import nullcontext, suppress
from typing import Any

from ..errors import StageError
from ..progress import Progress, ProgressEvent
from .failures import BROKEN_PIPE, describe_error, first_line, traceback_enabled

LINES_EVERY_S = 5.0
"""Seconds between two lines of progress where nobody watches a bar move."""


def prepare_streams() -> None:
    """Makes standard streams safe to write to, whatever their encoding, or if they are closed.

    A standard stream that the parent closed leaves its number to the next file that is opened, and
    whatever a library writes to stderr would end up there: such numbers are taken first.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    if sys.stdout is None:  # libraries write to it without a question
        sys.stdout = _null_stream()
    if sys.stderr is None:
        sys.stderr = _null_stream()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _null_stream() -> io.TextIOWrapper:
    """A text stream that goes nowhere."""
    return open(os.devnull, "w", encoding="utf-8")


def print_out(text: str) -> None:
    """Writes a line to stdout, if there is one.

    Raises:
        BrokenPipeError: its reader went away.
        StageError: it cannot be written: a full disk.
    """
    if sys.stdout is None:
        return
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StageError("writing the result", f"stdout: {first_line(error)}.") from error


def print_json(document: Any) -> None:
    """Writes a document to stdout as JSON; a figure that does not exist is null."""
    print_out(json.dumps(document, indent=2, allow_nan=False))


def print_err(text: str) -> None:
    """Writes a line to stderr, if there is one that can be written to."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            sys.stderr.write(text + "\n")
            sys.stderr.flush()


def report_error(error: Exception) -> int:
    """Says in one line what went wrong; returns the exit code.

    A reader of stdout that went away (`| head`) is no error, so nothing is said of it.
    """
    if isinstance(error, BrokenPipeError):
        _silence_stdout()
        return BROKEN_PIPE
    if traceback_enabled():
        print_err("".join(traceback.format_exception(error)).rstrip())
    line, code = describe_error(error)
    print_err(line if line.startswith("internal error") else f"error: {line}")
    _flush_stdout()
    return code


def close_stdout() -> int:
    """Writes out what stdout still holds; returns the exit code that this gives."""
    error = _flush_stdout()
    return 0 if error is None else report_error(error)


def _flush_stdout() -> OSError | None:
    """Why what stdout still holds cannot be written, in which case it goes nowhere."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        _silence_stdout()
        return error
    return None


def _silence_stdout() -> None:
    """Lets what is left for stdout go nowhere: Python flushes it once more at the end."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def log_to_stderr() -> None:
    """Shows the package's warnings, each as one plain line."""
    logging.raiseExceptions = False  # a message that cannot be written ends nothing
    handler = logging.NullHandler() if sys.stderr is None else _BetweenBars(sys.stderr)
    logging.basicConfig(level=logging.WARNING, format="note: %(message)s", handlers=[handler])


class _BetweenBars(logging.StreamHandler):
    """Writes lines of their own, where a bar may stand."""

    def emit(self, record: logging.LogRecord) -> None:
        loaded = sys.modules.get("tqdm")
        aside = nullcontext()
        if loaded is not None:
            aside = loaded.tqdm.external_write_mode(file=sys.stderr)
        with aside:
            super().emit(record)


class ProgressBars:
    """One tqdm bar for each stage, on stderr; a new stage closes the bar before it.

    Without tqdm each stage gets plain lines; without stderr nothing is shown.
    """

    def __init__(self):
        self._bar: Any = None
        self._stage = None

    @property
    def progress(self) -> Progress:
        """The progress that draws these bars."""
        return Progress(self._show)

    def _show(self, event: ProgressEvent) -> None:
        if sys.stderr is None:
            return
        with suppress(OSError, ValueError):  # a bar that cannot be drawn ends no work
            if self._bar is None or event.stage != self._stage or event.step < self._bar.n:
                self.close()
                self._stage = event.stage
                self._bar = _bar(event.stage, event.total)
            self._bar.update(event.step - self._bar.n)

    def close(self) -> None:
        """Finishes the bar that is open."""
        if self._bar is not None:
            bar, self._bar = self._bar, None
            with suppress(OSError, ValueError):  # stderr may be gone
                bar.close()


def _bar(stage: str, total: int) -> Any:
    """A bar of tqdm, or lines that stand in for one."""
    try:
        from tqdm import tqdm
    except ImportError:
        return _Lines(stage, total)
    # a log file gets a line now and then, a terminal a moving bar
    every_s = 0.1 if sys.stderr.isatty() else LINES_EVERY_S
    return tqdm(total=total, desc=stage, file=sys.stderr, mininterval=every_s)


class _Lines:
    """Stands in for a bar: a line at the start, at the end, and every few seconds."""

    def __init__(self, stage: str, total: int):
        self.n = 0
        self._stage, self._total = stage, total
        self._write()

    def update(self, steps: int) -> None:
        """So many steps more are done."""
        self.n += steps
        if self.n >= self._total or time.monotonic() - self._written >= LINES_EVERY_S:
            self._write()

    def close(self) -> None:
        """Nothing is left open."""

    def _write(self) -> None:
        self._written = time.monotonic()
        print_err(f"{self._stage}: {self.n}/{self._total}")
