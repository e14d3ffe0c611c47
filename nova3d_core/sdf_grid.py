"""A signed distance function sampled on a regular grid."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .checks import check_finite, check_shape


@dataclass(frozen=True, eq=False)
class SdfGrid:
    """Signed distances at grid points: negative inside, positive outside.

    Raises:
        InputError: on a wrong shape or NaN.
    """

    values: Tensor
    """(X, Y, Z) float32 in world units."""
    origin: Tensor
    """(3,) world position of grid point 0, 0, 0."""
    spacing: float
    """World distance between neighbouring grid points."""

    def __post_init__(self):
        check_shape("sdf grid values", self.values, "X Y Z")
        check_shape("sdf grid origin", self.origin, "3")
        check_finite("sdf grid values", self.values)

    def points(self) -> Tensor:
        """(X * Y * Z, 3) world positions of all grid points."""
        return grid_points(self.origin, self.spacing, tuple(self.values.shape))


def grid_points(origin: Tensor, spacing: float, shape: tuple[int, ...]) -> Tensor:
    """(X * Y * Z, 3) world positions of the points of a grid."""
    axes = [
        origin[axis] + spacing * torch.arange(size, dtype=torch.float32)
        for axis, size in enumerate(shape)
    ]
    return torch.cartesian_prod(*axes)
