"""Progress as a callback: every long loop reports its steps and can be cancelled at each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from .errors import Cancelled

T = TypeVar("T")


@dataclass(frozen=True)
class ProgressEvent:
    """One report of a running stage."""

    stage: str
    """What is being done, as a verb: "rendering", "carving"."""
    step: int
    """Steps finished, 0..total."""
    total: int
    """Steps of the whole stage, at least 1."""
    preview: Callable[[], Any] | None = None
    """Makes a preview image (H, W, 3) in 0..1 when called; costs nothing when nobody looks."""


class Progress:
    """Where a stage reports to. Silent and never cancelled by default.

    Args:
        report: called with each `ProgressEvent`.
        is_cancelled: asked before each report; True makes the stage raise `Cancelled`.
    """

    def __init__(
        self,
        report: Callable[[ProgressEvent], None] | None = None,
        is_cancelled: Callable[[], bool] | None = None,
    ):
        self._report = report
        self._is_cancelled = is_cancelled

    def also_cancelled_by(self, is_cancelled: Callable[[], bool]) -> Progress:
        """A progress that reports to the same place and is cancelled by either."""
        own = self._is_cancelled
        return Progress(self._report, lambda: is_cancelled() or (own is not None and own()))

    def check(self, stage: str) -> None:
        """Raises `Cancelled` if the user asked to stop."""
        if self._is_cancelled is not None and self._is_cancelled():
            raise Cancelled(stage)

    def update(
        self, stage: str, step: int, total: int, preview: Callable[[], Any] | None = None
    ) -> None:
        """Reports `step` of `total` finished steps; raises `Cancelled` if so asked."""
        self.check(stage)
        if self._report is not None:
            self._report(ProgressEvent(stage, step, max(total, 1), preview))

    def track(self, items: Iterable[T], stage: str, total: int) -> Iterator[T]:
        """Yields the items, reporting before the first and after each one."""
        self.update(stage, 0, total)
        for step, item in enumerate(items, 1):
            yield item
            self.update(stage, step, total)


SILENT = Progress()
