"""Interface of a field of signed distance and colour under optimisation."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from ...sdf_grid import SdfGrid
from ..config import LevelConfig
from ..losses import LossConfig
from .render_output import RayGradients, RenderOutput

BAND = 3.0
"""Half width of the band times the sharpness; beyond it NeuS' sigmoid is saturated."""


class Field(Protocol):
    """A field under optimisation; each step calls `render`, `backward`, `step`."""

    spacing: float
    """World size of a cell of the current level."""
    track_rays: bool
    """Whether `backward` may be asked for gradients of the rays of the next `render`."""

    def set_level(self, level: LevelConfig) -> None:
        """Changes to a level's resolution, keeping the shape."""

    def render(
        self, origins: Tensor, directions: Tensor, with_backward: bool = True
    ) -> RenderOutput:
        """Renders R world rays: origins (R, 3), unit directions (R, 3).

        Without `with_backward` nothing is kept for `backward`.
        """

    def backward(
        self,
        grad_opacity: Tensor,
        grad_gradient: Tensor,
        grad_colour: Tensor,
        with_rays: bool,
        grad_depth: Tensor | None = None,
    ) -> RayGradients | None:
        """Backpropagates gradients of the last `render`'s outputs; accumulates until `step`.

        Returns:
            Gradients with respect to the rays, or None without `with_rays`.
        """

    def step(self, losses: LossConfig, decay: float) -> None:
        """Optimiser step with the regularisers; `decay` scales the level's learning rates."""

    def redistance(self) -> None:
        """Restores the distance property and cached distances, which drift; called regularly."""

    def is_finite(self) -> bool:
        """Whether all values are finite."""

    def to_grid(self) -> SdfGrid:
        """The signed distances as a grid on the CPU."""


class ConflictRenderer(Field, Protocol):
    """A field with the network f_psi of eq. 4."""

    def render_conflict(self, view: Tensor) -> Tensor:
        """H of the R rays of the last `render`, which are of views (R,): (R,) in 0..1.

        Differentiable with respect to the network f_psi only.
        """

    def step_conflict(self, conflict: Tensor, grad_conflict: Tensor) -> None:
        """Adam step of f_psi, given the gradient (R,) of `render_conflict`'s result."""
