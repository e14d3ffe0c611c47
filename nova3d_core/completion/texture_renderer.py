"""Renders of a texture on fixed geometry: a linear map from texels to pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..cameras.cameras import Cameras
from ..mesh import Mesh
from ..progress import SILENT, Progress
from ..rendering.raycast import RayCaster
from ..texturing.surface_pixels import SurfacePixels, samples_per_side, surface_pixels

STAGE = "casting rays"
BYTES_PER_PIXEL = 32
"""Texture coordinates, hits and indices of a pixel with one ray."""


@dataclass(frozen=True, eq=False)
class TextureRenderer:
    """V views of a mesh. The rays are cast once; autograd gives the transpose of the map."""

    pixels: tuple[SurfacePixels | None, ...]
    """What each view sees; None for a view that does not see the mesh."""
    size_px: tuple[int, int]
    """Height and width of the views."""

    @classmethod
    def of(
        cls, mesh: Mesh, caster: RayCaster, cameras: Cameras, progress: Progress = SILENT
    ) -> TextureRenderer:
        """Casts the rays of V cameras.

        Args:
            mesh: with uv, on the CPU.
            caster: of the mesh.
            cameras: on the CPU.
            progress: reports each view.
        """
        per_side = samples_per_side(cameras)
        pixels = tuple(
            surface_pixels(mesh, caster, cameras[view], per_side)
            for view in progress.track(range(len(cameras)), STAGE, len(cameras))
        )
        return cls(pixels, (cameras.height, cameras.width))

    def __len__(self) -> int:
        return len(self.pixels)

    def render_view(self, view: int, texture: Tensor, background: float = 1.0) -> Tensor:
        """(H, W, C) one view of a texture (1, C, h, w); differentiable by the texture."""
        height, width = self.size_px
        seen = self.pixels[view]
        image = texture.new_full((height, width, texture.shape[1]), background)
        if seen is None:
            return image
        rows, columns = seen.crop
        crop = seen.render(texture, background)
        rest = (columns.start, width - columns.stop, rows.start, height - rows.stop)
        padded = torch.nn.functional.pad(crop.permute(2, 0, 1), rest, value=background)
        return padded.permute(1, 2, 0)

    def render(self, texture: Tensor, background: float = 1.0) -> Tensor:
        """(V, H, W, C) all views of a texture (1, C, h, w); differentiable by the texture."""
        views = range(len(self))
        return torch.stack([self.render_view(view, texture, background) for view in views])

    @property
    def coverage(self) -> Tensor:
        """(V, H, W) fraction of each pixel that the mesh covers."""
        maps = torch.zeros(len(self), *self.size_px)
        for view, seen in enumerate(self.pixels):
            if seen is not None:
                maps[view][seen.crop] = seen.coverage
        return maps

    def to(self, device: torch.device | str) -> TextureRenderer:
        """The same on a device."""
        pixels = tuple(None if seen is None else seen.to(device) for seen in self.pixels)
        return TextureRenderer(pixels, self.size_px)
