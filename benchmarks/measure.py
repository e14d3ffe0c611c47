"""Seconds and peak memory of each stage, taken from outside while a stage reports its progress."""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from nova3d_core.progress import Progress, ProgressEvent

SAMPLE_EVERY_S = 0.01


class StageMemory:
    """Peak memory of this process and its workers in each stage, in MiB."""

    def __init__(self):
        self.peak_mib: dict[str, float] = {}
        self._stage = "start"
        self._process = psutil.Process()
        self._stop = threading.Event()

    @property
    def progress(self) -> Progress:
        """A progress whose events tell which stage is running."""
        return Progress(self._enter)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Samples in a thread while the `with` block runs."""
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _enter(self, event: ProgressEvent) -> None:
        self._stage = event.stage

    def _watch(self) -> None:
        while not self._stop.is_set():
            now = self._resident_mib()
            self.peak_mib[self._stage] = max(now, self.peak_mib.get(self._stage, 0.0))
            time.sleep(SAMPLE_EVERY_S)

    def _resident_mib(self) -> float:
        total = self._process.memory_info().rss
        for child in self._process.children(recursive=True):
            try:
                total += child.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return total / 2**20


def machine() -> dict[str, str | int]:
    """What the figures were taken on, in words that name no particular machine."""
    import torch

    return {
        "processor": platform.machine(),
        "cores": psutil.cpu_count() or 0,
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
