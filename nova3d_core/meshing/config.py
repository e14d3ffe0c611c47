"""Settings from a signed distance grid to a mesh with UV coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ..checks import check_bounds, check_choice

UnwrapMethod = Literal["xatlas", "box"]
UNWRAP_METHODS: tuple[str, ...] = get_args(UnwrapMethod)


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


@dataclass(frozen=True)
class UnwrapConfig:
    """How a surface is cut into charts."""

    method: UnwrapMethod = "xatlas"
    """xatlas: few charts of little distortion, and the box atlas where it fails or takes too long.
    box: the box atlas at once, projections along the six axes."""
    padding_px: int = 3
    """Texels between two charts, and from side to opposite side; 2 is enough for bilinear reading,
    each mip level wants twice as much."""
    time_limit_s: float = 30.0
    """Seconds after which xatlas is stopped and the box atlas takes over."""
    faces_per_part: int = 2500
    """xatlas works on balanced pieces of about this many faces, side by side on all cores; its time
    grows with the square of the piece."""

    def __post_init__(self):
        check_choice("unwrap method", self.method, UNWRAP_METHODS)
        check_bounds(
            self,
            "unwrap",
            padding_px=(0, 64),
            time_limit_s=(1e-6, 1e6),
            faces_per_part=(100, 100_000_000),
        )
