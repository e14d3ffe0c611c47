"""What a field renders for rays, and the gradients with respect to these rays."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class RenderOutput:
    """Volume rendering of R rays: sums over samples with NeuS weights w_i."""

    opacity: Tensor
    """(R,) sum of w_i, in 0..1."""
    gradient: Tensor
    """(R, 3) sum of w_i grad f(x_i), in the world; its direction is the normal."""
    colour: Tensor
    """(R, 3) sum of w_i c(x_i), i.e. premultiplied by the opacity."""
    depth: Tensor
    """(R,) sum of w_i t_i, in world units along the ray; the surface's depth times the opacity.
    Differentiable by the weights; the positions t_i of the samples are constants."""


@dataclass(frozen=True, eq=False)
class RayGradients:
    """Gradients of the loss with respect to R rays, for poses."""

    grad_origins: Tensor
    """(R, 3) with respect to the origins."""
    grad_directions: Tensor
    """(R, 3) with respect to the unit directions."""
