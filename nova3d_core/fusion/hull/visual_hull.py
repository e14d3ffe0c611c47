"""Carves the visual hull: a signed distance grid, exact near the surface, coarse elsewhere."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from ...errors import InputError, StageError
from ...progress import SILENT, Progress
from ...sdf_grid import SdfGrid, grid_points
from ...views import Views
from ..config import HullConfig
from .silhouettes import STAGE, Silhouettes

logger = logging.getLogger(__name__)

_COARSE_FACTOR = 4
_MASK_UPSAMPLING = 4
"""Distance transforms run on masks up to this many times larger, for sub-pixel edges; larger
images need less."""
_PADDING_CELLS = 3
"""Empty cells around the object, which close the surface."""
_BOUNDS_RESOLUTION = 48
_BALL_MARGIN = 2.0
"""Perspective makes the near side look larger than the far side is."""


def carve_hull(
    views: Views, config: HullConfig | None = None, progress: Progress = SILENT
) -> SdfGrid:
    """Carves the visual hull of masked views, its ridges rounded as `config.ridge_rounding` says.

    Args:
        views: at least two views with masks, in any world and scale.
        config: grid resolution and mask upsampling.
        progress: told about each view and each slab of the grid.

    Returns:
        The hull's signed distances on a grid around the object.

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
    # a whole number of coarse cells, so that the coarse grid's points are points of the fine one
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
        raise InputError("the views have no masks.", "Give masks, or images with an alpha channel.")
    share = (views.masks > 0.5).float().mean(dim=(1, 2))
    for view in range(len(views)):
        if share[view] == 0:
            raise InputError(
                f"the mask of view {view} is empty: no object in it.",
                "Check the mask, or leave this view out.",
            )
        if share[view] == 1:
            raise InputError(
                f"the mask of view {view} is full: no background in it.",
                "Carving needs to see where the object ends: mask the background out.",
            )


def _object_bounds(silhouettes: Silhouettes) -> tuple[Tensor, Tensor]:
    """Low and high corner (3,) of the object: a coarse hull, carved again in its own box."""
    centre, reach = scene_ball(silhouettes)
    low, high = centre - reach, centre + reach
    for _ in range(3):
        spacing = float((high - low).max()) / _BOUNDS_RESOLUTION
        shape = tuple(int(n) for n in ((high - low) / spacing).ceil().long() + 1)
        points = grid_points(low, spacing, shape)
        sdf = silhouettes.sdf(points)
        # a cell that the surface only grazes has no point inside, but one within its diagonal
        near = points[sdf < spacing * 3**0.5]
        if len(near) == 0:
            raise _nothing_left(silhouettes)
        low, high = near.amin(dim=0) - spacing, near.amax(dim=0) + spacing
    inside = points[sdf < spacing / 2]
    if len(inside) == 0:
        raise _nothing_left(silhouettes)
    return inside.amin(dim=0) - spacing, inside.amax(dim=0) + spacing


def scene_ball(silhouettes: Silhouettes) -> tuple[Tensor, float]:
    """Centre (3,) of what the masks show, and a radius that holds it.

    The centre is the point nearest to the rays through the middles of the masks' boxes.
    """
    cameras, boxes = silhouettes.cameras, silhouettes.boxes_px
    views = range(len(cameras))
    origins, directions = (
        part[views, views] for part in cameras.rays((boxes[:, :2] + boxes[:, 2:]) / 2)
    )
    across = torch.eye(3) - directions[:, :, None] * directions[:, None, :]  # (V, 3, 3)
    right = (across @ origins[:, :, None]).sum(dim=0)
    # for parallel rays, which meet everywhere along their direction, the least-norm answer
    centre = (torch.linalg.pinv(across.sum(dim=0), rtol=1e-4) @ right)[:, 0]
    focal = cameras.intrinsics.diagonal(dim1=1, dim2=2)[:, :2]
    reach = ((boxes[:, 2:] - boxes[:, :2]) / 2 / focal).norm(dim=1)
    if cameras.kind == "perspective":
        reach = reach * ((centre - origins) * directions).sum(dim=1).abs()
    return centre, float(reach.max()) * _BALL_MARGIN


def _carve_near_surface(
    silhouettes: Silhouettes, origin: Tensor, spacing: float, cells: Tensor, progress: Progress
) -> Tensor:
    """SDF values on the fine grid: exact near the surface, interpolated from coarse elsewhere."""
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
    # a distance changes by at most the distance walked: farther than this the sign is certain
    band = values.abs() < 1.8 * coarse_spacing
    parts = silhouettes.in_parts(band.nonzero())  # of (B, 3)
    for part in progress.track(parts, STAGE, len(parts)):
        x, y, z = part.unbind(dim=1)
        values[x, y, z] = silhouettes.sdf(origin + part * spacing)
    return values


def _closed_at_border(values: Tensor, spacing: float) -> Tensor:
    """The same values (X, Y, Z) with the grid's outermost layer outside.

    Only an object that no silhouette bounds reaches there: cut off by its images, or seen from
    one direction and its opposite alone.
    """
    open_axes = [
        name
        for axis, name in enumerate("xyz")
        if bool((values.movedim(axis, 0)[[0, -1]] < 0).any())
    ]
    if open_axes:
        logger.warning(
            "no image shows where the object ends along %s: it was closed where the search "
            "ended; add images from the side",
            " and ".join(open_axes),
        )
    inner = values[1:-1, 1:-1, 1:-1]
    closed = torch.nn.functional.pad(inner, (1,) * 6, value=torch.inf)
    return torch.where(closed == torch.inf, values.clamp_min(spacing), values)


def _nothing_left(silhouettes: Silhouettes) -> StageError:
    """The error for masks that contradict each other; it names the view without which most is left.

    Without a view, what the rest leaves at a point is the second largest distance where that view's
    is the largest.
    """
    centre, reach = scene_ball(silhouettes)
    points = grid_points(centre - reach, reach / 16, (33, 33, 33))
    without = torch.full((len(silhouettes.cameras),), torch.inf)
    for part in silhouettes.in_parts(points):
        largest, view = silhouettes.per_view(part).topk(2, dim=0)  # (2, N)
        without.scatter_reduce_(0, view[0], largest[1], "amin")
    return StageError(
        STAGE,
        "nothing is left: no point lies inside all masks, and view "
        f"{int(without.argmin())} disagrees most.",
        "Check that each image belongs to its camera, and that the masks show one object.",
    )
