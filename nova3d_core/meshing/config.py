"""Settings from a signed distance grid to a mesh that is ready for texture."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError


@dataclass(frozen=True)
class MeshingConfig:
    """What becomes of the raw surface: which parts stay, and how many faces."""

    target_faces: int = 40_000
    """Faces after simplification; a mesh with fewer stays as it is."""
    min_part_share: float = 0.005
    """Loose parts with less than this share of the whole surface area are dropped."""

    def __post_init__(self):
        if self.target_faces < 100:
            raise InputError(f"target_faces is {self.target_faces}, expected at least 100.")
        if not 0.0 <= self.min_part_share < 1.0:
            raise InputError(f"min_part_share is {self.min_part_share}, expected 0 up to 1.")
