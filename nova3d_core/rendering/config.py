"""Settings of the renderer."""

from __future__ import annotations

from dataclasses import dataclass

from ..checks import check_bounds


@dataclass(frozen=True)
class RenderConfig:
    """How a mesh is rendered: unlit colour on white, world normals, mask, depth."""

    supersample: int = 3
    """Rays per side of a pixel; 3 means 9 rays per pixel."""

    def __post_init__(self):
        check_bounds(self, "render", supersample=(1, 16))
