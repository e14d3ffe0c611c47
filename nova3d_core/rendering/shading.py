"""Colour and normal of surface points."""

from __future__ import annotations

import torch
from torch import Tensor

from ..imaging.sampling import sample_texture
from ..mesh import Mesh

GREY = 0.7
"""sRGB grey of a mesh without texture and vertex colours."""


def interpolate(values: Tensor, faces: Tensor, barycentric: Tensor) -> Tensor:
    """Vertex values (N, C) interpolated at P points, given faces (P, 3) and weights (P, 3)."""
    return (values[faces] * barycentric[..., None]).sum(dim=1)


def surface_colour(mesh: Mesh, face: Tensor, barycentric: Tensor) -> Tensor:
    """Unlit sRGB colours (P, 3) of surface points: texture, else vertex colours, else grey.

    Args:
        mesh: the mesh.
        face: (P,) face indices.
        barycentric: (P, 3) weights of the face's corners.
    """
    corners = mesh.faces[face]
    if mesh.texture is not None and mesh.uv is not None:
        return sample_texture(mesh.texture, interpolate(mesh.uv, corners, barycentric))
    if mesh.vertex_colours is not None:
        return interpolate(mesh.vertex_colours, corners, barycentric)
    return torch.full((len(face), 3), GREY, device=mesh.vertices.device)


def facing_normal(mesh: Mesh, face: Tensor, barycentric: Tensor, directions: Tensor) -> Tensor:
    """World normals (P, 3) of surface points, flipped towards the ray's origin.

    Args:
        mesh: the mesh; interpolates its vertex normals, else uses face normals.
        face: (P,) face indices.
        barycentric: (P, 3) weights of the face's corners.
        directions: (P, 3) unit ray directions.
    """
    corners = mesh.faces[face]
    points = mesh.vertices[corners]  # (P, 3, 3)
    cross = torch.linalg.cross(points[:, 1] - points[:, 0], points[:, 2] - points[:, 0])
    normal = flat = torch.nn.functional.normalize(cross, dim=-1, eps=1e-20)
    if mesh.normals is not None:
        smooth = interpolate(mesh.normals, corners, barycentric)
        normal = torch.nn.functional.normalize(smooth, dim=-1, eps=1e-12)
    is_back_face = (flat * directions).sum(dim=-1, keepdim=True) > 0
    return torch.where(is_back_face, -normal, normal)
