"""Settings of recursive sampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ..checks import check_bounds, check_choice

FeedbackSource = Literal["both", "colour", "coordinates", "none"]
FEEDBACK_SOURCES: tuple[str, ...] = get_args(FeedbackSource)


@dataclass(frozen=True)
class RecursionConfig:
    """What is fed back from the reconstruction, and how often."""

    feedback: FeedbackSource = "both"
    """Renders that the network sees in the next step: both: colours and canonical coordinates, as
    in the paper; colour or coordinates: zeros instead of the other; none: zeros instead of both,
    and one reconstruction at the end."""
    every: int = 1
    """Reconstruct after every n-th step, and after the last one; steps between keep the latest
    feedback. 1 is as in the paper."""

    def __post_init__(self):
        check_choice("feedback", self.feedback, FEEDBACK_SOURCES)
        check_bounds(self, "feedback", every=(1, 1000))
