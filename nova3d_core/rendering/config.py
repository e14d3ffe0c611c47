"""Settings of the renderer."""

from __future__ import annotations

from dataclasses import dataclass

from ..checks import check_bounds


@dataclass(frozen=True)
class RenderConfig:
    """How images are taken of a mesh: unlit colour on white, world normals, mask, depth."""

    supersample: int = 3
    """Rays along each side of a pixel; 3 means 9 rays a pixel."""

    def __post_init__(self):
        check_bounds(self, "render", supersample=(1, 16))
