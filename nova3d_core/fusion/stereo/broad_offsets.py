"""Broad depth offsets: given normals know the details, stereo how deep the whole surface lies."""

from __future__ import annotations

import torch
from torch import Tensor

from ...imaging.filters import gaussian_blur

_SIGMA_PATCHES = 4.0
"""Standard deviation of the window over which offsets are averaged, in patches."""
_CORRELATED_PATCHES = 16.0
"""Number of neighbouring patches whose errors are correlated: they overlap."""
_BIAS_PX = 0.25
"""Systematic error of stereo depths, in widths of a pixel: offsets that are not larger are left to
the normals."""
_MIN_WEIGHT = 0.02
"""Mean confidence below which there is no offset."""


def broad_offsets(offset: Tensor, confidence: Tensor, pixel_size: float) -> tuple[Tensor, Tensor]:
    """Locally averaged depth offsets, and confidences in their significance.

    The confidence of a mean offset m with the standard error s and the systematic error b of stereo
    is the mean confidence times m^2 / (m^2 + s^2 + b^2): where the surface agrees with stereo but
    for noise, it is left alone.

    Args:
        offset: (V, rows, columns) depth offsets at patches, in world units.
        confidence: (V, rows, columns) in 0..1; 0 where there is no offset.
        pixel_size: world width of a pixel of the swept images.

    Returns:
        Both (V, rows, columns).
    """
    present = (confidence > 0.0).to(confidence)
    stack = torch.stack(
        [present, confidence, confidence * offset, confidence * offset.square(), confidence**2], 1
    )  # (V, 5, rows, columns)
    blurred = torch.stack([gaussian_blur(each, _SIGMA_PATCHES) for each in stack])
    share, weight, total, squares, weight_squares = blurred.unbind(dim=1)
    divisor = weight.clamp_min(1e-6)
    mean = total / divisor
    variance = (squares / divisor - mean.square()).clamp_min(0.0)
    window = 4.0 * torch.pi * _SIGMA_PATCHES**2  # effective number of patches in the window
    count = window * weight.square() / weight_squares.clamp_min(1e-9) / _CORRELATED_PATCHES
    error = variance / count.clamp_min(1.0) + (_BIAS_PX * pixel_size) ** 2
    significance = mean.square() / (mean.square() + error)
    mean_confidence = weight / share.clamp_min(1e-6)
    kept = (weight > _MIN_WEIGHT).to(weight)
    return mean * kept, mean_confidence.clamp(0.0, 1.0) * significance * kept
