"""Meshes to bake onto."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from nova3d_core.mesh import Mesh


@pytest.fixture(scope="session")
def globe() -> Mesh:
    """A latitude-longitude sphere with smooth colours by position and a known uv map."""
    rows, columns, radius = 24, 48, 0.4
    v, u = torch.meshgrid(
        torch.linspace(0, 1, rows + 1), torch.linspace(0, 1, columns + 1), indexing="ij"
    )
    theta, phi = v * np.pi, u * 2 * np.pi
    vertices = radius * torch.stack(
        [theta.sin() * phi.sin(), theta.cos(), theta.sin() * phi.cos()], dim=-1
    ).reshape(-1, 3)
    corner = (torch.arange(rows)[:, None] * (columns + 1) + torch.arange(columns)).reshape(-1)
    below = corner + columns + 1
    faces = torch.cat(
        [
            torch.stack([corner, below, below + 1], 1),
            torch.stack([corner, below + 1, corner + 1], 1),
        ]
    )
    uv = torch.stack([u, v], dim=-1).reshape(-1, 2)
    normals = vertices / radius
    mesh = Mesh(vertices, faces, uv=uv, normals=normals)
    proper = mesh.face_areas > 1e-9
    return replace(mesh, faces=faces[proper], vertex_colours=(vertices / radius) * 0.45 + 0.5)
