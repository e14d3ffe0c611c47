"""Smooths what no view sees, where optimising leaves bumps that nothing asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..mesh import Mesh

_RINGS = 2
"""Gaps and specks of so many rings of vertices do not count: what is left are whole areas."""
_PRECISION = 1e-5
_ROUNDS = 500


def smooth_unseen(mesh: Mesh, seen: Tensor, wavelength_edges: float) -> Mesh:
    """The surface with low-passed unseen areas; vertices that are seen stay where they are.

    Unseen vertices minimise |x - x0|^2 + |L x|^2 / l^2 together, with the graph's Laplacian
    L x = x - mean of neighbours and l = (2 pi / wavelength)^2 / 4, its value on a wave of that many
    edges: shorter bumps go, longer shapes stay, and seen borders are continued without a bend.

    Args:
        mesh: a surface of edges of about one length; attributes are dropped.
        seen: (N,) bool, which vertices a view sees.
        wavelength_edges: bumps shorter than so many edges go; 0 leaves all as it is.
    """
    bare = Mesh(mesh.vertices, mesh.faces)
    if wavelength_edges <= 0.0:
        return bare
    from scipy.sparse import diags, eye
    from scipy.sparse.linalg import cg

    links = _links(mesh.faces.cpu().numpy(), len(mesh.vertices))
    free = ~_closed(links, seen.cpu().numpy())
    if not free.any():
        return bare
    mean = diags(1.0 / np.maximum(links.sum(axis=1), 1.0)) @ links
    laplacian = (eye(len(free)) - mean).tocsr()[:, free]
    stiffness = ((wavelength_edges / (2.0 * np.pi)) ** 2 * 4.0) ** 2
    system = (eye(int(free.sum())) + stiffness * (laplacian.T @ laplacian)).tocsr()
    start = mesh.vertices.cpu().double().numpy()
    held = np.where(free[:, None], 0.0, start)
    right = start[free] - stiffness * (laplacian.T @ (held - mean @ held))
    inverse = diags(1.0 / system.diagonal())
    places = start.copy()
    for axis in range(3):
        places[free, axis], _ = cg(
            system,
            right[:, axis],
            x0=start[free, axis],
            rtol=_PRECISION,
            maxiter=_ROUNDS,
            M=inverse,
        )
    return replace(bare, vertices=torch.from_numpy(places).to(mesh.vertices))


def _links(faces: np.ndarray, count: int):
    """(N, N) sparse, 1 between vertices that share an edge."""
    from scipy.sparse import coo_array

    start, end = faces.reshape(-1), np.roll(faces, -1, axis=1).reshape(-1)
    rows, columns = np.concatenate([start, end]), np.concatenate([end, start])
    links = coo_array((np.ones(len(rows)), (rows, columns)), shape=(count, count)).tocsr()
    links.data[:] = 1.0
    return links


def _closed(links, marked: np.ndarray) -> np.ndarray:
    """(N,) the marked vertices, small gaps between them filled."""
    for _ in range(_RINGS):
        marked = marked | (links @ marked.astype(float) > 0)
    for _ in range(_RINGS):
        marked = marked & ~(links @ (~marked).astype(float) > 0)
    return marked
