"""Loss terms for autograd: the reference of `losses.ray_loss`."""

from __future__ import annotations

from torch import Tensor

from nova3d_core.fusion.losses import (
    DISTANCE_EPS,
    MIN_GRADIENT_LENGTH,
    colour_loss,
    free_conflict,
    inlier_mask,
)


def colour_distance(rendered: Tensor, target: Tensor) -> Tensor:
    """(R,) ||C - C^||_2, smooth at zero: sqrt(|d|^2 + 1e-4) - 1e-2."""
    squared = (rendered - target).square().sum(dim=-1)
    return (squared + DISTANCE_EPS).sqrt() - DISTANCE_EPS**0.5


def robust_loss(distance: Tensor, lambda0: float) -> Tensor:
    """(R,) eq. 5 at the closed-form H: e - e^2 / (4 lambda0) below 2 lambda0, lambda0 beyond."""
    return colour_loss(distance, free_conflict(distance, lambda0), lambda0)


def normal_loss(
    gradient: Tensor, normal: Tensor, weight: Tensor, outlier_fraction: float
) -> Tensor:
    """(R,) weight * (1 - cos), 0 for the fraction of valid rays with the largest error."""
    length = gradient.norm(dim=1, keepdim=True).clamp_min(MIN_GRADIENT_LENGTH)
    error = 1.0 - (gradient / length * normal).sum(dim=1)
    if outlier_fraction > 0.0:
        weight = weight * inlier_mask(error.detach(), weight > 0, outlier_fraction)
    return weight * error
