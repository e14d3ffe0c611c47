"""Check of the cameras against common mistakes: order of the images, elevation, repeated images.

The declared cameras compete with hypotheses about what the user may have meant. A hypothesis must
fit much better to be reported: wrong poses and views that contradict each other are ordinary input,
for which the declared cameras still fit best. Where a hypothesis fits equally well (a level
orthographic orbit in reversed order, a surface of revolution at any elevation), the mistake cannot
be detected, and a note says so. See docs/design-notes/028-camera-hypotheses.md.
"""

from __future__ import annotations

import logging
import weakref
from dataclasses import dataclass

from torch import Tensor

from ...errors import InputError
from ...progress import SILENT, Progress
from ...views import Views
from .consistency import MIN_TEXTURE, ColourScorer, ConsistencyScorer
from .hypotheses import (
    COARSE_ELEVATION_STEP_DEG,
    FINE_ELEVATION_STEP_DEG,
    MAX_ELEVATION_CHANGE_DEG,
    Hypothesis,
    clockwise_hypothesis,
    elevation_hypotheses,
    elevation_pattern_hypotheses,
    order_hypotheses,
    swap_hypotheses,
)
from .repeated import check_repeated

logger = logging.getLogger(__name__)

STAGE = "checking cameras"
MIN_VIEWS = 3
"""The silhouettes of two views do not distinguish the hypotheses."""
MIN_SCORE = 0.0015
"""Cameras with a smaller silhouette score fit. Exact ones: 0.0003 where masks are sharp; poses off
by 2 degrees and views of a model: up to 0.017, where no hypothesis fits better; a wrong order or an
elevation off by 30 degrees: 0.002 for nearly round objects, up to 0.2 for thin ones."""
LIKELY_RATIO, SURE_RATIO = 0.6, 0.2
"""A hypothesis with a score below these ratios of the declared one's is likely, or sure. True
hypotheses: 0.01 to 0.2 for exact images, up to 0.65 for noisy ones; false ones: 0.8 and more."""
MIN_SURE_SCORE = 0.015
MIN_CONTRADICTION = 0.008
"""Score of one image in all views, above which no object can look like this."""
MAX_PLAUSIBLE_SCORE = 0.03
"""Cameras with a larger score do not fit, however bad the declared ones are."""
MIN_ELEVATION_ERROR_DEG = 10
"""Smaller errors of the elevation are ordinary pose errors, which the fusion corrects."""
TIE_SCORE, TIE_RATIO = 0.002, 1.3
"""Scores that differ by less than these are equal."""
LIKELY_COLOUR_RATIO = 0.8
"""The same for colour scores. True hypotheses: 0.3 to 0.7; false ones: 1.0 and more."""
_SUSPECTS = 5
"""Views among which swapped pairs are searched."""
_MEMORY = 8
"""Verdicts kept, so that the nodes of a graph check the same views once."""


@dataclass(frozen=True)
class CameraVerdict:
    """Result of `judge_cameras`."""

    problem: str = ""
    """What is wrong, without a full stop; empty if the cameras fit."""
    hint: str = ""
    is_sure: bool = False
    """Whether the views cannot be right; else they may be."""
    notes: tuple[str, ...] = ()
    """What cannot be known from these views, one sentence each."""

    @property
    def error(self) -> InputError:
        """The problem as an error."""
        return InputError(f"{self.problem}.", self.hint)


def check_cameras(views: Views, progress: Progress = SILENT) -> CameraVerdict:
    """Raises InputError for views that cannot belong to their cameras; warns if it is unlikely.

    Args:
        views: with masks, on the CPU.
        progress: reports each hypothesis.

    Raises:
        InputError: other cameras fit the views far better; the error names them.
        Cancelled: on request.
    """
    verdict = judge_cameras(views, progress)
    if verdict.is_sure:
        raise verdict.error
    if verdict.problem:
        logger.warning("%s", verdict.error)
    return verdict


def warn_about_cameras(views: Views, progress: Progress = SILENT) -> None:
    """Warns about views that `check_cameras` refuses or warns about; for views not fused yet."""
    problem = judge_cameras(views, progress)
    if problem.problem:
        logger.warning("%s", problem.error)


def judge_cameras(views: Views, progress: Progress = SILENT) -> CameraVerdict:
    """Compares the cameras of views with common mistakes; the same views are judged once.

    Args:
        views: V views with masks; without an object in each mask, or with fewer than three views,
            the verdict is empty.
        progress: reports each hypothesis.
    """
    if views.masks is None or len(views) < MIN_VIEWS:
        return CameraVerdict()
    key = (views.masks, views.cameras.world_to_camera, views.colour)
    known = _MEMO.find(key)
    if known is None:
        known = _judge(views.to("cpu"), progress)
        _MEMO.add(key, known)
    return known


class _VerdictMemo:
    """Verdicts of the most recent views, found by the identity of their tensors."""

    def __init__(self):
        self._entries: list[tuple[tuple[weakref.ref[Tensor], ...], CameraVerdict]] = []

    def find(self, key: tuple[Tensor, ...]) -> CameraVerdict | None:
        for references, verdict in self._entries:
            pairs = zip(references, key, strict=True)
            if all(reference() is tensor for reference, tensor in pairs):
                return verdict
        return None

    def add(self, key: tuple[Tensor, ...], verdict: CameraVerdict) -> None:
        entry = (tuple(weakref.ref(tensor) for tensor in key), verdict)
        self._entries = [entry, *self._entries[: _MEMORY - 1]]


