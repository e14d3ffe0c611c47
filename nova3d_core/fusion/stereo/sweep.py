"""Plane sweep: scores of depth offsets, aggregated over neighbouring patches, and their peaks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .constants import NO_SCORE


@dataclass(frozen=True, eq=False)
class Peaks:
    """Best depth offset of M patches."""

    offset: Tensor
    """(M,) world distance along the ray from the present surface."""
    score: Tensor
    """(M,) mean correlation there; -1 without a peak inside the band."""
    curvature: Tensor
    """(M,) second difference of the score at the peak, positive, per squared world unit."""
    margin: Tensor
    """(M,) how far the score exceeds that of the best other peak."""


def aggregate(scores: Tensor, index: Tensor, shape: tuple[int, int, int], radius: int) -> Tensor:
    """(M, D) mean scores over the patches in a square around each patch.

    Args:
        scores: (M, D), -1 where there is none.
        index: (M,) flat index of each patch in the grid of all patches.
        shape: views, rows and columns of that grid.
        radius: of the square, in patches.
    """
    views, rows, columns = shape
    depths = scores.shape[1]
    valid = (scores > NO_SCORE).to(scores)
    grid = scores.new_zeros(views * rows * columns, 2 * depths)
    grid[index] = torch.cat([scores * valid, valid], dim=1)
    grid = grid.view(views, rows, columns, -1).permute(0, 3, 1, 2)
    side = 2 * radius + 1
    grid = torch.nn.functional.avg_pool2d(grid, side, 1, radius)
    total, count = grid.permute(0, 2, 3, 1).reshape(-1, 2 * depths)[index].split(depths, dim=1)
    return torch.where(valid > 0, total / count.clamp_min(1e-6), NO_SCORE)


def find_peaks(scores: Tensor, offsets: Tensor) -> Peaks:
    """The highest peak of scores (M, D) at equidistant offsets (D,), refined by a parabola."""
    step = float(offsets[1] - offsets[0])
    middle, before, after = scores[:, 1:-1], scores[:, :-2], scores[:, 2:]
    is_peak = (middle >= before) & (middle >= after) & (before > NO_SCORE) & (after > NO_SCORE)
    candidates = torch.where(is_peak, middle, NO_SCORE)
    best, at = candidates.max(dim=1)
    far = (torch.arange(candidates.shape[1], device=at.device) - at[:, None]).abs() > 1
    second = torch.where(far, candidates, NO_SCORE).amax(dim=1)
    # the ends of the band may lead to a higher peak outside it
    ends = torch.maximum(scores[:, 0], scores[:, -1])
    column = at[:, None]
    left, right = before.gather(1, column)[:, 0], after.gather(1, column)[:, 0]
    curvature = (2.0 * best - left - right).clamp_min(0.0)
    shift = 0.5 * (right - left) / curvature.clamp_min(1e-6)
    offset = offsets[1:-1][at] + shift.clamp(-0.5, 0.5) * step
    found = best > NO_SCORE
    return Peaks(
        torch.where(found, offset, 0.0),
        best,
        torch.where(found, curvature / step**2, 0.0),
        torch.where(found, best - torch.maximum(second, ends), 0.0),
    )
