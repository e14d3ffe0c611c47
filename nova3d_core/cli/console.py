"""Console output: progress bars and warnings on stderr, results on stdout."""

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

PLAIN_INTERVAL_S = 5.0
"""Seconds between two lines of progress if stderr is not a terminal."""


def prepare_streams() -> None:
    """Makes the standard streams safe to write to with any encoding, and if they are closed.

    The descriptor of a closed standard stream would be reused by the next opened file, which would
    then receive what libraries write to stderr: such descriptors are redirected to the null device.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor, which is this one
    if sys.stdout is None:  # libraries write to it without a check
        sys.stdout = _null_stream()
    if sys.stderr is None:
        sys.stderr = _null_stream()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _null_stream() -> io.TextIOWrapper:
    """A text stream to the null device."""
    return open(os.devnull, "w", encoding="utf-8")


def print_out(text: str) -> None:
    """Prints a line to stdout, if there is one.

    Raises:
        BrokenPipeError: the reader closed the pipe.
        StageError: stdout cannot be written, for example because the disk is full.
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
    """Prints a document to stdout as JSON; undefined values must be None."""
    print_out(json.dumps(document, indent=2, allow_nan=False))


def print_err(text: str) -> None:
    """Prints a line to stderr, if it can be written."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            sys.stderr.write(text + "\n")
            sys.stderr.flush()


def report_error(error: Exception) -> int:
    """Prints the error in one line to stderr; returns the exit code.

    A broken pipe (`| head`) is not an error and prints nothing.
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
    """Flushes stdout; returns the resulting exit code."""
    error = _flush_stdout()
    return 0 if error is None else report_error(error)


def _flush_stdout() -> OSError | None:
    """Flushes stdout; redirects it to the null device and returns the error if that fails."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        _silence_stdout()
        return error
    return None


def _silence_stdout() -> None:
    """Redirects stdout to the null device, because Python flushes it again at exit."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def log_to_stderr() -> None:
    """Prints warnings of the package to stderr, each as one line."""
    logging.raiseExceptions = False  # a failed log message must not abort the command
    handler = logging.NullHandler() if sys.stderr is None else _TqdmHandler(sys.stderr)
    logging.basicConfig(level=logging.WARNING, format="note: %(message)s", handlers=[handler])


class _TqdmHandler(logging.StreamHandler):
    """Prints log messages above an active progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm = sys.modules.get("tqdm")
        context = nullcontext()
        if tqdm is not None:
            context = tqdm.tqdm.external_write_mode(file=sys.stderr)
        with context:
            super().emit(record)


class ProgressBars:
    """One tqdm bar per stage on stderr, closed by its last step or by the next stage.

    Prints plain lines if tqdm is not installed, and nothing without stderr.
    """

    def __init__(self):
        self._bar: Any = None
        self._stage = None

    @property
    def progress(self) -> Progress:
        """The `Progress` that updates these bars."""
        return Progress(self._show)

    def _show(self, event: ProgressEvent) -> None:
        is_complete = event.step >= event.total
        is_repeated = is_complete and self._bar is None and event.stage == self._stage
        if sys.stderr is None or is_repeated:
            return
        with suppress(OSError, ValueError):  # a bar that cannot be drawn must not abort the work
            if self._bar is None or event.stage != self._stage or event.step < self._bar.n:
                self.close()
                self._stage = event.stage
                self._bar = _bar(event.stage, event.total)
            self._bar.update(event.step - self._bar.n)
            if is_complete:
                self.close()  # ends its line: the result may be printed next

    def close(self) -> None:
        """Closes the active bar."""
        if self._bar is not None:
            bar, self._bar = self._bar, None
            with suppress(OSError, ValueError):  # stderr may be closed
                bar.close()


def _bar(stage: str, total: int) -> Any:
    """A tqdm bar, or its plain-text replacement."""
    try:
        from tqdm import tqdm
    except ImportError:
        return _PlainBar(stage, total)
    # update rarely in a log file, smoothly in a terminal
    interval_s = 0.1 if sys.stderr.isatty() else PLAIN_INTERVAL_S
    return tqdm(total=total, desc=stage, file=sys.stderr, mininterval=interval_s)


class _PlainBar:
    """Replaces a tqdm bar: a line at the start, at the end and every few seconds."""

    def __init__(self, stage: str, total: int):
        self.n = 0
        self._stage, self._total = stage, total
        self._write()

    def update(self, steps: int) -> None:
        """Advances by a number of steps."""
        self.n += steps
        if self.n >= self._total or time.monotonic() - self._written >= PLAIN_INTERVAL_S:
            self._write()

    def close(self) -> None:
        """Does nothing; the interface of tqdm."""

    def _write(self) -> None:
        self._written = time.monotonic()
        print_err(f"{self._stage}: {self.n}/{self._total}")
