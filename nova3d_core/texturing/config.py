"""Settings of texture baking."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError


@dataclass(frozen=True)
class BakeConfig:
    """How the views' colours become a texture."""

    texture_px: int = 1024
    """Width and height of the texture."""
    angle_power: float = 6.0
    """A view's weight is the cosine between surface normal and view, to this power."""
    min_cosine: float = 0.1
    """Views that see the surface at a flatter angle than this do not count."""
    edge_px: float = 2.0
    """Within this distance of a silhouette or a depth step, a view's weight fades to nothing."""

    def __post_init__(self):
        if not 16 <= self.texture_px <= 16384:
            raise InputError(f"texture_px is {self.texture_px}, expected 16 to 16384.")
        if not 0.0 <= self.angle_power <= 32.0:
            raise InputError(f"angle_power is {self.angle_power}, expected 0 to 32.")
        if not 0.0 <= self.min_cosine < 1.0:
            raise InputError(f"min_cosine is {self.min_cosine}, expected 0 up to 1.")
        if not self.edge_px >= 0.0:
            raise InputError(f"edge_px is {self.edge_px}, expected 0 or more.")
