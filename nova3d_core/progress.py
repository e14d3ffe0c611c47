"""Progress callbacks: every long loop reports its steps and can be cancelled at each step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from .errors import Cancelled

T = TypeVar("T")


@dataclass(frozen=True)
class ProgressEvent:
    """One progress report of a running stage."""

    stage: str
    """Name of the stage as a present participle: "rendering", "carving"."""
    step: int
    """Finished steps, 0..total."""
    total: int
    """Total number of steps, at least 1."""
    preview: Callable[[], Any] | None = None
    """Renders a preview image (H, W, 3) in 0..1 on demand."""


class Progress:
    """Receives progress reports and checks for cancellation; does neither by default.

    Args:
        report: called with each `ProgressEvent`.
        is_cancelled: called before each report; if it returns True, the stage raises `Cancelled`.
    """

    def __init__(
        self,
        report: Callable[[ProgressEvent], None] | None = None,
        is_cancelled: Callable[[], bool] | None = None,
    ):
        self._report = report
        self._is_cancelled = is_cancelled

    def with_cancellation(self, is_cancelled: Callable[[], bool]) -> Progress:
        """A progress with the same reports that is cancelled by either condition."""
        own = self._is_cancelled
        return Progress(self._report, lambda: is_cancelled() or (own is not None and own()))

    def without_reports(self) -> Progress:
        """A progress that only checks for cancellation, for stages within a step."""
        return Progress(None, self._is_cancelled)

    def with_reports(self, report: Callable[[ProgressEvent], None] | None, stage: str) -> Progress:
        """A progress with other reports, or none, whose cancellation is one of `stage`."""

        def is_cancelled() -> bool:
            self.check(stage)  # raises Cancelled
            return False

        return Progress(report, is_cancelled)

    def check(self, stage: str) -> None:
        """Raises `Cancelled` if the run was cancelled."""
        if self._is_cancelled is not None and self._is_cancelled():
            raise Cancelled(stage)

    def update(
        self, stage: str, step: int, total: int, preview: Callable[[], Any] | None = None
    ) -> None:
        """Reports `step` of `total` finished steps; raises `Cancelled` if the run was cancelled."""
        self.check(stage)
        if self._report is not None:
            self._report(ProgressEvent(stage, step, max(total, 1), preview))

    def track(self, items: Iterable[T], stage: str, total: int) -> Iterator[T]:
        """Yields the items; reports before the first and after each one."""
        self.update(stage, 0, total)
        for step, item in enumerate(items, 1):
            yield item
            self.update(stage, step, total)


SILENT = Progress()
