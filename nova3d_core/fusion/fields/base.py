"""What the optimisation asks of a field of signed distance and colour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ...sdf_grid import SdfGrid
from ..config import LevelConfig
from ..losses import LossConfig

BAND = 3.0
"""The band's half width times the sharpness: beyond it NeuS' sigmoid has come to its end."""


@dataclass(frozen=True, eq=False)
class RenderOutput:
    """What R rays see: sums over their samples with NeuS weights w_i."""

    opacity: Tensor
    """(R,) sum of w_i, in 0..1."""
    gradient: Tensor
    """(R, 3) sum of w_i grad f(x_i), in the world; its direction is the normal."""
    colour: Tensor
    """(R, 3) sum of w_i c(x_i): on black, so the background's share is missing."""
    depth: Tensor
    """(R,) sum of w_i t_i in world units along the ray; over the opacity it is where the ray ends.
    Carries no derivative."""


@dataclass(frozen=True, eq=False)
class RayGradients:
    """Derivatives of the loss by R rays, for poses."""

    grad_origins: Tensor
    """(R, 3) by the ray's origin."""
    grad_directions: Tensor
    """(R, 3) by the ray's unit direction."""


class Field(Protocol):
    """A field under optimisation. `render`, then `backward`, then `step`, again and again."""

    spacing: float
    """World size of the finest detail of the present level."""

    def begin_level(self, level: LevelConfig) -> None:
        """Goes to a level's resolution, keeping the shape."""

    def render(self, origins: Tensor, directions: Tensor) -> RenderOutput:
        """Renders R world rays: origins (R, 3), unit directions (R, 3)."""

    def backward(
        self, grad_opacity: Tensor, grad_gradient: Tensor, grad_colour: Tensor, with_rays: bool
    ) -> RayGradients | None:
        """Takes the loss's derivatives by the last `render`'s outputs; adds up until `step`."""

    def step(self, loss: LossConfig, decay: float) -> None:
        """Adds the regularisers and moves; `decay` in 0..1 scales the level's step sizes."""

    def redistance(self) -> None:
        """Restores what drifts while optimising, such as the distance property; called often."""

    def is_finite(self) -> bool:
        """Whether all values are finite."""

    def to_grid(self) -> SdfGrid:
        """The signed distances as a grid on the CPU."""
