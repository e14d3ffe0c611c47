"""The colours that a mesh has before a bake: kept where no view sees, and outside edit masks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..mesh import Mesh
from ..rendering.shading import surface_colour
from .fill import pad_charts
from .texels import Texels

_TEXELS_PER_CHUNK = 1 << 18


def has_own_colour(mesh: Mesh) -> bool:
    """Whether a mesh has a texture or vertex colours."""
    return mesh.texture is not None or mesh.vertex_colours is not None


@dataclass(frozen=True, eq=False)
class OwnColour:
    """A mesh with a texture or vertex colours, as it is before it is unwrapped and baked."""

    mesh: Mesh
    """On the CPU; its face i is face i of the baked mesh."""
    keeps_uv: bool
    """Whether the baked mesh has the same uv."""

    @classmethod
    def of(cls, mesh: Mesh, keeps_uv: bool) -> OwnColour | None:
        """The colours of a mesh; None if it has no texture and no vertex colours."""
        if not has_own_colour(mesh):
            return None
        return cls(mesh.to("cpu"), keeps_uv and mesh.uv is not None)

    @property
    def texture_size_px(self) -> tuple[int, int] | None:
        """Height and width of its texture, if the baked mesh has the same uv."""
        if self.mesh.texture is None or not self.keeps_uv:
            return None
        height, width = self.mesh.texture.shape[:2]
        return height, width

    def at_texels(self, texels: Texels) -> Tensor:
        """(T, 3) colours; bit for bit those of its texture if uv and size are the same."""
        if self.texture_size_px == texels.size_px:
            return self.mesh.texture.reshape(-1, 3)[texels.index]
        parts = [
            surface_colour(self.mesh, face, barycentric)
            for face, barycentric in zip(
                texels.face.split(_TEXELS_PER_CHUNK),
                texels.barycentric.split(_TEXELS_PER_CHUNK),
                strict=True,
            )
        ]
        return torch.cat(parts)

    def merged_texture(self, texels: Texels, colour: Tensor, changed: Tensor) -> Tensor:
        """The texture (H, W, 3) with new colours; padding around unchanged texels is kept, too.

        Args:
            texels: T texels.
            colour: (T, 3).
            changed: (T,) bool, whether the texel differs from this mesh's own colour.
        """
        if self.texture_size_px != texels.size_px:
            return pad_charts(texels, colour)
        padded = pad_charts(texels, torch.cat([colour, changed[:, None].float()], dim=1))
        return torch.where(padded[..., 3:] > 0.0, padded[..., :3], self.mesh.texture)
