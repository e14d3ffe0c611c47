"""Gaussian splats: anisotropic Gaussians with an opacity and one colour."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .checks import check_finite, check_range, check_shape
from .errors import InputError

BOUNDS_QUANTILE = 1e-3
"""Fraction of the splats at each end of an axis that may lie outside of the bounds."""

_UNIT_LENGTH_ERROR = 1e-6
"""Deviation from length 1 of quaternions that were normalised in float32."""


@dataclass(frozen=True, eq=False)
class Splats:
    """N Gaussian splats in the world, as float32.

    Raises:
        InputError: wrong shapes, NaN, no splats, a scale that is not positive, a rotation of length
            zero, opacities out of range.
    """

    positions: Tensor
    """(N, 3) centres."""
    scales: Tensor
    """(N, 3) standard deviations along the splat's own axes, in world units, above 0."""
    rotations: Tensor
    """(N, 4) quaternions w, x, y, z from the splat's axes to the world; normalised."""
    opacities: Tensor
    """(N,) in 0..1."""
    colours: Tensor
    """(N, 3) sRGB. Usually in 0..1; harmonics of other programs may exceed it."""

    def __post_init__(self):
        for name, value in vars(self).items():
            object.__setattr__(self, name, value.float())
        sizes = check_shape("splat positions", self.positions, "N 3")
        if sizes["N"] == 0:
            raise InputError("there are no splats.")
        for name, shape in (("scales", "N 3"), ("rotations", "N 4"), ("colours", "N 3")):
            check_shape(f"splat {name}", getattr(self, name), shape, **sizes)
        check_shape("splat opacities", self.opacities, "N", **sizes)
        for name, value in vars(self).items():
            check_finite(f"splat {name}", value)
        check_range("splat opacities", self.opacities, 0.0, 1.0)
        if float(self.scales.min()) <= 0.0:
            raise InputError(f"splat scales contain {float(self.scales.min()):.4g}, not above 0.")
        length = self.rotations.norm(dim=-1, keepdim=True)
        if float(length.min()) < 1e-12:
            raise InputError("splat rotations contain a quaternion of length zero.")
        is_unit = (length - 1.0).abs() < _UNIT_LENGTH_ERROR  # keeps normalised ones bit for bit
        unit = torch.where(is_unit, self.rotations, self.rotations / length)
        object.__setattr__(self, "rotations", unit)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: slice | Tensor) -> Splats:
        """Selects splats by a slice, indices or a mask."""
        return Splats(**{name: value[index] for name, value in vars(self).items()})

    @property
    def bounds(self) -> Tensor:
        """(2, 3) minimum and maximum of the positions, without the outermost 0.1 % along each axis:
        single splats often float far away."""
        count = len(self)
        outside = int(BOUNDS_QUANTILE * (count - 1))
        ordered = self.positions.sort(dim=0).values
        return torch.stack([ordered[outside], ordered[count - 1 - outside]])

    def transformed(self, scale: float, translation: Tensor) -> Splats:
        """The splats scaled about the world's origin, then moved by a vector (3,)."""
        positions = self.positions * scale + translation.to(self.positions)
        return replace(self, positions=positions, scales=self.scales * scale)

    def normalised(self) -> Splats:
        """The splats with their `bounds` centred at the origin and the longest side 1.

        Raises:
            InputError: all splats have the same position.
        """
        low, high = self.bounds
        longest = float((high - low).max())
        if not longest > 0.0:
            raise InputError(
                "the splats have no extent: all have the same position.",
                "Check the file, or the fit that made them.",
            )
        return self.transformed(1.0 / longest, -(low + high) / 2 / longest)

    def to(self, device: torch.device | str) -> Splats:
        """The same splats on another device."""
        return replace(self, **{name: value.to(device) for name, value in vars(self).items()})
