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


def sample_trilinear(values: Tensor, coordinates: Tensor) -> Tensor:
    """(C, N) trilinear interpolation of grid values (C, X, Y, Z), clamped at the border.

    Args:
        values: (C, X, Y, Z).
        coordinates: (N, 3) x, y, z from -1 at the first grid point to 1 at the last one.
    """
    sampled = torch.nn.functional.grid_sample(
        values[None],
        coordinates.flip(-1)[None, None, None],  # grid_sample expects z, y, x
        align_corners=True,
        padding_mode="border",
    )
    return sampled[0, :, 0, 0]
