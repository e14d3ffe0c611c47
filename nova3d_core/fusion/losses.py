"""The terms of eq. 6 that compare rendered rays with the pictures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .fields.base import Rendered
from .sdf_config import LossConfig

_ROUND = 1e-4
"""Added below the square root: the distance of colours has no kink at zero."""
_SHORT = 0.1
"""Summed gradients shorter than this are not stretched to unit length."""


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


def normal_loss(gradient: Tensor, normal: Tensor, weight: Tensor, drop_share: float) -> Tensor:
    """(R,) weight * (1 - cos); the largest `drop_share` of those that count are 0."""
    length = gradient.norm(dim=1, keepdim=True).clamp_min(_SHORT)
    error = 1.0 - (gradient / length * normal).sum(dim=1)
    if drop_share > 0.0:
        weight = weight * kept(error.detach(), weight > 0, drop_share)
    return weight * error


def kept(error: Tensor, counts: Tensor, drop_share: float) -> Tensor:
    """(R,) 1 for the rays that stay when the largest errors among those that count are dropped."""
    which = counts.nonzero()[:, 0]
    stay = max(1, round(len(which) * (1.0 - drop_share)))
    best = torch.topk(error[which], min(stay, len(which)), largest=False).indices
    keep = torch.zeros_like(error)
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
    means: dict[str, float]
    """Mean of each term over the rays."""


def ray_loss(rendered: Rendered, targets: Targets, config: LossConfig, price: float) -> RayLoss:
    """The sum over rays of L_color, L_normal and L_mask, differentiated by the outputs."""
    outputs = [
        part.detach().requires_grad_(True)
        for part in (rendered.opacity, rendered.gradient, rendered.colour)
    ]
    opacity, gradient, colour = outputs
    with torch.enable_grad():
        distance = colour_distance(colour * targets.gain, targets.colour)
        weight = targets.normal_weight * targets.normal_share
        terms = {
            "colour": colour_loss(distance, targets.conflict, price),
            "normal": normal_loss(gradient, targets.normal, weight, config.drop_share),
            "mask": (opacity - targets.mask).square(),
        }
        total = sum(getattr(config, name) * term.sum() for name, term in terms.items())
        derivatives = torch.autograd.grad(total, outputs)
    means = {name: float(term.detach().mean()) for name, term in terms.items()}
    return RayLoss(*derivatives, distance.detach(), means)