_MEMO = _VerdictMemo()


def _judge(views: Views, progress: Progress) -> CameraVerdict:
    if not bool((views.masks > 0.5).flatten(1).any(dim=1).all()):
        return CameraVerdict()
    scorer = ConsistencyScorer.of(views)
    declared = scorer.silhouette_score(views.cameras.world_to_camera)
    repeated = check_repeated(views)
    if repeated is not None:
        is_sure = repeated.is_every_view and declared > MIN_CONTRADICTION
        is_round = repeated.is_plain or (repeated.is_mirrored and declared <= MIN_SCORE)
        if is_sure or not is_round:
            return CameraVerdict(repeated.problem, repeated.hint, is_sure)
    if declared > MIN_SCORE:
        score, best = _best_hypothesis(views, scorer, declared, progress)
        is_small = 0 < abs(best.elevation_change_deg) < MIN_ELEVATION_ERROR_DEG
        if not is_small and score < min(LIKELY_RATIO * declared, MAX_PLAUSIBLE_SCORE):
            is_sure = score < SURE_RATIO * declared and declared > MIN_SURE_SCORE
            return CameraVerdict(best.fault, best.hint, is_sure)
    if declared > MAX_PLAUSIBLE_SCORE:
        return CameraVerdict()  # nothing fits: `check_silhouettes` names the views
    return _judge_ties(views, scorer, declared)


def _best_hypothesis(
    views: Views, scorer: ConsistencyScorer, declared: float, progress: Progress
) -> tuple[float, Hypothesis]:
    """The hypothesis with the best silhouette score; the first among equals.

    Swapped views are tried if no other hypothesis explains the declared score.
    """
    cameras, step = views.cameras, COARSE_ELEVATION_STEP_DEG
    changes = range(-MAX_ELEVATION_CHANGE_DEG, MAX_ELEVATION_CHANGE_DEG + 1, step)
    hypotheses = [
        *order_hypotheses(cameras),
        *elevation_pattern_hypotheses(cameras),
        *elevation_hypotheses(cameras, changes),
    ]
    scored = []
    for hypothesis in progress.track(hypotheses, STAGE, len(hypotheses)):
        scored.append((scorer.silhouette_score(hypothesis.world_to_camera), hypothesis))
    score, best = min(scored, key=lambda pair: pair[0])
    if best.elevation_change_deg:
        around = best.elevation_change_deg
        fine = range(around - step + 1, around + step, 1)
        fine = [change for change in fine if (change - around) % FINE_ELEVATION_STEP_DEG == 0]
        for hypothesis in elevation_hypotheses(cameras, fine):
            scored.append((scorer.silhouette_score(hypothesis.world_to_camera), hypothesis))
    score = min(score for score, _ in scored)
    if score > LIKELY_RATIO * declared:
        for hypothesis in swap_hypotheses(cameras, scorer.suspects(_SUSPECTS)):
            scored.append((scorer.silhouette_score(hypothesis.world_to_camera), hypothesis))
        score = min(score for score, _ in scored)
    # equal up to rounding: the first is the most common mistake
    return next(pair for pair in scored if pair[0] <= score * 1.02 + 1e-5)


def _judge_ties(views: Views, scorer: ConsistencyScorer, declared: float) -> CameraVerdict:
    """Colours decide among the hypotheses whose silhouettes fit as well as the declared cameras."""
    notes = []
    clockwise = clockwise_hypothesis(views.cameras)
    if _is_tie(scorer.silhouette_score(clockwise.world_to_camera), declared):
        colours = scorer.colour_scorer()
        ratio = _colour_ratio(colours, views, clockwise)
        if ratio is not None and ratio < LIKELY_COLOUR_RATIO:
            return CameraVerdict(f"the colours do not match: {clockwise.fault}", clockwise.hint)
        if ratio is None or ratio < 1.0 / LIKELY_COLOUR_RATIO:
            notes.append(
                "Whether the images are in the order of the cameras or in the reversed one cannot "
                "be known: both fit equally well."
            )
    raised = elevation_hypotheses(
        views.cameras, (-COARSE_ELEVATION_STEP_DEG, COARSE_ELEVATION_STEP_DEG)
    )
    scores = [scorer.silhouette_score(each.world_to_camera) for each in raised]
    if scores and _is_tie(min(scores), declared):
        notes.append(
            "Whether the elevation of the cameras is right cannot be known: other elevations fit "
            "the silhouettes equally well, as for a surface of revolution."
        )
    return CameraVerdict(notes=tuple(notes))


def _is_tie(score: float, declared: float) -> bool:
    return score < max(TIE_RATIO * declared, declared + TIE_SCORE)


def _colour_ratio(colours: ColourScorer, views: Views, hypothesis: Hypothesis) -> float | None:
    """Colour score of a hypothesis over the declared one's; None without texture."""
    if colours.texture < MIN_TEXTURE:
        return None
    declared = colours.score(views.cameras.world_to_camera)
    other = colours.score(hypothesis.world_to_camera)
    if declared is None or other is None or declared <= 0.0:
        return None
    return other / declared
