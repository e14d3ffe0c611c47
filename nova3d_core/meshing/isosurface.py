"""The zero level of a signed distance grid as a triangle mesh."""

from __future__ import annotations

import torch

from ..errors import StageError
from ..mesh import Mesh
from ..sdf_grid import SdfGrid

STAGE = "meshing"


def extract_surface(grid: SdfGrid) -> Mesh:
    """Marching cubes: a closed surface with outward faces.

    Args:
        grid: signed distances; its border must lie outside, or the surface would be cut open.

    Raises:
        StageError: no surface crosses the grid, or it runs out of the grid.
    """
    from skimage.measure import marching_cubes

    values = grid.values.cpu()
    border = torch.cat([values.movedim(axis, 0)[[0, -1]].reshape(-1) for axis in range(3)])
    if not bool((values < 0).any()):
        raise StageError(STAGE, "the distance field is positive everywhere: there is no surface.")
    if bool((border <= 0).any()):
        raise StageError(
            STAGE, "the surface runs out of the grid.", "Give the grid more padding around it."
        )
    # a value of exactly zero puts several vertices on one grid point: faces without area
    tiny = 1e-3 * grid.spacing
    values = torch.where(values.abs() < tiny, tiny, values)
    vertices, faces, _, _ = marching_cubes(
        values.numpy(), 0.0, spacing=(grid.spacing,) * 3, gradient_direction="descent"
    )
    return Mesh(
        torch.from_numpy(vertices.copy()).float() + grid.origin.cpu(),
        torch.from_numpy(faces.astype("int64")),
    )
