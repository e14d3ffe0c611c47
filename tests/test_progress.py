"""Progress reports each step and can be cancelled between steps."""

from __future__ import annotations

import pytest

from nova3d_core.errors import Cancelled
from nova3d_core.progress import SILENT, Progress


def test_track_reports_before_the_first_and_after_each_item():
    reported = []
    progress = Progress(lambda event: reported.append((event.stage, event.step, event.total)))
    assert list(progress.track("abc", "spelling", 3)) == ["a", "b", "c"]
    assert reported == [("spelling", step, 3) for step in range(4)]


def test_cancel_takes_effect_within_one_step():
    done = []
    progress = Progress(is_cancelled=lambda: len(done) >= 2)
    with pytest.raises(Cancelled, match="counting"):
        for number in progress.track(range(10), "counting", 10):
            done.append(number)
    assert done == [0, 1]


def test_preview_is_rendered_only_on_demand():
    rendered = []
    SILENT.update("fusing", 1, 2, preview=lambda: rendered.append(1))
    Progress(lambda event: None).update("fusing", 1, 2, preview=lambda: rendered.append(1))
    assert not rendered
    Progress(lambda event: event.preview()).update("fusing", 1, 2, lambda: rendered.append(1))
    assert rendered == [1]
