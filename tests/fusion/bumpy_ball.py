"""A small object with shape and texture from all sides."""

from __future__ import annotations

import torch
import trimesh

from nova3d_core.mesh import Mesh


def bumpy_ball() -> Mesh:
    """A bumpy ball with waves of colour."""
    sphere = trimesh.creation.icosphere(subdivisions=4, radius=1.0)
    position = torch.tensor(sphere.vertices, dtype=torch.float32)
    x, y, z = position.unbind(dim=1)
    radius = 0.36 + 0.06 * (5 * x + 1).sin() * (4 * y).cos() + 0.05 * (4 * z + 3 * x).sin()
    waves = torch.stack([11 * x + 3 * y, 9 * y + 5 * z + 1, 10 * z + 4 * x + 2], dim=1).sin()
    faces = torch.tensor(sphere.faces, dtype=torch.int64)
    mesh = Mesh(position * radius[:, None], faces, vertex_colours=0.5 + 0.45 * waves)
    return mesh.with_smooth_normals()
