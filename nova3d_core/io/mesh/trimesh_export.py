"""Meshes as trimesh objects, which its exporters for GLB, OBJ and PLY take."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...mesh import Mesh

if TYPE_CHECKING:
    import trimesh
    from PIL.Image import Image


def to_trimesh(
    mesh: Mesh, visual: Any = None, vertices: np.ndarray | None = None
) -> trimesh.Trimesh:
    """Converts a mesh to trimesh, with its vertex colours unless a visual is given.

    Args:
        mesh: on any device.
        visual: a trimesh visual with texture and material.
        vertices: (N, 3) float64; by default the mesh's own, relative to its origin.
    """
    import trimesh

    colours = None
    if visual is None and mesh.vertex_colours is not None:
        colours = to_uint8(mesh.vertex_colours)
    return trimesh.Trimesh(
        vertices=mesh.vertices.cpu().double().numpy() if vertices is None else vertices,
        faces=mesh.faces.cpu().numpy(),
        vertex_normals=None if mesh.normals is None else mesh.normals.cpu().numpy(),
        vertex_colors=colours,
        visual=visual,
        process=False,
    )


def with_unit_normals(mesh: Mesh) -> Mesh:
    """The mesh on the CPU with unit normals, as glTF requires; +Y where no face defines one."""
    mesh = mesh.to("cpu")
    if mesh.normals is None:
        mesh = mesh.with_smooth_normals()
    length = mesh.normals.norm(dim=1, keepdim=True)
    upward = mesh.normals.new_tensor([0.0, 1.0, 0.0])
    return replace(mesh, normals=torch.where(length > 1e-6, mesh.normals / length, upward))


def world_vertices(mesh: Mesh) -> np.ndarray:
    """(N, 3) float64 vertices in world coordinates."""
    return mesh.vertices.cpu().double().numpy() + np.array(mesh.origin)


def flip_v_to_bottom(uv: Tensor | None) -> np.ndarray | None:
    """(N, 2) texture coordinates with the origin bottom left, as in trimesh and OBJ."""
    if uv is None:
        return None
    flipped = uv.cpu().double().numpy()
    flipped[:, 1] = 1.0 - flipped[:, 1]
    return flipped


def to_pil_image(texture: Tensor) -> Image:
    """A texture (H, W, 3) in 0..1 as an 8-bit image."""
    from PIL import Image

    return Image.fromarray(to_uint8(texture))


def to_uint8(colours: Tensor) -> np.ndarray:
    """Colours in 0..1 as uint8."""
    return (colours.detach().cpu().clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).numpy()
