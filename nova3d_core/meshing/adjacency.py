"""Which vertices of a mesh are neighbours, as a sparse matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


def vertex_adjacency(faces: np.ndarray, count: int) -> csr_matrix:
    """(N, N) sparse and symmetric: how many sides of the faces (F, 3) join two of N vertices."""
    from scipy.sparse import coo_array

    start, end = faces.reshape(-1), np.roll(faces, -1, axis=1).reshape(-1)
    ones = np.ones(2 * len(start))
    return coo_array((ones, (np.r_[start, end], np.r_[end, start])), shape=(count, count)).tocsr()
