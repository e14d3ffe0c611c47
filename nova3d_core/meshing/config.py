"""Settings from a signed distance grid to a mesh that is ready for texture."""

from __future__ import annotations

from dataclasses import dataclass

from ..checks import check_bounds


@dataclass(frozen=True)
class MeshingConfig:
    """What becomes of the raw surface: which parts stay, and how many faces."""

    target_faces: int = 40_000
    """Faces after simplification; a mesh with fewer stays as it is."""
    min_part_share: float = 0.005
    """Loose parts with less than this share of the whole surface area are dropped."""
    smooth_unseen: float = 24.0
    """Where no view sees the surface, bumps shorter than so many of its grid's cells are smoothed;
    0: never."""
    seen_cosine: float = 0.2
    """A view sees a surface that is turned to it by at least this cosine."""

    def __post_init__(self):
        check_bounds(
            self,
            "meshing",
            target_faces=(100, 100_000_000),
            min_part_share=(0.0, 1.0 - 1e-9),
            smooth_unseen=(0.0, 1000.0),
            seen_cosine=(0.0, 1.0),
        )
