"""Smooths what no view sees, where optimising leaves bumps that nothing asked for."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..checks import check_shape
from ..mesh import Mesh
from .adjacency import vertex_adjacency

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

logger = logging.getLogger(__name__)

_RINGS = 2
"""Gaps in what is seen that so many rings of vertices close are those between pixels."""
_MOST_ROUNDS = 1000


def smooth_unobserved(mesh: Mesh, seen: Tensor, wavelength_edges: float) -> Mesh:
    """The surface with low-passed unseen areas; vertices that are seen stay where they are.

    Unseen vertices minimise |x - x0|^2 + |L x|^2 / l^2 together, with the graph's Laplacian
    L x = x - mean of neighbours and l = (2 pi / wavelength)^2 / 4, its value on a wave of that many
    edges: shorter bumps go, longer shapes stay, and seen borders are continued without a bend.
    Loose parts of which nothing is seen stay as they are: nothing would hold them.

    Args:
        mesh: a surface of edges of about one length; attributes are dropped.
        seen: (N,) bool, which vertices a view sees.
        wavelength_edges: bumps shorter than so many edges go; 0 leaves all as it is.
    """
    check_shape("seen vertices", seen, "N", N=len(mesh.vertices))
    bare = Mesh(mesh.vertices, mesh.faces, origin=mesh.origin)
    if wavelength_edges <= 0.0:
        return bare
    faces, marked = mesh.faces.cpu().numpy(), seen.cpu().numpy()
    links = vertex_adjacency(faces, len(marked))
    links.data[:] = 1.0  # each neighbour counts alike
    free = ~_closed(links, marked) & _of_seen_parts(links, marked)
    if not free.any():
        return bare
    places = mesh.vertices.cpu().double().numpy()
    places[free] += _displacements(links, free, places, wavelength_edges)
    return replace(bare, vertices=torch.from_numpy(places).to(mesh.vertices))


def _displacements(
    links: csr_matrix, free: np.ndarray, places: np.ndarray, wavelength_edges: float
) -> np.ndarray:
    """(U, 3) how far each of the U free vertices moves: the minimum of `smooth_unobserved`."""
    from scipy.sparse import diags, eye
    from scipy.sparse.linalg import cg

    degree = np.asarray(links.sum(axis=1)).reshape(-1)
    laplacian = (diags((degree > 0).astype(float)) - diags(1 / degree.clip(1)) @ links).tocsr()
    bend = laplacian @ places
    laplacian = laplacian[:, free]
    stiffness = ((wavelength_edges / (2.0 * np.pi)) ** 2 * 4.0) ** 2  # 1 / l^2
    system = (eye(laplacian.shape[1]) + stiffness * (laplacian.T @ laplacian)).tocsr()
    right = -stiffness * (laplacian.T @ bend)
    inverse = diags(1.0 / system.diagonal())
    answers = [cg(system, one, maxiter=_MOST_ROUNDS, M=inverse, atol=0.0) for one in right.T]
    if any(flag for _, flag in answers):
        logger.warning("unseen areas are not wholly smooth: %d rounds were too few", _MOST_ROUNDS)
    return np.stack([answer for answer, _ in answers], axis=1)


def _closed(links: csr_matrix, marked: np.ndarray) -> np.ndarray:
    """(N,) the marked vertices, small gaps between them filled."""
    for _ in range(_RINGS):
        marked = marked | (links @ marked.astype(float) > 0)
    for _ in range(_RINGS):
        marked = marked & ~(links @ (~marked).astype(float) > 0)
    return marked


def _of_seen_parts(links: csr_matrix, marked: np.ndarray) -> np.ndarray:
    """(N,) whether a vertex hangs together with a marked one."""
    from scipy.sparse.csgraph import connected_components

    _, part = connected_components(links, directed=False)
    return np.isin(part, part[marked])
