"""Detection metrics of conflict maps against known inconsistent regions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...checks import check_finite, check_range, check_shape

FOREGROUND_THRESHOLD = 0.5
"""Mask value above which a pixel is foreground."""
HIGH_CONFLICT = 0.5
"""Conflict above which a pixel has almost no weight in the fusion."""


@dataclass(frozen=True)
class ConflictMetrics:
    """Metrics of conflict maps."""

    auc: float | None
    """Mean of `auc_by_view`; None if no view has an inconsistent region."""
    auc_by_view: dict[int, float]
    """Area under the ROC curve over the foreground pixels of each view that has both classes: the
    probability that an inconsistent pixel has a higher conflict than a consistent one; ties count
    half."""
    mean: float | None
    """Mean conflict over the foreground of all views; None without foreground."""
    mean_view0: float | None
    """The same for view 0, the input image."""
    high_fraction: float | None
    """Fraction of all foreground pixels with a conflict above 0.5."""

    def to_dict(self) -> dict[str, Any]:
        """The metrics as plain containers; view indices become strings, as JSON needs them."""
        return {
            "auc": self.auc,
            "mean": self.mean,
            "mean_view0": self.mean_view0,
            "high_fraction": self.high_fraction,
            "auc_by_view": {str(view): auc for view, auc in self.auc_by_view.items()},
        }


def conflict_metrics(conflict: Tensor, blob_masks: Tensor, masks: Tensor) -> ConflictMetrics:
    """Metrics of V conflict maps over foreground pixels.

    Args:
        conflict: (V, H, W) in 0..1.
        blob_masks: (V, H, W) bool ground truth: regions inconsistent with the other views.
        masks: (V, H, W) in 0..1: the object; pixels above 0.5 are foreground.

    Raises:
        InputError: different shapes, NaN, or a conflict out of range.
    """
    sizes = check_shape("conflict", conflict, "V H W")
    check_shape("blob_masks", blob_masks, "V H W", **sizes)
    check_shape("masks", masks, "V H W", **sizes)
    check_finite("conflict", conflict)
    check_range("conflict", conflict, 0.0, 1.0)
    conflict = conflict.detach().cpu().double()
    foreground = masks.cpu() > FOREGROUND_THRESHOLD
    blobs = blob_masks.cpu().bool() & foreground
    by_view: dict[int, float] = {}
    for view in range(len(conflict)):
        inside = foreground[view]
        if bool(blobs[view].any()) and not bool(blobs[view][inside].all()):
            by_view[view] = area_under_roc(conflict[view][inside], blobs[view][inside])
    values = conflict[foreground]
    return ConflictMetrics(
        sum(by_view.values()) / len(by_view) if by_view else None,
        by_view,
        _mean(values),
        _mean(conflict[0][foreground[0]]),
        _mean((values > HIGH_CONFLICT).double()),
    )


def area_under_roc(scores: Tensor, positive: Tensor) -> float:
    """Area under the ROC curve, exact from ranks (Mann-Whitney U); ties count half.

    Args:
        scores: (N,).
        positive: (N,) bool labels, at least one True and one False.
    """
    from scipy.stats import rankdata

    ranks = rankdata(scores.numpy())
    labels = positive.numpy()
    count = int(labels.sum())
    u = float(ranks[labels].sum()) - count * (count + 1) / 2
    return u / (count * (len(ranks) - count))


def _mean(values: Tensor) -> float | None:
    return float(values.mean()) if len(values) else None
