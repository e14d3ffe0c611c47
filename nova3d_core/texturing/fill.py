"""Inpainting of unobserved texels over the surface, and padding of charts."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..imaging.nearest import nearest_pixels
from ..mesh import Mesh
from ..meshing.adjacency import vertex_adjacency
from ..rendering.shading import interpolate
from .texels import Texels

_MEAN_WEIGHT = 1e-6
"""Weight of the mean colour: unobserved components take it, and the system stays regular."""


def fill_unobserved(mesh: Mesh, texels: Texels, colour: Tensor, observed: Tensor) -> Tensor:
    """Interpolates the colours of unobserved texels smoothly over the surface.

    Vertices take the mean of the observed texels around them; all other vertices solve the discrete
    Laplace equation on the mesh's edges, so that colour diffuses over the surface and not between
    charts that are merely neighbours in the texture.

    Args:
        mesh: the surface.
        texels: T texels.
        colour: (T, 3); values at unobserved texels are ignored.
        observed: (T,) in 0..1, certainty of each texel's colour.

    Returns:
        (T, 3).
    """
    if bool((observed >= 1).all()):
        return colour
    _, position = torch.unique(mesh.vertices, dim=0, return_inverse=True)
    corners = position[mesh.faces]  # (F, 3) merged vertices
    weights = texels.barycentric * observed[:, None]  # (T, 3)
    total = torch.zeros(int(position.max()) + 1)
    sums = torch.zeros(len(total), 3)
    for corner in range(3):
        vertex = corners[texels.face, corner]
        total.index_add_(0, vertex, weights[:, corner])
        sums.index_add_(0, vertex, weights[:, corner, None] * colour)
    known = total > 1e-3
    at_vertices = torch.where(known[:, None], sums / total.clamp_min(1e-3)[:, None], 0.5)
    mean = sums.sum(dim=0) / total.sum().clamp_min(1e-6) if bool(known.any()) else sums.new_ones(3)
    at_vertices = _solve_laplace(corners.numpy(), at_vertices.numpy(), known.numpy(), mean.numpy())
    interpolated = interpolate(at_vertices, corners[texels.face], texels.barycentric)
    return torch.lerp(interpolated, colour, observed[:, None])


def _solve_laplace(
    faces: np.ndarray, values: np.ndarray, known: np.ndarray, mean: np.ndarray
) -> Tensor:
    """Values (N, 3) with the unknown ones replaced by the solution of the Laplace equation."""
    from scipy.sparse import diags
    from scipy.sparse.linalg import spsolve

    unknown = np.flatnonzero(~known)
    if len(unknown) == 0:
        return torch.from_numpy(values).float()
    rows = vertex_adjacency(faces, len(values))[unknown]
    degree = np.asarray(rows.sum(axis=1)).reshape(-1) + _MEAN_WEIGHT
    system = (diags(degree) - rows[:, unknown]).tocsc()
    rhs = rows[:, np.flatnonzero(known)] @ values[known].astype(np.float64)
    solved = spsolve(system, rhs + _MEAN_WEIGHT * mean)
    values = values.copy()
    values[unknown] = solved.reshape(-1, 3)
    return torch.from_numpy(values).float()


def pad_charts(texels: Texels, colour: Tensor) -> Tensor:
    """The texture (H, W, 3): texels outside all charts copy the nearest one inside.

    Args:
        texels: T texels.
        colour: (T, C).
    """
    height, width = texels.size_px
    texture = torch.zeros(height * width, colour.shape[1])
    texture[texels.index] = colour
    return texture[nearest_texels(texels)].reshape(height, width, -1)


def nearest_texels(texels: Texels) -> Tensor:
    """(H * W,) index of the nearest texel inside a chart; of those inside, their own."""
    height, width = texels.size_px
    is_inside = torch.zeros(height * width, dtype=torch.bool)
    is_inside[texels.index] = True
    return nearest_pixels(is_inside.reshape(height, width)).reshape(-1)
