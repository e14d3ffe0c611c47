"""Progress reports each step and cancels between two of them."""

from __future__ import annotations

import pytest

from nova3d_core.errors import Cancelled
from nova3d_core.progress import SILENT, Progress


def test_track_reports_before_the_first_and_after_each_item():
    seen = []
    progress = Progress(lambda event: seen.append((event.stage, event.step, event.total)))
    assert list(progress.track("abc", "spelling", 3)) == ["a", "b", "c"]
    assert seen == [("spelling", step, 3) for step in range(4)]


def test_cancel_takes_effect_within_one_step():
    done = []
    progress = Progress(is_cancelled=lambda: len(done) >= 2)
    with pytest.raises(Cancelled, match="counting"):
        for number in progress.track(range(10), "counting", 10):
            done.append(number)
    assert done == [0, 1]


def test_a_preview_is_made_only_when_somebody_looks():
    made = []
    SILENT.update("painting", 1, 2, preview=lambda: made.append(1))
    Progress(lambda event: None).update("painting", 1, 2, preview=lambda: made.append(1))
    assert not made
    Progress(lambda event: event.preview()).update("painting", 1, 2, lambda: made.append(1))
    assert made == [1]
