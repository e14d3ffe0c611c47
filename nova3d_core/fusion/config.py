"""Settings of the fusion stages."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError


@dataclass(frozen=True)
class HullConfig:
    """Visual hull: what is left of space after every mask has carved it."""

    resolution: int = 224
    """Grid cells along the longest side of the object."""
    mask_upsampling: int = 4
    """Distance transforms are taken on masks up to this many times larger, for sub-pixel edges; on
    pictures beyond 256 px less, as they need it less."""
    ridge_rounding: float = 0.5
    """Radius of the ridges between views, as a share of the object's local thickness; 0 keeps the
    exact hull, whose ridges stand out over the object."""
    padding_cells: int = 3
    """Empty cells around the object, so that the surface is closed."""

    def __post_init__(self):
        if not 16 <= self.resolution <= 1024:
            raise InputError(f"hull resolution is {self.resolution}, expected 16 to 1024.")
        if not 1 <= self.mask_upsampling <= 8:
            raise InputError(f"mask_upsampling is {self.mask_upsampling}, expected 1 to 8.")
        if not 0.0 <= self.ridge_rounding <= 1.0:
            raise InputError(f"ridge_rounding is {self.ridge_rounding}, expected 0 to 1.")
        if self.padding_cells < 2:
            raise InputError(f"padding_cells is {self.padding_cells}, expected at least 2.")
