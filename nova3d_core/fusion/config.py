"""Settings of the fusion stages."""

from __future__ import annotations

from dataclasses import dataclass

from ..checks import check_bounds


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
        check_bounds(
            self,
            "hull",
            resolution=(16, 1024),
            mask_upsampling=(1, 8),
            ridge_rounding=(0.0, 1.0),
            padding_cells=(2, 64),
        )
