"""Colours for what no view has seen: over the surface first, then beyond the charts' edges."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..mesh import Mesh
from ..meshing.adjacency import vertex_adjacency
from ..rendering.shading import interpolate
from .texels import Texels

_PULL_TO_MEAN = 1e-6
"""Ties parts that no view has seen at all to the mean colour, and keeps the system regular."""


def fill_unobserved(mesh: Mesh, texels: Texels, colour: Tensor, seen: Tensor) -> Tensor:
    """Texel colours with the unseen ones continued smoothly over the surface.

    Vertices take the mean of the seen texels around them; the other vertices solve the discrete
    Laplace equation on the mesh's edges, so that colour flows over the surface and never across
    charts that only lie side by side in the texture.

    Args:
        mesh: the surface.
        texels: T texels.
        colour: (T, 3); what stands at unseen texels does not matter.
        seen: (T,) in 0..1, how sure each texel is.

    Returns:
        (T, 3).
    """
    if bool((seen >= 1).all()):
        return colour
    _, place = torch.unique(mesh.vertices, dim=0, return_inverse=True)
    corners = place[mesh.faces]  # (F, 3) welded
    weights = texels.barycentric * seen[:, None]  # (T, 3)
    total = torch.zeros(int(place.max()) + 1)
    sums = torch.zeros(len(total), 3)
    for corner in range(3):
        vertex = corners[texels.face, corner]
        total.index_add_(0, vertex, weights[:, corner])
        sums.index_add_(0, vertex, weights[:, corner, None] * colour)
    known = total > 1e-3
    at_vertices = torch.where(known[:, None], sums / total.clamp_min(1e-3)[:, None], 0.5)
    mean = sums.sum(dim=0) / total.sum().clamp_min(1e-6) if bool(known.any()) else sums.new_ones(3)
    at_vertices = _harmonic(corners.numpy(), at_vertices.numpy(), known.numpy(), mean.numpy())
    continued = interpolate(at_vertices, corners[texels.face], texels.barycentric)
    return torch.lerp(continued, colour, seen[:, None])


def _harmonic(faces: np.ndarray, values: np.ndarray, known: np.ndarray, mean: np.ndarray) -> Tensor:
    """Values (N, 3) whose unknown entries are the mean of their neighbours over the edges."""
    from scipy.sparse import diags
    from scipy.sparse.linalg import spsolve

    unknown = np.flatnonzero(~known)
    if len(unknown) == 0:
        return torch.from_numpy(values).float()
    rows = vertex_adjacency(faces, len(values))[unknown]
    degree = np.asarray(rows.sum(axis=1)).reshape(-1) + _PULL_TO_MEAN
    system = (diags(degree) - rows[:, unknown]).tocsc()
    right = rows[:, np.flatnonzero(known)] @ values[known].astype(np.float64)
    solved = spsolve(system, right + _PULL_TO_MEAN * mean)
    values = values.copy()
    values[unknown] = solved.reshape(-1, 3)
    return torch.from_numpy(values).float()


def pad_charts(texels: Texels, colour: Tensor) -> Tensor:
    """The whole texture (size, size, 3): texels outside all charts repeat the nearest one."""
    from scipy.ndimage import distance_transform_edt

    size = texels.size_px
    texture = torch.zeros(size * size, 3)
    texture[texels.index] = colour
    empty = torch.ones(size * size, dtype=torch.bool)
    empty[texels.index] = False
    row, column = distance_transform_edt(
        empty.reshape(size, size).numpy(), return_distances=False, return_indices=True
    )
    nearest = torch.from_numpy(row.astype(np.int64) * size + column).reshape(-1)
    return texture[nearest].reshape(size, size, 3)
