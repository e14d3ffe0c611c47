"""Surface positions of the texels of a texture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..mesh import Mesh
from ..progress import SILENT, Progress
from ..rendering.raycast import RayCaster
from ..rendering.shading import interpolate

STAGE = "baking"
RAYS_PER_CHUNK = 1 << 18
"""Between two checks for a cancel."""


@dataclass(frozen=True, eq=False)
class Texels:
    """The T texels of a texture whose centres are inside a chart."""

    size_px: tuple[int, int]
    """Height and width of the texture."""
    index: Tensor
    """(T,) row * width + column."""
    face: Tensor
    """(T,) index of the face that contains the texel."""
    barycentric: Tensor
    """(T, 3) weights of the face's corners."""
    position: Tensor
    """(T, 3) world position."""
    normal: Tensor
    """(T, 3) smooth unit normal."""

    def select(self, indices: Tensor) -> Texels:
        """The texels at `indices` (P,) among the T."""
        return Texels(
            self.size_px,
            self.index[indices],
            self.face[indices],
            self.barycentric[indices],
            self.position[indices],
            self.normal[indices],
        )


def rasterise_texels(
    mesh: Mesh, size_px: int | tuple[int, int], progress: Progress = SILENT
) -> Texels:
    """Finds the surface position of each texel by casting rays onto the unwrapped triangles.

    Args:
        mesh: a mesh with uv; smooth normals are computed if it has no vertex normals.
        size_px: height and width of the texture, or the side of a square one.
        progress: checked for a cancel.

    Raises:
        InputError: the mesh has no uv, or its charts contain no texel centre at this size.
        Cancelled: on request.
    """
    if mesh.uv is None:
        raise InputError("the mesh has no UV coordinates.", "Unwrap it before baking.")
    if mesh.normals is None:
        mesh = mesh.with_smooth_normals()
    height, width = (size_px, size_px) if isinstance(size_px, int) else size_px
    scale = mesh.uv.new_tensor([width, height])
    flat = torch.cat([mesh.uv * scale, torch.zeros(len(mesh.uv), 1)], dim=1)
    caster = RayCaster(flat.numpy(), mesh.faces.numpy())
    index, face, barycentric = (
        torch.cat(part) for part in zip(*_hits(caster, height, width, progress), strict=True)
    )
    progress.check(STAGE)
    if len(index) == 0:
        raise InputError(
            f"no texel centre of a {width}x{height} px texture is inside a chart of the mesh.",
            "Check that the UVs are in 0..1, or use a larger texture.",
        )
    corners = mesh.faces[face]
    normal = interpolate(mesh.normals, corners, barycentric)
    progress.check(STAGE)
    return Texels(
        (height, width),
        index,
        face,
        barycentric,
        interpolate(mesh.vertices, corners, barycentric),
        torch.nn.functional.normalize(normal, dim=1, eps=1e-12),
    )


def vertex_texels(mesh: Mesh) -> Texels:
    """The vertices of a mesh with normals, those in a face, as texels of a column of N rows."""
    face = torch.full((len(mesh.vertices),), -1)
    corner = torch.zeros_like(face)
    for index in range(3):
        vertices = mesh.faces[:, index]
        face[vertices] = torch.arange(len(mesh.faces))
        corner[vertices] = index
    used = torch.nonzero(face >= 0)[:, 0]
    return Texels(
        (len(face), 1),
        used,
        face[used],
        torch.nn.functional.one_hot(corner[used], 3).float(),
        mesh.vertices[used],
        mesh.normals[used],
    )


def _hits(
    caster: RayCaster, height: int, width: int, progress: Progress
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Index (T,), face (T,) and weights (T, 3) of texels inside charts, in chunks of rows."""
    chunk_rows = max(1, RAYS_PER_CHUNK // width)
    columns = np.arange(width, dtype=np.float32) + 0.5
    for start in range(0, height, chunk_rows):
        progress.check(STAGE)
        rows = np.arange(start, min(start + chunk_rows, height), dtype=np.float32) + 0.5
        y, x = np.meshgrid(rows, columns, indexing="ij")
        origins = np.stack([x, y, np.ones_like(x)], axis=-1).reshape(-1, 3)
        down = np.broadcast_to(np.float32([0, 0, -1]), origins.shape)
        hits = caster.first_hits(origins, down)
        inside = np.flatnonzero(hits.hit)
        yield (
            torch.from_numpy(inside + start * width),
            torch.from_numpy(hits.face[inside]),
            torch.from_numpy(hits.barycentric[inside]),
        )
