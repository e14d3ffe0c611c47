"""Confidence of stereo depths: score, sharpness of the peak and its lead over other peaks."""

from __future__ import annotations

import torch
from torch import Tensor

from .sweep import Peaks

_MIN_SCORE, _FULL_SCORE = 0.6, 0.85
_SIGMA_PX = 0.8
"""Width of a peak, sqrt((1 - score) / curvature), at which the confidence is half."""
_FULL_MARGIN = 0.1


def patch_confidence(peaks: Peaks, pixel_size: float) -> Tensor:
    """(M,) in 0..1."""
    score = ((peaks.score - _MIN_SCORE) / (_FULL_SCORE - _MIN_SCORE)).clamp(0.0, 1.0)
    variance = (1.0 - peaks.score).clamp_min(1e-3) / peaks.curvature.clamp_min(1e-9)
    sharpness = 1.0 / (1.0 + variance / (_SIGMA_PX * pixel_size) ** 2)
    margin = (peaks.margin / _FULL_MARGIN).clamp(0.0, 1.0)
    return torch.where(peaks.curvature > 0, score * sharpness * margin, 0.0)
