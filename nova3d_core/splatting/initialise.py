"""Start of the optimisation: splats on the visual hull, coloured by the views."""

from __future__ import annotations

import torch
from torch import Tensor

from ..evaluation.metrics.geometry import sample_surface
from ..fusion.config import HullConfig
from ..fusion.hull.visual_hull import carve_hull
from ..imaging.sampling import sample_image
from ..meshing.isosurface import extract_surface
from ..progress import SILENT, Progress
from ..rendering.raycast import RayCaster
from ..splats import Splats
from ..texturing.visibility import visible_points
from ..views import Views

HULL_RESOLUTION = 96
OPACITY = 0.5
"""Initial opacity, as in V3D."""
_MAX_SCALE_VOXELS = 2.0
"""Upper limit of initial scales, in voxels of the hull."""
_NEIGHBOURS = 3
_MIN_COSINE = 0.1
"""Views at more grazing angles do not colour a point."""


def initial_splats(views: Views, count: int, seed: int, progress: Progress = SILENT) -> Splats:
    """Isotropic splats at random points of the visual hull, uniform by area.

    V3D carves voxels with the masks of its views and samples the surface; the visual hull is the
    same with distances instead of voxels.

    Scales are the root mean square distance to the three nearest neighbours; colours are the mean
    over the views that see the point, grey where none does.

    Args:
        views: masked views.
        count: number of splats.
        seed: of the random points.
        progress: receives each view.

    Raises:
        InputError, StageError: as `carve_hull`.
    """
    grid = carve_hull(views, HullConfig(HULL_RESOLUTION), progress)
    mesh = extract_surface(grid)
    samples = sample_surface(mesh, count, seed)
    positions, normals = (
        torch.from_numpy(part).float() for part in (samples.points, samples.normals)
    )
    scales = neighbour_distances(positions).clamp_max(_MAX_SCALE_VOXELS * grid.spacing)
    caster = RayCaster.from_mesh(mesh)
    total, weight = torch.zeros(count, 3), torch.zeros(count, 1)
    for view in progress.track(range(len(views)), "colouring", len(views)):
        seen = visible_points(caster, positions, normals, views.cameras[view], _MIN_COSINE)
        cosine = seen.cosine[:, None]
        total[seen.index] += cosine * sample_image(views.colour[view], seen.pixels)
        weight[seen.index] += cosine
    colours = torch.where(weight > 0, total / weight.clamp_min(1e-6), 0.5)
    return Splats(
        positions=positions,
        scales=scales[:, None].expand(count, 3),
        rotations=torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(count, 4),
        opacities=torch.full((count,), OPACITY),
        colours=colours,
    )


def neighbour_distances(points: Tensor) -> Tensor:
    """(N,) root mean square distance from each point (N, 3) to its three nearest neighbours."""
    from scipy.spatial import cKDTree

    neighbours = min(_NEIGHBOURS, len(points) - 1)
    if neighbours == 0:
        return torch.full((len(points),), 1e-2)
    tree = cKDTree(points.numpy())
    distance, _ = tree.query(points.numpy(), k=neighbours + 1)
    squared = torch.from_numpy(distance[:, 1:]).float().square().mean(dim=1)
    return squared.clamp_min(1e-7).sqrt()
