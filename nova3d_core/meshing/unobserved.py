"""Smoothing of unobserved surface regions, where no view constrains the optimisation."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..checks import check_shape
from ..mesh import Mesh
from .adjacency import connected_components, vertex_adjacency

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

logger = logging.getLogger(__name__)

_RINGS = 2
"""Gaps of up to twice this many vertex rings in the observed region are gaps between pixels."""
_MAX_CG_ITERATIONS = 1000


def smooth_unobserved(mesh: Mesh, observed: Tensor, wavelength_edges: float) -> Mesh:
    """Low-pass filters the unobserved regions of a surface; observed vertices do not move.

    The unobserved vertices minimise |x - x0|^2 + |L x|^2 / l^2, with the graph Laplacian
    L x = x - mean of neighbours and l = (2 pi / wavelength)^2 / 4, its eigenvalue for a wave of
    that many edges: shorter bumps are removed, longer shapes are kept, and the surface continues
    smoothly across the border of the observed region. Components without any observed vertex are
    left unchanged.

    Args:
        mesh: a surface with edges of roughly equal length; attributes are dropped.
        observed: (N,) bool, vertices that at least one view observes.
        wavelength_edges: cut-off wavelength in edges; 0 leaves the surface unchanged.
    """
    check_shape("observed vertices", observed, "N", N=len(mesh.vertices))
    bare = Mesh(mesh.vertices, mesh.faces, origin=mesh.origin)
    if wavelength_edges <= 0.0:
        return bare
    faces, fixed = mesh.faces.cpu().numpy(), observed.cpu().numpy()
    adjacency = vertex_adjacency(faces, len(fixed))
    adjacency.data[:] = 1.0  # unit weight for each neighbour
    free = ~_close_gaps(adjacency, fixed) & _in_observed_component(adjacency, fixed)
    if not free.any():
        return bare
    vertices = mesh.vertices.cpu().double().numpy()
    vertices[free] += _displacements(adjacency, free, vertices, wavelength_edges)
    return replace(bare, vertices=torch.from_numpy(vertices).to(mesh.vertices))


def _displacements(
    adjacency: csr_matrix, free: np.ndarray, vertices: np.ndarray, wavelength_edges: float
) -> np.ndarray:
    """(U, 3) displacements of the U free vertices that minimise `smooth_unobserved`'s energy."""
    from scipy.sparse import diags, eye
    from scipy.sparse.linalg import cg

    degree = np.asarray(adjacency.sum(axis=1)).reshape(-1)
    laplacian = (diags((degree > 0).astype(float)) - diags(1 / degree.clip(1)) @ adjacency).tocsr()
    curvature = laplacian @ vertices
    laplacian = laplacian[:, free]
    stiffness = ((wavelength_edges / (2.0 * np.pi)) ** 2 * 4.0) ** 2  # 1 / l^2
    system = (eye(laplacian.shape[1]) + stiffness * (laplacian.T @ laplacian)).tocsr()
    rhs = -stiffness * (laplacian.T @ curvature)
    jacobi = diags(1.0 / system.diagonal())
    solved = [cg(system, b, maxiter=_MAX_CG_ITERATIONS, M=jacobi, atol=0.0) for b in rhs.T]
    if any(flag for _, flag in solved):
        logger.warning(
            "smoothing of unobserved regions did not converge within %d iterations",
            _MAX_CG_ITERATIONS,
        )
    return np.stack([x for x, _ in solved], axis=1)


def _close_gaps(adjacency: csr_matrix, observed: np.ndarray) -> np.ndarray:
    """(N,) the observed vertices after morphological closing by `_RINGS` rings of neighbours."""
    for _ in range(_RINGS):
        observed = observed | (adjacency @ observed.astype(float) > 0)
    for _ in range(_RINGS):
        observed = observed & ~(adjacency @ (~observed).astype(float) > 0)
    return observed


def _in_observed_component(adjacency: csr_matrix, observed: np.ndarray) -> np.ndarray:
    """(N,) whether a vertex is connected to an observed one."""
    component = connected_components(np.stack(adjacency.nonzero(), axis=1), len(observed))
    return np.isin(component, component[observed])
