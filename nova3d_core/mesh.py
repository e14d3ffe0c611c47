"""Triangle meshes with per-vertex attributes; vertices are split at texture seams."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .checks import check_finite, check_shape
from .conventions import Y_UP_ROTATIONS, UpAxis
from .errors import InputError
from .material import PbrMaterial

if TYPE_CHECKING:
    import numpy as np
    import trimesh

FAR_FROM_ORIGIN = 100.0
"""Ratio of a mesh's distance from the origin to its size from which it keeps an `origin`: float32
world coordinates would have errors above 3e-6 of its size."""
ZERO_ORIGIN = (0.0, 0.0, 0.0)


@dataclass(frozen=True, eq=False)
class Mesh:
    """N vertices and F triangles, counter-clockwise seen from outside, as float32 and int64.

    Raises:
        InputError: wrong shapes, NaN, no faces, faces with invalid vertex indices, or a texture
            without uv.
    """

    vertices: Tensor
    """(N, 3) float32 in the world, relative to `origin`."""
    faces: Tensor
    """(F, 3) int64."""
    uv: Tensor | None = None
    """(N, 2) texture coordinates, origin top left (glTF)."""
    texture: Tensor | None = None
    """(H, W, 3) float32 sRGB in 0..1."""
    normals: Tensor | None = None
    """(N, 3) unit vertex normals; without them, shading is flat."""
    vertex_colours: Tensor | None = None
    """(N, 3) float32 sRGB in 0..1."""
    origin: tuple[float, float, float] = ZERO_ORIGIN
    """World position of the vertices' (0, 0, 0), in double precision. Zero, except for meshes far
    from the world origin (geodetic coordinates), whose shape float32 world coordinates could not
    represent. Readers set it, transforms keep it, writers add it; `with_origin(ZERO_ORIGIN)`
    converts to world coordinates."""
    tangents: Tensor | None = None
    """(N, 4) unit tangents along u and the sign of the bitangent, as in glTF; for normal maps."""
    material: PbrMaterial | None = None
    """Maps and factors besides the base colour; None for a plain material."""

    def __post_init__(self):
        object.__setattr__(self, "faces", self.faces.long())
        for name in ("vertices", "uv", "texture", "normals", "vertex_colours", "tangents"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, getattr(self, name).float())
        sizes = check_shape("mesh vertices", self.vertices, "N 3")
        check_shape("mesh faces", self.faces, "F 3")
        if len(self.faces) == 0:
            raise InputError(
                "the mesh has no faces.", "A point cloud or an empty file is not a surface."
            )
        if int(self.faces.min()) < 0 or int(self.faces.max()) >= len(self.vertices):
            raise InputError(
                f"mesh faces refer to vertices {int(self.faces.min())} to {int(self.faces.max())}, "
                f"but there are {len(self.vertices)}."
            )
        check_finite("mesh vertices", self.vertices)
        for name, tensor, shape in (
            ("mesh uv", self.uv, "N 2"),
            ("mesh normals", self.normals, "N 3"),
            ("mesh vertex_colours", self.vertex_colours, "N 3"),
            ("mesh texture", self.texture, "H W 3"),
            ("mesh tangents", self.tangents, "N 4"),
        ):
            if tensor is not None:
                check_shape(name, tensor, shape, **({"N": sizes["N"]} if shape[0] == "N" else {}))
                check_finite(name, tensor)
        if self.texture is not None and self.uv is None:
            raise InputError("the mesh has a texture but no UV coordinates.")
        if self.material is not None and self.material.maps and self.uv is None:
            raise InputError("the mesh's material has maps, but the mesh has no UV coordinates.")
        object.__setattr__(self, "origin", tuple(float(value) for value in self.origin))
        if len(self.origin) != 3 or not all(math.isfinite(value) for value in self.origin):
            raise InputError(f"mesh origin is {self.origin}, expected three finite numbers.")

    def to(self, device: torch.device | str) -> Mesh:
        """The same mesh on another device."""
        tensors = {
            name: value.to(device)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        material = None if self.material is None else self.material.to(device)
        return replace(self, **tensors, material=material)

    @property
    def bounds(self) -> Tensor:
        """(2, 3) minimum and maximum corner of the faces' bounding box, relative to `origin`."""
        is_used = torch.zeros(len(self.vertices), dtype=torch.bool, device=self.vertices.device)
        is_used[self.faces.reshape(-1)] = True
        used = self.vertices[is_used]
        return torch.stack([used.amin(dim=0), used.amax(dim=0)])

    @property
    def face_area_vectors(self) -> Tensor:
        """(F, 3) outward normals, with a length of twice the face's area."""
        corners = self.vertices[self.faces]  # (F, 3, 3)
        return torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])

    @property
    def face_areas(self) -> Tensor:
        """(F,) areas in world units squared."""
        return self.face_area_vectors.norm(dim=-1) * 0.5

    @property
    def face_normals(self) -> Tensor:
        """(F, 3) outward unit normals, zero for degenerate faces."""
        return torch.nn.functional.normalize(self.face_area_vectors, dim=-1, eps=1e-20)

    def with_origin(self, origin: tuple[float, float, float]) -> Mesh:
        """The same mesh with vertices relative to another origin."""
        if tuple(origin) == self.origin:
            return self
        offset = torch.tensor(self.origin, dtype=torch.float64)
        offset = offset - torch.tensor(origin, dtype=torch.float64)
        vertices = self.vertices.double() + offset.to(self.vertices.device)
        return replace(self, vertices=vertices.float(), origin=tuple(origin))

    def transformed(self, matrix: Tensor) -> Mesh:
        """The mesh under an affine (4, 4) matrix; reflections also reverse the faces' winding.

        The matrix acts on world coordinates. A mesh with an `origin` keeps one only while it is far
        from the world origin; use float64 matrices for such a mesh.
        """
        linear = matrix[:3, :3].to(self.vertices)
        if self.origin == ZERO_ORIGIN:
            vertices = self.vertices @ linear.T + matrix[:3, 3].to(self.vertices)
            origin = ZERO_ORIGIN
        else:
            vertices, origin = self._transformed_far(matrix.cpu().double())
        mirrored = bool(torch.linalg.det(linear) < 0)
        normals = self.normals
        if normals is not None:
            normals = torch.nn.functional.normalize(normals @ torch.linalg.inv(linear), dim=-1)
        faces = self.faces.flip(1) if mirrored else self.faces
        tangents = self.tangents
        if tangents is not None:
            along_u = torch.nn.functional.normalize(tangents[:, :3] @ linear.T, dim=-1)
            sign = -tangents[:, 3:] if mirrored else tangents[:, 3:]
            tangents = torch.cat([along_u, sign], dim=1)
        return replace(
            self,
            vertices=vertices,
            faces=faces,
            normals=normals,
            origin=origin,
            tangents=tangents,
        )

    def _transformed_far(self, matrix: Tensor) -> tuple[Tensor, tuple[float, float, float]]:
        """Transformed vertices (N, 3) and origin of a mesh with an origin; `matrix` is float64."""
        vertices = self.vertices.double() @ matrix[:3, :3].T.to(self.vertices.device)
        origin = matrix[:3, :3] @ torch.tensor(self.origin, dtype=torch.float64) + matrix[:3, 3]
        used = vertices[self.faces.reshape(-1)]
        low, high = used.amin(dim=0).cpu(), used.amax(dim=0).cpu()
        if not is_far_from_origin(low + origin, high + origin):
            return (vertices + origin.to(vertices.device)).float(), ZERO_ORIGIN
        return vertices.float(), tuple(origin.tolist())

    def to_y_up(self, up_axis: UpAxis) -> Mesh:
        """The mesh rotated from a world with `up_axis` up to +Y up."""
        if up_axis not in Y_UP_ROTATIONS:
            raise InputError(
                f"up_axis is '{up_axis}', expected one of {', '.join(Y_UP_ROTATIONS)}."
            )
        if up_axis == "+Y":
            return self
        matrix = torch.eye(4)
        matrix[:3, :3] = torch.tensor(Y_UP_ROTATIONS[up_axis])
        return self.transformed(matrix)

    def normalising_matrix(self) -> Tensor:
        """The (4, 4) matrix that centres the bounding box and scales its longest side to 1.

        It acts on world coordinates, and is float64 for a mesh with an `origin`, else float32.
        """
        low, high = self.bounds
        if self.origin != ZERO_ORIGIN:
            origin = torch.tensor(self.origin, dtype=torch.float64)
            low, high = low.cpu().double() + origin, high.cpu().double() + origin
        longest = float((high - low).max())
        if not longest > 0:
            raise InputError("the mesh has no size: all its vertices have the same position.")
        matrix = torch.eye(4, dtype=low.dtype) / longest
        matrix[:3, 3] = -(low + high).cpu() / 2 / longest
        matrix[3, 3] = 1.0
        return matrix

    def normalised(self) -> Mesh:
        """The mesh centred in [-0.5, 0.5]^3 with its longest side 1."""
        return self.transformed(self.normalising_matrix())

    def welded(self) -> Mesh:
        """The bare surface with vertices of equal position merged, which closes uv seams."""
        vertices, position = torch.unique(self.vertices, dim=0, return_inverse=True)
        faces = position[self.faces]
        proper = (faces != faces.roll(1, dims=1)).all(dim=1)
        return Mesh(vertices, faces[proper], origin=self.origin)

    def with_smooth_normals(self) -> Mesh:
        """The mesh with vertex normals: angle-weighted means of the face normals, across seams."""
        _, position = torch.unique(self.vertices.cpu(), dim=0, return_inverse=True)
        faces = self.faces.cpu()
        corners = self.vertices.cpu().double()[faces]  # (F, 3, 3)
        forward = torch.nn.functional.normalize(corners.roll(-1, dims=1) - corners, dim=2)
        cosine = -(forward * forward.roll(1, dims=1)).sum(dim=2)
        angles = cosine.clamp(-1.0, 1.0).arccos().float()  # (F, 3)
        directions = self.face_normals.cpu()
        sums = torch.zeros(int(position.max()) + 1, 3)
        for corner in range(3):
            sums.index_add_(0, position[faces[:, corner]], directions * angles[:, corner, None])
        normals = torch.nn.functional.normalize(sums, dim=1)[position]
        return replace(self, normals=normals.to(self.vertices))

    def as_trimesh(self) -> trimesh.Trimesh:
        """The bare geometry as a trimesh object, with vertices and faces in the same order."""
        import trimesh

        return trimesh.Trimesh(
            self.vertices.cpu().double().numpy(), self.faces.cpu().numpy(), process=False
        )


def is_far_from_origin(low: Tensor | np.ndarray, high: Tensor | np.ndarray) -> bool:
    """Whether float32 is too coarse for a bounding box with corners `low` and `high` (3,)."""
    size = max(float(value) for value in high - low)
    return max(abs(float(value)) for value in (low + high) / 2) > FAR_FROM_ORIGIN * size > 0.0
