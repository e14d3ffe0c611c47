"""Visual hull as a signed distance grid: exact near the surface, interpolated elsewhere."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from ...errors import InputError, StageError
from ...progress import SILENT, Progress
from ...sdf_grid import SdfGrid, grid_points
from ...views import Views
from ..config import HullConfig
from ..rays import intersect_rays
from .silhouettes import STAGE, Silhouettes

logger = logging.getLogger(__name__)

_COARSE_FACTOR = 4
_MASK_UPSAMPLING = 4
"""Distance transforms run on masks up to this many times larger, for sub-pixel edges; larger
images need less."""
_PADDING_CELLS = 3
"""Empty cells around the object, which close the surface."""
_BOUNDS_RESOLUTION = 48
_SPHERE_MARGIN = 2.0
"""Under perspective the near side looks larger than the far side."""


def carve_hull(
    views: Views, config: HullConfig | None = None, progress: Progress = SILENT
) -> SdfGrid:
    """Visual hull of masked views, with its ridges rounded by `config.ridge_rounding`.

    Args:
        views: at least two views with masks, in any world and scale.
        config: grid resolution and ridge rounding.
        progress: reports each view and each chunk of the grid.

    Returns:
        Signed distances of the hull on a grid around the object.

    Raises:
        InputError: no masks, fewer than two views, a mask that is empty or full.
        StageError: nothing is left after carving: the masks or cameras contradict each other.
    """
    config = config or HullConfig()
    views = views.to("cpu")
    check_carvable(views)
    silhouettes = Silhouettes.of(views, _MASK_UPSAMPLING, config.ridge_rounding, progress)
    low, high = _object_bounds(silhouettes)
    spacing = float((high - low).max()) / config.resolution
    pad = _PADDING_CELLS * spacing
    # an integer number of coarse cells, so that coarse grid points are fine grid points too
    cells = ((high - low + 2 * pad) / (spacing * _COARSE_FACTOR)).ceil().long() * _COARSE_FACTOR
    origin = (low + high) / 2 - cells * spacing / 2
    values = _carve_near_surface(silhouettes, origin, spacing, cells, progress)
    if not bool((values < 0).any()):
        raise _nothing_left(silhouettes)
    if silhouettes.touches_border:
        logger.warning("a mask touches the border of its image: the object may be cut off there")
    return SdfGrid(_closed_at_border(values, spacing), origin, spacing)


def check_carvable(views: Views) -> None:
    """Raises InputError unless there are two or more views, each with object and background."""
    if len(views) < 2:
        raise InputError(
            f"{len(views)} view was given; carving needs at least 2.",
            "Add images from other sides: 8 or more around the object give a usable shape.",
        )
    if views.masks is None:
        raise InputError(
            "the views have no masks.", "Provide masks, or images with an alpha channel."
        )
    coverage = (views.masks > 0.5).float().mean(dim=(1, 2))
    for view in range(len(views)):
        if coverage[view] == 0:
            raise InputError(
                f"the mask of view {view} is empty: it contains no object.",
                "Check the mask, or leave this view out.",
            )
        if coverage[view] == 1:
            raise InputError(
                f"the mask of view {view} is full: it contains no background.",
                "Carving needs the outline of the object: mask out the background.",
            )


def _object_bounds(silhouettes: Silhouettes) -> tuple[Tensor, Tensor]:
    """Bounding box of the object, low and high corner (3,): a coarse hull, refined in its box."""
    centre, reach = bounding_sphere(silhouettes)
    low, high = centre - reach, centre + reach
    for _ in range(3):
        spacing = float((high - low).max()) / _BOUNDS_RESOLUTION
        shape = tuple(int(n) for n in ((high - low) / spacing).ceil().long() + 1)
        points = grid_points(low, spacing, shape)
        sdf = silhouettes.sdf(points)
        # a cell that the surface only grazes has no grid point inside, but one within its diagonal
        near = points[sdf < spacing * 3**0.5]
        if len(near) == 0:
            raise _nothing_left(silhouettes)
        low, high = near.amin(dim=0) - spacing, near.amax(dim=0) + spacing
    inside = points[sdf < spacing / 2]
    if len(inside) == 0:
        raise _nothing_left(silhouettes)
    return inside.amin(dim=0) - spacing, inside.amax(dim=0) + spacing


def bounding_sphere(silhouettes: Silhouettes) -> tuple[Tensor, float]:
    """Centre (3,) and radius of a sphere that encloses the object.

    The centre is the least-squares intersection of the rays through the masks' box centres.
    """
    cameras, boxes = silhouettes.cameras, silhouettes.boxes_px
    views = range(len(cameras))
    origins, directions = (
        part[views, views] for part in cameras.rays((boxes[:, :2] + boxes[:, 2:]) / 2)
    )
    centre = intersect_rays(origins, directions)
    focal = cameras.intrinsics.diagonal(dim1=1, dim2=2)[:, :2]
    reach = ((boxes[:, 2:] - boxes[:, :2]) / 2 / focal).norm(dim=1)
    if cameras.kind == "perspective":
        reach = reach * ((centre - origins) * directions).sum(dim=1).abs()
    return centre, float(reach.max()) * _SPHERE_MARGIN


def _carve_near_surface(
    silhouettes: Silhouettes, origin: Tensor, spacing: float, cells: Tensor, progress: Progress
) -> Tensor:
    """SDF on the fine grid: exact near the surface, interpolated from the coarse grid elsewhere."""
    coarse_shape = tuple(int(n) // _COARSE_FACTOR + 1 for n in cells)
    coarse_spacing = spacing * _COARSE_FACTOR
    points = grid_points(origin, coarse_spacing, coarse_shape)
    coarse = silhouettes.sdf(points).reshape(coarse_shape)
    values = torch.nn.functional.interpolate(
        coarse[None, None],
        size=[int(n) + 1 for n in cells],
        mode="trilinear",
        align_corners=True,
    )[0, 0].contiguous()
    # the SDF is 1-Lipschitz: farther away than this the sign is certain
    band = values.abs() < 1.8 * coarse_spacing
    chunks = silhouettes.split(band.nonzero())  # of (B, 3)
    for chunk in progress.track(chunks, STAGE, len(chunks)):
        x, y, z = chunk.unbind(dim=1)
        values[x, y, z] = silhouettes.sdf(origin + chunk * spacing)
    return values


def _closed_at_border(values: Tensor, spacing: float) -> Tensor:
    """The same values (X, Y, Z) with the outermost layer of the grid outside.

    Only an object that is not bounded by silhouettes reaches it: cut off by the images, or seen
    only from one direction and its opposite.
    """
    open_axes = [
        name
        for axis, name in enumerate("xyz")
        if bool((values.movedim(axis, 0)[[0, -1]] < 0).any())
    ]
    if open_axes:
        logger.warning(
            "no image bounds the object along %s: it was closed at the border of the search box; "
            "add images from the side",
            " and ".join(open_axes),
        )
    inner = values[1:-1, 1:-1, 1:-1]
    closed = torch.nn.functional.pad(inner, (1,) * 6, value=torch.inf)
    return torch.where(closed == torch.inf, values.clamp_min(spacing), values)


def _nothing_left(silhouettes: Silhouettes) -> StageError:
    """Error for masks that contradict each other; names the view that removes the most.

    Without a view, the SDF at a point is the second largest distance where that view has the
    largest.
    """
    centre, reach = bounding_sphere(silhouettes)
    points = grid_points(centre - reach, reach / 16, (33, 33, 33))
    without = torch.full((len(silhouettes.cameras),), torch.inf)
    for chunk in silhouettes.split(points):
        largest, view = silhouettes.per_view(chunk).topk(2, dim=0)  # (2, N)
        without.scatter_reduce_(0, view[0], largest[1], "amin")
    return StageError(
        STAGE,
        "nothing is left: no point lies inside all masks, and view "
        f"{int(without.argmin())} disagrees most.",
        "Check that each image belongs to its camera, and that the masks show one object.",
    )
