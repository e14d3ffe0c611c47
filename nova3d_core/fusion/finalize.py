"""From the end of an optimisation to a `Surface`: gauge, guard against worse poses, report."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..cameras.cameras import Cameras
from ..mesh import Mesh
from ..meshing.isosurface import extract_surface
from ..rendering.raycast import RayCaster
from ..sdf_grid import SdfGrid
from ..views import Views
from .config import SdfFusionConfig
from .conflict import ConflictModel
from .poses.pose_table import PoseTable, turn_deg
from .surface import FusionReport, Surface

logger = logging.getLogger(__name__)

_WORSE_IOU = 0.005
"""A view goes back to its given pose if that fits its silhouette better by this."""


def surface_of(
    views: Views,
    grid: SdfGrid,
    poses: PoseTable,
    conflict: ConflictModel,
    config: SdfFusionConfig,
    state: dict[str, Any],
) -> Surface:
    """Puts the results together in the world of the given cameras."""
    field_to_world = torch.linalg.inv(poses.gauge().double()).float()
    cameras, reverted = views.cameras, []
    if config.refine_poses:
        mesh = extract_surface(grid).transformed(field_to_world)
        cameras, reverted = guarded(views, poses.cameras(), mesh)
    maps = conflict.maps().cpu() * (views.masks > 0.5)
    turns = turn_deg(cameras.rotation @ views.cameras.rotation.transpose(1, 2))
    shifts = centre_shift(views.cameras, cameras, grid, field_to_world)
    inside = views.masks > 0.5
    means = [float(maps[view][inside[view]].mean()) for view in range(len(views))]
    report = FusionReport(
        turn_deg=tuple(turns.tolist()),
        shift=tuple(shifts.tolist()),
        reverted=tuple(reverted),
        gains=tuple(tuple(gain) for gain in conflict.gains.cpu().tolist()),
        mean_conflict=tuple(means),
        **state,
    )
    return Surface(grid, field_to_world, cameras, maps, report)


def guarded(views: Views, refined: Cameras, mesh: Mesh) -> tuple[Cameras, list[int]]:
    """Refined cameras, but the given one where it fits its silhouette clearly better; and which."""
    caster = RayCaster.of(mesh)
    before = silhouette_overlap(caster, views.cameras, views.masks)
    after = silhouette_overlap(caster, refined, views.masks)
    worse = (after < before - _WORSE_IOU).nonzero()[:, 0].tolist()
    if not worse:
        return refined, []
    logger.warning(
        "views %s keep their given poses: refined ones fit their silhouettes worse", worse
    )
    poses = refined.world_to_camera.clone()
    poses[worse] = views.cameras.world_to_camera[worse]
    return replace(refined, world_to_camera=poses), worse


def silhouette_overlap(caster: RayCaster, cameras: Cameras, masks: Tensor) -> Tensor:
    """(V,) intersection over union of a surface's silhouettes and masks (V, H, W)."""
    rows, columns = torch.meshgrid(
        torch.arange(cameras.height), torch.arange(cameras.width), indexing="ij"
    )
    pixels = torch.stack([columns.reshape(-1), rows.reshape(-1)], dim=1) + 0.5
    overlaps = []
    for view in range(len(cameras)):
        origins, directions = (part[0] for part in cameras[view].rays(pixels))
        hits = caster.first_hits(origins.contiguous().numpy(), directions.contiguous().numpy())
        seen = torch.from_numpy(hits.face >= 0)
        mask = masks[view].reshape(-1) > 0.5
        overlaps.append(float((seen & mask).sum()) / max(float((seen | mask).sum()), 1.0))
    return torch.tensor(overlaps)


def centre_shift(given: Cameras, refined: Cameras, grid: SdfGrid, to_world: Tensor) -> Tensor:
    """(V,) how far the object's centre moved in each camera's plane."""
    middle = grid.origin + (torch.tensor(grid.values.shape) - 1) * grid.spacing / 2
    middle = to_world[:3, :3] @ middle + to_world[:3, 3]
    places = [c.rotation @ middle + c.world_to_camera[:, :3, 3] for c in (given, refined)]
    return (places[1] - places[0])[:, :2].norm(dim=1)
