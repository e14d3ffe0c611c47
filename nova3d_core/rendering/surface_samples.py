"""Random points on a surface."""

from __future__ import annotations

import torch
from torch import Tensor

from ..mesh import Mesh


def random_surface_points(mesh: Mesh, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Faces (N,) and barycentric weights (N, 3) of random points on a mesh, uniform by area.

    Args:
        mesh: a mesh with an area above 0.
        count: number of points, N.
        seed: the same seed on the same mesh gives the same points.
    """
    random = torch.Generator().manual_seed(seed)
    total = mesh.face_areas.double().cumsum(0)
    target = torch.rand(count, generator=random, dtype=torch.float64) * total[-1]
    face = torch.searchsorted(total, target).clamp_max(len(total) - 1)
    # uniform in a triangle: the square root of one number, and a second one
    root, other = torch.rand(2, count, generator=random).unbind()
    root = root.sqrt()
    return face, torch.stack([1.0 - root, root * (1.0 - other), root * other], dim=1)
