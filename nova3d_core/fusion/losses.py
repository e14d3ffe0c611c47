"""Losses of eq. 6: their weights, and the terms that compare rendered rays with the images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..checks import INTERNAL, check_bounds

if TYPE_CHECKING:  # the command line reads the weights without torch
    from torch import Tensor

    from .fields.base import Rendered

_ROUND = 1e-4
"""Added below the square root: the distance of colours has no kink at zero."""
_SHORT = 0.1
"""Summed gradients shorter than this are not stretched to unit length."""


@dataclass(frozen=True)
class LossConfig:
    """Loss weights of eq. 6."""

    colour: float = 0.3
    """Weight of L_color (eq. 5): distance between rendered and given colours, reduced where views
    conflict."""
    normal: float = 1.0
    """Weight of L_normal: 1 - cosine between rendered and given normals, times exp |cos| to the
    ray."""
    mask: float = 1.0
    """Weight of L_mask: squared difference between opacity and mask."""
    eikonal: float = field(default=0.1, metadata=INTERNAL)
    """Weight of R_eik: squared difference between the gradient's length and 1."""
    sparse: float = field(default=0.0, metadata=INTERNAL)
    """Weight of R_sparse: exp(-k |f|), which suppresses floaters; initialisation from the visual
    hull leaves none."""
    smooth: float = field(default=2e-7, metadata=INTERNAL)
    """Weight of R_smooth: squared Laplacian of the signed distances."""
    outlier_fraction: float = field(default=0.0, metadata=INTERNAL)
    """Fraction of the rays with the largest error that L_normal excludes (trimmed loss)."""

    def __post_init__(self):
        names = ("colour", "normal", "mask", "eikonal", "sparse", "smooth")
        check_bounds(
            self, "losses", **dict.fromkeys(names, (0.0, 1e6)), outlier_fraction=(0.0, 0.9)
        )


@dataclass(frozen=True, eq=False)
class Targets:
    """What R rays should see."""

    mask: Tensor
    """(R,) in 0..1."""
    colour: Tensor
    """(R, 3) on black, times the mask."""
    normal: Tensor
    """(R, 3) unit vectors in the world of the refined poses, or zero."""
    normal_weight: Tensor
    """(R,) exp |cos| where the normal counts, else 0."""
    gain: Tensor
    """(R, 3) exposure of the ray's view."""
    conflict: Tensor
    """(R,) H of eq. 5 in 0..1; carries no derivative."""
    normal_share: Tensor
    """(R,) what conflict leaves of the normal's weight."""


def colour_distance(rendered: Tensor, target: Tensor) -> Tensor:
    """(R,) ||C - C^||_2, rounded at zero: sqrt(|d|^2 + 1e-4) - 1e-2."""
    squared = (rendered - target).square().sum(dim=-1)
    return (squared + _ROUND).sqrt() - _ROUND**0.5


def colour_loss(distance: Tensor, conflict: Tensor, price: float) -> Tensor:
    """(R,) eq. 5: (1 - H) e + lambda0 H^2."""
    return (1.0 - conflict) * distance + price * conflict.square()


def free_conflict(distance: Tensor, price: float) -> Tensor:
    """(R,) the H that makes eq. 5 smallest: min(1, e / (2 lambda0))."""
    return (distance / (2.0 * price)).clamp(0.0, 1.0)


def robust_loss(distance: Tensor, price: float) -> Tensor:
    """(R,) eq. 5 at that H: e - e^2 / (4 lambda0) below 2 lambda0, lambda0 beyond."""
    return colour_loss(distance, free_conflict(distance, price), price)


def normal_loss(
    gradient: Tensor, normal: Tensor, weight: Tensor, outlier_fraction: float
) -> Tensor:
    """(R,) weight * (1 - cos); the largest `outlier_fraction` of those that count are 0."""
    length = gradient.norm(dim=1, keepdim=True).clamp_min(_SHORT)
    error = 1.0 - (gradient / length * normal).sum(dim=1)
    if outlier_fraction > 0.0:
        weight = weight * kept(error.detach(), weight > 0, outlier_fraction)
    return weight * error


def kept(error: Tensor, counts: Tensor, outlier_fraction: float) -> Tensor:
    """(R,) 1 for the rays that stay when the largest errors among those that count are dropped."""
    which = counts.nonzero()[:, 0]
    stay = max(1, round(len(which) * (1.0 - outlier_fraction)))
    best = error[which].topk(min(stay, len(which)), largest=False).indices
    keep = error.new_zeros(error.shape)
    keep[which[best]] = 1.0
    return keep


@dataclass(frozen=True, eq=False)
class RayLoss:
    """The loss of R rays, and its derivatives by what was rendered."""

    by_opacity: Tensor
    """(R,)"""
    by_gradient: Tensor
    """(R, 3)"""
    by_colour: Tensor
    """(R, 3)"""
    distance: Tensor
    """(R,) colour distance e, for the conflict model."""
    terms: Callable[[], dict[str, Tensor]]
    """Makes each term of the loss (R,); a step of the optimisation does not need them."""

    @property
    def means(self) -> dict[str, float]:
        """Mean of each term over the rays; waits for the device."""
        return {name: float(term.mean()) for name, term in self.terms().items()}


def ray_loss(rendered: Rendered, targets: Targets, config: LossConfig, price: float) -> RayLoss:
    """The sum over rays of L_color, L_normal and L_mask, differentiated by the outputs.

    The derivatives are written out: autograd starts twice as many kernels for the same numbers.
    """
    offset = rendered.colour * targets.gain - targets.colour
    root = (offset.square().sum(dim=-1) + _ROUND).sqrt()
    distance = root - _ROUND**0.5
    by_root = config.colour * (1.0 - targets.conflict) / (2.0 * root)
    by_colour = by_root[:, None] * (2.0 * offset) * targets.gain
    weight, error, by_gradient = _normal_slopes(rendered.gradient, targets, config)
    opacity = rendered.opacity - targets.mask

    def terms() -> dict[str, Tensor]:
        return {
            "colour": colour_loss(distance, targets.conflict, price),
            "normal": weight * error,
            "mask": opacity.square(),
        }

    return RayLoss(config.mask * (2.0 * opacity), by_gradient, by_colour, distance, terms)


def _normal_slopes(
    gradient: Tensor, targets: Targets, config: LossConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """The weight and the error (R,) of `normal_loss`, and its derivative by the gradient (R, 3)."""
    raw = gradient.norm(dim=1, keepdim=True)
    length = raw.clamp_min(_SHORT)
    unit = gradient / length
    error = 1.0 - (unit * targets.normal).sum(dim=1)
    weight = targets.normal_weight * targets.normal_share
    if config.outlier_fraction > 0.0:
        weight = weight * kept(error, weight > 0, config.outlier_fraction)
    by_unit = (-config.normal * weight)[:, None] * targets.normal
    by_length = (-by_unit * (unit / length)).sum(dim=1, keepdim=True)
    by_length = by_length.where(raw >= _SHORT, 0.0)  # below, the length is held
    return weight, error, by_unit / length + by_length * unit
