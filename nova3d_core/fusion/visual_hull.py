"""Carves the visual hull: a signed distance grid, exact near the surface, coarse elsewhere."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from ..cameras import Cameras
from ..errors import InputError, StageError
from ..progress import SILENT, Progress
from ..views import Views
from .config import HullConfig
from .sdf_grid import SdfGrid, grid_points
from .silhouettes import STAGE, Silhouettes

logger = logging.getLogger(__name__)

POINTS_AT_ONCE = 1 << 18
_COARSE_FACTOR = 4
_BOUNDS_RESOLUTION = 48


def carve_hull(
    views: Views, config: HullConfig | None = None, progress: Progress = SILENT
) -> SdfGrid:
    """Carves the visual hull of masked views.

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
    silhouettes = Silhouettes.of(views, config.mask_upsampling, config.ridge_rounding, progress)
    low, high = _object_bounds(silhouettes)
    spacing = float((high - low).max()) / config.resolution
    pad = config.padding_cells * spacing
    # a whole number of coarse cells, so that the coarse grid's points are points of the fine one
    cells = ((high - low + 2 * pad) / (spacing * _COARSE_FACTOR)).ceil().long() * _COARSE_FACTOR
    origin = (low + high) / 2 - cells * spacing / 2
    values = _carve_near_surface(silhouettes, origin, spacing, cells, progress)
    if not bool((values < 0).any()):
        raise _nothing_left(silhouettes)
    return SdfGrid(_closed_at_border(values, spacing), origin, spacing)


def check_carvable(views: Views) -> None:
    """Raises InputError unless there are two or more views, each with object and background."""
    if len(views) < 2:
        raise InputError(
            f"{len(views)} view was given; carving needs at least 2.",
            "Add pictures from other sides: 8 or more around the object give a usable shape.",
        )
    if views.masks is None:
        raise InputError(
            "the views have no masks.", "Give masks, or pictures with an alpha channel."
        )
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
    centre, reach = _scene_ball(silhouettes.cameras)
    low, high = centre - reach, centre + reach
    for _ in range(3):
        spacing = float((high - low).max()) / _BOUNDS_RESOLUTION
        shape = tuple(int(n) for n in ((high - low) / spacing).ceil().long() + 1)
        points = grid_points(low, spacing, shape)
        sdf = torch.cat([silhouettes.sdf(part) for part in points.split(POINTS_AT_ONCE)])
        # a cell that the surface only grazes has no point inside, but one within its diagonal
        near = points[sdf < spacing * 3**0.5]
        if len(near) == 0:
            raise _nothing_left(silhouettes)
        low, high = near.amin(dim=0) - spacing, near.amax(dim=0) + spacing
    inside = points[sdf < spacing / 2]
    if len(inside) == 0:
        raise _nothing_left(silhouettes)
    return inside.amin(dim=0) - spacing, inside.amax(dim=0) + spacing


def _scene_ball(cameras: Cameras) -> tuple[Tensor, float]:
    """Centre (3,) that all cameras look at, and a radius that holds what they all see."""
    directions, positions = cameras.view_directions, cameras.positions
    across = torch.eye(3) - directions[:, :, None] * directions[:, None, :]  # (V, 3, 3)
    # the point nearest to all viewing axes; for parallel axes the least-norm answer
    right = (across @ positions[:, :, None]).sum(dim=0)
    centre = (torch.linalg.pinv(across.sum(dim=0)) @ right)[:, 0]
    half_px = max(cameras.width, cameras.height) / 2
    reach = half_px / cameras.intrinsics[:, 0, 0]
    if cameras.kind == "perspective":
        reach = reach * ((centre - positions) * directions).sum(dim=1).abs()
    return centre, float(reach.max()) * 1.5


def _carve_near_surface(
    silhouettes: Silhouettes, origin: Tensor, spacing: float, cells: Tensor, progress: Progress
) -> Tensor:
    """SDF values on the fine grid: exact near the surface, interpolated from coarse elsewhere."""
    coarse_shape = tuple(int(n) // _COARSE_FACTOR + 1 for n in cells)
    coarse_spacing = spacing * _COARSE_FACTOR
    points = grid_points(origin, coarse_spacing, coarse_shape)
    coarse = torch.cat([silhouettes.sdf(part) for part in points.split(POINTS_AT_ONCE)])
    coarse = coarse.reshape(coarse_shape)
    values = torch.nn.functional.interpolate(
        coarse[None, None],
        size=[int(n) + 1 for n in cells],
        mode="trilinear",
        align_corners=True,
    )[0, 0].contiguous()
    # a distance changes by at most the distance walked: farther than this the sign is certain
    band = values.abs() < 1.8 * coarse_spacing
    chosen = band.nonzero()  # (B, 3)
    parts = chosen.split(POINTS_AT_ONCE)
    for part in progress.track(parts, STAGE, len(parts)):
        x, y, z = part.unbind(dim=1)
        values[x, y, z] = silhouettes.sdf(origin + part * spacing)
    return values


def _closed_at_border(values: Tensor, spacing: float) -> Tensor:
    """The same values with the grid's outermost layer outside.

    Only an object that its pictures cut off reaches there: no mask says where it ends.
    """
    closed = torch.nn.functional.pad(values[1:-1, 1:-1, 1:-1], (1,) * 6, value=spacing)
    if bool((values[closed == spacing] < 0).any()):
        logger.warning(
            "the pictures cut the object off: it was closed where the cameras' common view ends"
        )
    return torch.maximum(values, torch.where(closed == spacing, closed, -torch.inf))


def _nothing_left(silhouettes: Silhouettes) -> StageError:
    """The error for masks that contradict each other; it names the view that the rest deny most."""
    centre, reach = _scene_ball(silhouettes.cameras)
    points = grid_points(centre - reach, reach / 24, (49, 49, 49))
    distances = silhouettes.per_view(points)  # (V, N)
    worst = int(distances[:, distances.amax(dim=0).argmin()].argmax())
    return StageError(
        STAGE,
        f"nothing is left: no point lies inside all masks, and view {worst} disagrees most.",
        "Check that each picture belongs to its camera, and that the masks show one object.",
    )
