"""The texture coordinates that each pixel of a view sees: renders a texture by sampling alone.

The geometry is fixed, so rays are cast once; a render is then differentiable by the texture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..cameras.cameras import Cameras
from ..mesh import Mesh
from ..rendering.raycast import RayCaster
from ..rendering.shading import facing_normal, interpolate
from ..rendering.views import sample_positions

MARGIN_PX = 8
"""Pixels around the mesh's silhouette that belong to the crop of a view."""
MAX_SAMPLES = 1 << 24
"""Rays of all views together above which each pixel has a single ray; bounds the memory."""


@dataclass(frozen=True, eq=False)
class SurfacePixels:
    """The P pixels of one view that see the mesh, each with S samples."""

    size_px: tuple[int, int]
    """Height and width of the crop."""
    crop: tuple[slice, slice]
    """Rows and columns of the view around the mesh."""
    index: Tensor
    """(P,) row * width + column in the crop."""
    uv: Tensor
    """(P, S, 2) in -1..1, as `grid_sample` expects them; 0 where the ray misses."""
    hit: Tensor
    """(P, S) 1 where the ray hits the mesh, else 0."""
    cosine: Tensor
    """(H, W) of the crop: largest cosine between normal and direction to the camera, 0 outside."""

    @property
    def coverage(self) -> Tensor:
        """(H, W) of the crop: fraction of each pixel that the mesh covers."""
        values = torch.zeros(self.size_px, device=self.hit.device).flatten()
        return values.index_copy(0, self.index, self.hit.mean(dim=1)).view(self.size_px)

    def render(self, texture: Tensor, background: float = 1.0) -> Tensor:
        """(H, W, C) of the crop, from a texture (1, C, h, w): means over the samples.

        Args:
            texture: values of the surface.
            background: value where a ray misses the mesh; 1 is white.
        """
        values = functional.grid_sample(
            texture, self.uv[None], padding_mode="border", align_corners=False
        )[0]  # (C, P, S)
        missed = 1.0 - self.hit.mean(dim=1)  # (P,)
        covered = (values * self.hit).mean(dim=2) + background * missed  # (C, P)
        channels, (height, width) = texture.shape[1], self.size_px
        image = texture.new_full((channels, height * width), background)
        image = image.index_copy(1, self.index, covered)
        return image.view(channels, height, width).permute(1, 2, 0)

    def to(self, device: torch.device) -> SurfacePixels:
        """The same on a device."""
        tensors = (each.to(device) for each in (self.index, self.uv, self.hit, self.cosine))
        return SurfacePixels(self.size_px, self.crop, *tensors)


def samples_per_side(cameras: Cameras) -> int:
    """Rays along each side of a pixel: 2, or 1 for many or large views."""
    rays = 4 * len(cameras) * cameras.height * cameras.width
    return 2 if rays <= MAX_SAMPLES else 1


def surface_pixels(
    mesh: Mesh, caster: RayCaster, camera: Cameras, per_side: int
) -> SurfacePixels | None:
    """Casts the rays of one camera; None if no pixel sees the mesh.

    Args:
        mesh: with uv, on the CPU.
        caster: of the mesh.
        camera: one camera.
        per_side: rays along each side of a pixel.
    """
    height, width, count = camera.height, camera.width, per_side**2
    origins, directions = (
        part[0] for part in camera.rays(sample_positions(width, height, per_side))
    )
    hits = caster.first_hits(origins.numpy(), directions.numpy())
    ray = torch.from_numpy(np.flatnonzero(hits.hit))
    if len(ray) == 0:
        return None
    face, weights = (torch.from_numpy(part)[ray] for part in (hits.face, hits.barycentric))
    uv = torch.zeros(len(directions), 2)
    uv[ray] = interpolate(mesh.uv, mesh.faces[face], weights).remainder(1.0) * 2.0 - 1.0
    normal = facing_normal(mesh, face, weights, directions[ray])
    cosine = torch.zeros(len(directions))
    cosine[ray] = -(normal * directions[ray]).sum(dim=1)
    hit = torch.from_numpy(hits.hit).float().view(-1, count)
    seen = torch.nonzero(hit.any(dim=1))[:, 0]
    rows, columns = (
        _span(positions, size)
        for positions, size in ((seen // width, height), (seen % width, width))
    )
    inner_width = columns.stop - columns.start
    index = (seen // width - rows.start) * inner_width + seen % width - columns.start
    return SurfacePixels(
        (rows.stop - rows.start, inner_width),
        (rows, columns),
        index,
        uv.view(-1, count, 2)[seen],
        hit[seen],
        cosine.view(height, width, count).amax(dim=2)[rows, columns].clamp(0.0, 1.0),
    )


def _span(positions: Tensor, size: int) -> slice:
    """The range of positions with a margin, inside an axis."""
    start, stop = int(positions.min()) - MARGIN_PX, int(positions.max()) + 1 + MARGIN_PX
    return slice(max(start, 0), min(stop, size))


def as_planes(texture: Tensor) -> Tensor:
    """A texture (h, w, C) as (1, C, h, w)."""
    return texture.permute(2, 0, 1)[None].contiguous()
