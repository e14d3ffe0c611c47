"""Settings of the renderer."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError


@dataclass(frozen=True)
class RenderConfig:
    """How pictures are taken of a mesh: unlit colour on white, world normals, mask, depth."""

    supersample: int = 3
    """Rays along each side of a pixel; 3 means 9 rays a pixel."""

    def __post_init__(self):
        if not 1 <= self.supersample <= 16:
            raise InputError(f"supersample is {self.supersample}, expected 1 to 16.")
