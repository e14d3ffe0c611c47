"""Settings of meshing and UV unwrapping."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from ..checks import INTERNAL, check_bounds, check_choice

UnwrapMethod = Literal["xatlas", "box"]
UNWRAP_METHODS: tuple[str, ...] = get_args(UnwrapMethod)


@dataclass(frozen=True)
class MeshingConfig:
    """How a signed distance grid becomes a clean, simplified mesh."""

    target_faces: int = 40_000
    """Number of faces after simplification; a mesh with fewer faces is left unchanged."""
    min_component_area_ratio: float = 0.005
    """Connected components with a smaller fraction of the total surface area are removed."""
    smooth_unobserved_cells: float = 24.0
    """Where no view observes the surface, bumps with a wavelength below this many grid cells are
    smoothed; 0 disables smoothing."""

    def __post_init__(self):
        check_bounds(
            self,
            "meshing",
            target_faces=(100, 100_000_000),
            min_component_area_ratio=(0.0, 1.0 - 1e-9),
            smooth_unobserved_cells=(0.0, 1000.0),
        )


@dataclass(frozen=True)
class UnwrapConfig:
    """How a surface is cut into charts and packed into a texture."""

    method: UnwrapMethod = "xatlas"
    """xatlas: few charts with little distortion; falls back to the box atlas if it fails or exceeds
    its time limit. box: box atlas only, projections along the six axes."""
    padding_px: int = 3
    """Texels between charts, and between charts on opposite sides of the texture; 2 is enough for
    bilinear filtering, each mip level needs twice as much."""
    time_limit_s: float = field(default=30.0, metadata=INTERNAL)
    """Seconds after which xatlas is stopped in favour of the box atlas."""
    faces_per_chunk: int = field(default=2500, metadata=INTERNAL)
    """Approximate size of the balanced chunks that xatlas processes in parallel; its time grows
    with the square of the chunk size."""

    def __post_init__(self):
        check_choice("unwrap method", self.method, UNWRAP_METHODS)
        check_bounds(
            self,
            "unwrap",
            padding_px=(0, 64),
            time_limit_s=(1e-6, 1e6),
            faces_per_chunk=(100, 100_000_000),
        )
