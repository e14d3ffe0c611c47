"""What the command line shows: bars and warnings on stderr, results on stdout."""

from __future__ import annotations

import json
import logging
import sys
from contextlib import nullcontext
from typing import Any

from ..progress import Progress, ProgressEvent


def say(text: str) -> None:
    """Writes a line to stdout."""
    sys.stdout.write(text + "\n")


def say_json(document: Any) -> None:
    """Writes a document to stdout as JSON; a figure that does not exist is null."""
    say(json.dumps(document, indent=2, allow_nan=False))


def complain(text: str) -> None:
    """Writes a line to stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def log_to_stderr() -> None:
    """Shows the package's warnings, each as one plain line."""
    logging.basicConfig(
        level=logging.WARNING, format="note: %(message)s", handlers=[_BetweenBars(sys.stderr)]
    )


class _BetweenBars(logging.StreamHandler):
    """Writes lines of their own, where a bar may stand."""

    def emit(self, record: logging.LogRecord) -> None:
        loaded = sys.modules.get("tqdm")
        aside = loaded.tqdm.external_write_mode(file=sys.stderr) if loaded else nullcontext()
        with aside:
            super().emit(record)


class Bars:
    """One tqdm bar for each stage, on stderr; a new stage closes the bar before it."""

    def __init__(self):
        self._bar = None
        self._stage = None

    @property
    def progress(self) -> Progress:
        """The progress that draws these bars."""
        return Progress(self._show)

    def _show(self, event: ProgressEvent) -> None:
        from tqdm import tqdm

        if self._bar is None or event.stage != self._stage or event.step < self._bar.n:
            self.close()
            self._stage = event.stage
            # a log file gets a line now and then, a terminal a moving bar
            every_s = 0.1 if sys.stderr.isatty() else 5.0
            self._bar = tqdm(
                total=event.total, desc=event.stage, file=sys.stderr, mininterval=every_s
            )
        self._bar.update(event.step - self._bar.n)

    def close(self) -> None:
        """Finishes the bar that is open."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
