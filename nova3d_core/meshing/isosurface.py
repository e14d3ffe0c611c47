"""Isosurface extraction from signed distance grids by marching cubes."""

from __future__ import annotations

import torch

from ..errors import StageError
from ..mesh import Mesh
from ..sdf_grid import SdfGrid

STAGE = "meshing"


def extract_surface(grid: SdfGrid) -> Mesh:
    """The zero level set of a grid as a closed mesh with outward faces (marching cubes).

    Args:
        grid: signed distances; all border values must be positive, or the surface would be open.

    Raises:
        StageError: the grid contains no surface, or the surface crosses its border.
    """
    from skimage.measure import marching_cubes

    values = grid.values.cpu()
    border = torch.cat([values.movedim(axis, 0)[[0, -1]].reshape(-1) for axis in range(3)])
    if not bool((values < 0).any()):
        raise StageError(STAGE, "the distance field is positive everywhere: there is no surface.")
    if bool((border <= 0).any()):
        raise StageError(
            STAGE, "the surface crosses the border of the grid.", "Increase the grid's padding."
        )
    # a value of exactly zero puts several vertices on one grid point: degenerate faces
    tiny = 1e-3 * grid.spacing
    values = torch.where(values.abs() < tiny, tiny, values)
    vertices, faces, _, _ = marching_cubes(
        values.numpy(), 0.0, spacing=(grid.spacing,) * 3, gradient_direction="descent"
    )
    return Mesh(
        torch.from_numpy(vertices.copy()).float() + grid.origin.cpu(),
        torch.from_numpy(faces.astype("int64")),
    )
