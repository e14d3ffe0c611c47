"""Losses of eq. 6: their weights, and the terms that compare rendered rays with the images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..checks import INTERNAL, check_bounds

if TYPE_CHECKING:  # the command line reads the weights without torch
    from torch import Tensor

    from .fields.render_output import RenderOutput

DISTANCE_EPS = 1e-4
"""Added under the square root of the colour distance, which makes it smooth at zero."""
MIN_GRADIENT_LENGTH = 0.1
"""Shorter rendered gradients are not normalised to unit length."""


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
    depth: float = field(default=1.0, metadata=INTERNAL)
    """Weight of L_depth: Charbonnier distance in cells of rendered depths to those that multi-view
    stereo finds, where it is confident."""
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
        names = ("colour", "normal", "mask", "depth", "eikonal", "sparse", "smooth")
        check_bounds(
            self, "losses", **dict.fromkeys(names, (0.0, 1e6)), outlier_fraction=(0.0, 0.9)
        )


@dataclass(frozen=True, eq=False)
class Targets:
    """Targets of R rays."""

    mask: Tensor
    """(R,) in 0..1."""
    colour: Tensor
    """(R, 3) premultiplied by the mask."""
    normal: Tensor
    """(R, 3) unit vectors in the world of the refined poses; zero where there is none."""
    normal_weight: Tensor
    """(R,) exp(|cos| - 1) of the angle to the ray, 0 for excluded normals."""
    gain: Tensor
    """(R, 3) exposure gain of the ray's view."""
    conflict: Tensor
    """(R,) H of eq. 5 in 0..1; no gradient flows through it."""
    normal_factor: Tensor
    """(R,) factor on the normal's weight, smaller where views conflict."""


def colour_loss(distance: Tensor, conflict: Tensor, lambda0: float) -> Tensor:
    """(R,) eq. 5: (1 - H) e + lambda0 H^2."""
    return (1.0 - conflict) * distance + lambda0 * conflict.square()


def free_conflict(distance: Tensor, lambda0: float) -> Tensor:
    """(R,) closed-form H that minimises eq. 5: min(1, e / (2 lambda0))."""
    return (distance / (2.0 * lambda0)).clamp(0.0, 1.0)


def inlier_mask(error: Tensor, valid: Tensor, outlier_fraction: float) -> Tensor:
    """(R,) 1 for valid rays, except for the fraction of them with the largest error; else 0."""
    candidates = valid.nonzero()[:, 0]
    count = max(1, round(len(candidates) * (1.0 - outlier_fraction)))
    best = error[candidates].topk(min(count, len(candidates)), largest=False).indices
    inliers = error.new_zeros(error.shape)
    inliers[candidates[best]] = 1.0
    return inliers


@dataclass(frozen=True, eq=False)
class RayLoss:
    """Loss of R rays and its gradients with respect to the rendered values."""

    grad_opacity: Tensor
    """(R,) with respect to `RenderOutput.opacity`."""
    grad_gradient: Tensor
    """(R, 3) with respect to `RenderOutput.gradient`."""
    grad_colour: Tensor
    """(R, 3) with respect to `RenderOutput.colour`."""
    distance: Tensor
    """(R,) colour distance e, for the conflict model."""
    terms: Callable[[], dict[str, Tensor]]
    """Computes each loss term (R,); optimisation steps do not need them."""

    @property
    def means(self) -> dict[str, float]:
        """Mean of each term over the rays; synchronises with the device."""
        return {name: float(term.mean()) for name, term in self.terms().items()}


def ray_loss(
    rendered: RenderOutput, targets: Targets, config: LossConfig, lambda0: float
) -> RayLoss:
    """L_color, L_normal and L_mask, summed over rays, with gradients for the rendered values.

    The gradients are written out: autograd launches twice as many kernels for the same result.
    """
    offset = rendered.colour * targets.gain - targets.colour
    root = (offset.square().sum(dim=-1) + DISTANCE_EPS).sqrt()
    distance = root - DISTANCE_EPS**0.5
    grad_root = config.colour * (1.0 - targets.conflict) / (2.0 * root)
    grad_colour = grad_root[:, None] * (2.0 * offset) * targets.gain
    weight, error, grad_gradient = _normal_gradient(rendered.gradient, targets, config)
    opacity = rendered.opacity - targets.mask

    def terms() -> dict[str, Tensor]:
        return {
            "colour": colour_loss(distance, targets.conflict, lambda0),
            "normal": weight * error,
            "mask": opacity.square(),
        }

    return RayLoss(config.mask * (2.0 * opacity), grad_gradient, grad_colour, distance, terms)


def _normal_gradient(
    gradient: Tensor, targets: Targets, config: LossConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Weight and error 1 - cos (R,) of L_normal, and its derivative by `gradient` (R, 3)."""
    raw = gradient.norm(dim=1, keepdim=True)
    length = raw.clamp_min(MIN_GRADIENT_LENGTH)
    unit = gradient / length
    error = 1.0 - (unit * targets.normal).sum(dim=1)
    weight = targets.normal_weight * targets.normal_factor
    if config.outlier_fraction > 0.0:
        weight = weight * inlier_mask(error, weight > 0, config.outlier_fraction)
    grad_unit = (-config.normal * weight)[:, None] * targets.normal
    grad_length = (-grad_unit * (unit / length)).sum(dim=1, keepdim=True)
    # a shorter gradient is clamped, so its length is constant
    grad_length = grad_length.masked_fill(~(raw >= MIN_GRADIENT_LENGTH), 0.0)
    return weight, error, grad_unit / length + grad_length * unit
