"""Measurements shared by the benchmarks: peak memory, the machine, targets.

Peak memory is sampled in a thread while the stages report their progress.
"""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import psutil
from results import Table

from nova3d_core.progress import Progress, ProgressEvent

SAMPLE_INTERVAL_S = 0.01
WORKER_SCAN_INTERVAL_S = 0.1
"""Listing child processes is expensive."""

Measured = Mapping[str, Mapping[str, Mapping[str, float | bool | str | None]]]
"""Perturbation -> object -> name of the metric -> its value; None or absent: undefined."""
EVERY = "every"
"""Instead of a perturbation: all of them."""


class StageMemory:
    """Peak memory of this process and its child processes in each stage, in MiB."""

    def __init__(self):
        self.peak_mib: dict[str, float] = {}
        self._stage = "start"
        self._process = psutil.Process()
        self._stop = threading.Event()

    @property
    def progress(self) -> Progress:
        """A progress whose events set the current stage."""
        return Progress(self._enter)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Samples in a thread during the `with` block."""
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
        last_scan, workers = float("-inf"), 0.0
        while not self._stop.is_set():
            if time.perf_counter() - last_scan >= WORKER_SCAN_INTERVAL_S:
                last_scan, workers = time.perf_counter(), self._workers_mib()
            now = self._process.memory_info().rss / 2**20 + workers
            self.peak_mib[self._stage] = max(now, self.peak_mib.get(self._stage, 0.0))
            time.sleep(SAMPLE_INTERVAL_S)

    def _workers_mib(self) -> float:
        total = 0
        for child in self._process.children(recursive=True):
            try:
                total += child.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return total / 2**20


def machine() -> dict[str, str | int]:
    """Hardware and versions, without anything that identifies the machine."""
    import torch

    return {
        "processor": platform.machine(),
        "cores": psutil.cpu_count() or 0,
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


@dataclass(frozen=True)
class Target:
    """Target value of a metric."""

    perturbation: str
    """Name of a perturbation, or "every"."""
    metric: str
    over: str
    """Reduction over the objects: mean, worst, or the name of an object; "mean / clean" divides by
    the mean of the clean views, "worst / clean" each object's value by its clean one."""
    comparison: Literal["<=", "<", ">="]
    value: float


def targets_table(targets: Sequence[Target], measured: Measured, objects: Sequence[str]) -> Table:
    """A table of the targets, the measured values and the verdicts."""
    rows = []
    for target in targets:
        value, verdict = check_target(target, measured, objects)
        limit = f"{target.comparison} {target.value:g}"
        rows.append([target.perturbation, target.metric, target.over, limit, value, verdict])
    headings = ("perturbation", "metric", "over", "target", "measured", "verdict")
    return Table([(heading, "") for heading in headings], rows, "Targets")


def check_target(target: Target, measured: Measured, objects: Sequence[str]) -> tuple[str, str]:
    """The measured value as text, and "met", "missed" or how many values are missing.

    The value covers what was measured; the verdict needs all objects.
    """
    over, _, base = target.over.partition(" / ")
    every = target.perturbation == EVERY
    perturbations = list(measured) if every else [target.perturbation]
    names = list(objects) if over in ("mean", "worst") else [over]
    terms: list[tuple[str, float, float]] = []  # object, value, divisor
    for perturbation in perturbations:
        for name in names:
            value = _metric(measured, perturbation, name, target.metric)
            divisor = _metric(measured, base, name, target.metric) if base else 1.0
            if value is not None and divisor:
                terms.append((name, value, divisor))
    if not terms:
        return "-", "not measured"
    label = ""
    if over == "worst":
        select = min if target.comparison == ">=" else max
        name, value, divisor = select(terms, key=lambda term: term[1] / term[2])
        result, label = value / divisor, f" ({name})"
    else:
        result = sum(value for _, value, _ in terms) / sum(divisor for *_, divisor in terms)
    expected = len(perturbations) * len(names)
    if len(terms) < expected:
        return f"{result:.4g}{label}", f"{len(terms)} of {expected} measured"
    met = {
        "<=": result <= target.value,
        "<": result < target.value,
        ">=": result >= target.value,
    }[target.comparison]
    return f"{result:.4g}{label}", "met" if met else "missed"


def _metric(measured: Measured, perturbation: str, name: str, metric: str) -> float | None:
    return measured.get(perturbation, {}).get(name, {}).get(metric)
