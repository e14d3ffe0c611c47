"""Vertex adjacency and connected components of meshes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


def vertex_adjacency(faces: np.ndarray, vertex_count: int) -> csr_matrix:
    """(N, N) sparse symmetric matrix: number of half-edges of faces (F, 3) between two vertices."""
    from scipy.sparse import coo_array

    start, end = faces.reshape(-1), np.roll(faces, -1, axis=1).reshape(-1)
    rows, columns = np.r_[start, end], np.r_[end, start]
    ones = np.ones(2 * len(start))
    return coo_array((ones, (rows, columns)), shape=(vertex_count, vertex_count)).tocsr()


def connected_components(edges: np.ndarray, count: int) -> np.ndarray:
    """(N,) int64 component index of each of N = `count` nodes of an undirected graph.

    Args:
        edges: (E, 2) pairs of nodes.
        count: number of nodes.
    """
    from scipy.sparse import coo_array, csgraph

    a, b = edges.T
    graph = coo_array((np.ones(len(a), bool), (a, b)), shape=(count, count))
    return csgraph.connected_components(graph, directed=False)[1].astype(np.int64)


def face_components(faces: np.ndarray, vertex_count: int) -> np.ndarray:
    """(F,) component index of each face; faces that share a vertex are connected."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]]])
    component_of_vertex = connected_components(edges, vertex_count)
    return np.unique(component_of_vertex[faces[:, 0]], return_inverse=True)[1]
