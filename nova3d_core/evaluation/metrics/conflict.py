"""How well conflict maps find the places where views contradict each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...checks import check_finite, check_range, check_shape

FOREGROUND = 0.5
"""Pixels whose mask is above this count."""
HIGH = 0.5
"""A conflict above this all but excuses a pixel from the fusion."""


@dataclass(frozen=True)
class ConflictFigures:
    """What conflict maps say about contradictions whose places are known."""

    auc: float | None
    """The mean of `auc_by_view`; None where no view holds a contradiction."""
    auc_by_view: dict[int, float]
    """For each view that holds both, the chance that a contradicting foreground pixel has a higher
    conflict than another one; ties count half."""
    mean: float | None
    """Mean conflict over the foreground of all views; None without foreground."""
    mean_view0: float | None
    """The same of view 0, the input image."""
    share_high: float | None
    """Share of all foreground pixels with a conflict above 0.5."""

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain containers; view numbers become text, as JSON has them."""
        return {
            "auc": self.auc,
            "mean": self.mean,
            "mean_view0": self.mean_view0,
            "share_high": self.share_high,
            "auc_by_view": {str(view): auc for view, auc in self.auc_by_view.items()},
        }


def conflict_auc(conflict: Tensor, blob_masks: Tensor, masks: Tensor) -> ConflictFigures:
    """Figures of V conflict maps, on foreground pixels only.

    Args:
        conflict: (V, H, W) in 0..1.
        blob_masks: (V, H, W) bool: where a view truly contradicts the others.
        masks: (V, H, W) in 0..1: the object; pixels above 0.5 count.

    Raises:
        InputError: on shapes that differ, NaN, or a conflict out of range.
    """
    sizes = check_shape("conflict", conflict, "V H W")
    check_shape("blob_masks", blob_masks, "V H W", **sizes)
    check_shape("masks", masks, "V H W", **sizes)
    check_finite("conflict", conflict)
    check_range("conflict", conflict, 0.0, 1.0)
    conflict = conflict.detach().cpu().double()
    foreground = masks.cpu() > FOREGROUND
    blobs = blob_masks.cpu().bool() & foreground
    by_view: dict[int, float] = {}
    for view in range(len(conflict)):
        inside = foreground[view]
        if bool(blobs[view].any()) and not bool(blobs[view][inside].all()):
            by_view[view] = area_under_roc(conflict[view][inside], blobs[view][inside])
    seen = conflict[foreground]
    return ConflictFigures(
        sum(by_view.values()) / len(by_view) if by_view else None,
        by_view,
        _mean(seen),
        _mean(conflict[0][foreground[0]]),
        _mean((seen > HIGH).double()),
    )


def area_under_roc(scores: Tensor, positive: Tensor) -> float:
    """The chance that a positive has a higher score than a negative; ties count half.

    Exact, from ranks (Mann and Whitney).

    Args:
        scores: (N,) any numbers.
        positive: (N,) bool, with at least one True and one False.
    """
    from scipy.stats import rankdata

    ranks = rankdata(scores.numpy())
    chosen = positive.numpy()
    count = int(chosen.sum())
    above = float(ranks[chosen].sum()) - count * (count + 1) / 2
    return above / (count * (len(ranks) - count))


def _mean(values: Tensor) -> float | None:
    return float(values.mean()) if len(values) else None
