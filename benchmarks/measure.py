"""What benchmarks measure beside the ruler's figures: memory, the machine, targets met or missed.

Peak memory is taken from outside, while a stage reports its progress.
"""

from __future__ import annotations

import json
import platform
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from nova3d_core.progress import Progress, ProgressEvent

SAMPLE_EVERY_S = 0.01
LOOK_FOR_WORKERS_EVERY_S = 0.1
"""Finding workers reads the whole table of processes, which takes a core's time from the run."""

Measured = Mapping[str, Mapping[str, Mapping[str, float | None]]]
"""Condition -> object -> name of the figure -> its value; None or absent: there is none."""
EVERY = "every"
"""In place of a condition: all that were run, taken together."""


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
        looked, workers = float("-inf"), 0.0
        while not self._stop.is_set():
            if time.perf_counter() - looked >= LOOK_FOR_WORKERS_EVERY_S:
                looked, workers = time.perf_counter(), self._workers_mib()
            now = self._process.memory_info().rss / 2**20 + workers
            self.peak_mib[self._stage] = max(now, self.peak_mib.get(self._stage, 0.0))
            time.sleep(SAMPLE_EVERY_S)

    def _workers_mib(self) -> float:
        total = 0
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


def write_figures(folder: Path, figures: Mapping[str, Any], table: str) -> None:
    """Writes figures.json, which also says on what machine, and table.md."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": machine(), **figures}, indent=1) + "\n"
    (folder / "figures.json").write_text(text, encoding="utf-8")
    (folder / "table.md").write_text(table, encoding="utf-8")


@dataclass(frozen=True)
class Target:
    """What a figure shall reach."""

    condition: str
    """A condition's name, or "every"."""
    figure: str
    over: str
    """Of the objects: mean, worst, or one object's name; "mean / clean" and "worst / clean" divide
    by the clean condition's mean, or each object's figure by its own clean one."""
    comparison: Literal["<=", "<", ">="]
    value: float


def targets_table(targets: Sequence[Target], measured: Measured, objects: Sequence[str]) -> str:
    """A Markdown table: each target, what was measured over the objects, and the verdict."""
    rows = [["condition", "figure", "over", "target", "measured", "verdict"], ["---"] * 6]
    for target in targets:
        value, found = judged(target, measured, objects)
        wanted = f"{target.comparison} {target.value:g}"
        rows.append([target.condition, target.figure, target.over, wanted, value, found])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def judged(target: Target, measured: Measured, objects: Sequence[str]) -> tuple[str, str]:
    """The measured value in words, and "met", "missed" or how much of it was not measured.

    The value covers what was measured; the verdict waits for all of it.
    """
    over, _, base = target.over.partition(" / ")
    conditions = list(measured) if target.condition == EVERY else [target.condition]
    names = list(objects) if over in ("mean", "worst") else [over]
    pairs: list[tuple[str, float, float]] = []  # object, value, what to divide by
    for condition in conditions:
        for name in names:
            value = _figure(measured, condition, name, target.figure)
            divisor = _figure(measured, base, name, target.figure) if base else 1.0
            if value is not None and divisor:
                pairs.append((name, value, divisor))
    if not pairs:
        return "-", "not measured"
    label = ""
    if over == "worst":
        pick = min if target.comparison == ">=" else max
        name, value, divisor = pick(pairs, key=lambda pair: pair[1] / pair[2])
        reached, label = value / divisor, f" ({name})"
    else:
        reached = sum(value for _, value, _ in pairs) / sum(divisor for *_, divisor in pairs)
    wanted = len(conditions) * len(names)
    if len(pairs) < wanted:
        return f"{reached:.4g}{label}", f"{len(pairs)} of {wanted} measured"
    met = {
        "<=": reached <= target.value,
        "<": reached < target.value,
        ">=": reached >= target.value,
    }[target.comparison]
    return f"{reached:.4g}{label}", "met" if met else "missed"


def _figure(measured: Measured, condition: str, name: str, figure: str) -> float | None:
    return measured.get(condition, {}).get(name, {}).get(figure)
