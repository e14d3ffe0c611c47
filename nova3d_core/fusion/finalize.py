"""From an optimisation to a `Surface`: gauge, reverting poses that became worse, report."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..cameras.cameras import Cameras
from ..cameras.pixels import pixel_centres
from ..cameras.rotations import rotation_angle_deg
from ..mesh import Mesh
from ..meshing.isosurface import extract_surface
from ..progress import SILENT, Progress
from ..rendering.raycast import RayCaster
from ..sdf_grid import SdfGrid
from ..views import Views
from .config import SdfFusionConfig
from .conflict.model import ConflictModel
from .poses.pose_table import PoseTable
from .surface import FusionReport, Surface

logger = logging.getLogger(__name__)

_MAX_IOU_LOSS = 0.005
"""A view reverts to its input pose if refinement lowers its silhouette's IoU by more."""


def extract_fused_surface(
    views: Views,
    grid: SdfGrid,
    poses: PoseTable,
    conflict: ConflictModel,
    config: SdfFusionConfig,
    state: dict[str, Any],
    progress: Progress = SILENT,
) -> Surface:
    """Assembles the results in the world of the input cameras.

    Raises:
        Cancelled: through `progress`.
    """
    field_to_world = torch.linalg.inv(poses.gauge().double()).float()
    cameras, reverted = views.cameras, []
    if config.refine_poses:
        mesh = extract_surface(grid).transformed(field_to_world)
        cameras, reverted = revert_worse_poses(views, poses.cameras(), mesh)
    maps = conflict.maps(progress).cpu() * (views.masks > 0.5)
    angles = rotation_angle_deg(cameras.rotation @ views.cameras.rotation.transpose(1, 2))
    translations = in_plane_translation(views.cameras, cameras, grid, field_to_world)
    inside = views.masks > 0.5
    means = [float(maps[view][inside[view]].mean()) for view in range(len(views))]
    report = FusionReport(
        rotation_deg=tuple(angles.tolist()),
        translation=tuple(translations.tolist()),
        reverted=tuple(reverted),
        gains=tuple(tuple(gain) for gain in conflict.gains.cpu().tolist()),
        mean_conflict=tuple(means),
        **state,
    )
    return Surface(grid, field_to_world, cameras, maps, report)


def revert_worse_poses(views: Views, refined: Cameras, mesh: Mesh) -> tuple[Cameras, list[int]]:
    """Refined cameras, reverted where the input pose fits its silhouette clearly better.

    Returns:
        The cameras, and the indices of the reverted views.
    """
    caster = RayCaster.from_mesh(mesh)
    before = silhouette_iou(caster, views.cameras, views.masks)
    after = silhouette_iou(caster, refined, views.masks)
    worse = (after < before - _MAX_IOU_LOSS).nonzero()[:, 0].tolist()
    if not worse:
        return refined, []
    logger.warning(
        "views %s keep their input poses: the refined ones fit their silhouettes worse", worse
    )
    poses = refined.world_to_camera.clone()
    poses[worse] = views.cameras.world_to_camera[worse]
    return replace(refined, world_to_camera=poses), worse


def silhouette_iou(caster: RayCaster, cameras: Cameras, masks: Tensor) -> Tensor:
    """(V,) IoU of a surface's silhouettes and masks (V, H, W)."""
    pixels = pixel_centres(cameras.height, cameras.width).reshape(-1, 2)
    overlaps = []
    for view in range(len(cameras)):
        origins, directions = (part[0] for part in cameras[view].rays(pixels))
        hits = caster.first_hits(origins.contiguous().numpy(), directions.contiguous().numpy())
        seen = torch.from_numpy(hits.face >= 0)
        mask = masks[view].reshape(-1) > 0.5
        overlaps.append(float((seen & mask).sum()) / max(float((seen | mask).sum()), 1.0))
    return torch.tensor(overlaps)


def in_plane_translation(
    given: Cameras, refined: Cameras, grid: SdfGrid, to_world: Tensor
) -> Tensor:
    """(V,) translation of the object's centre in the image plane of each camera, in world units."""
    centre = grid.origin + (torch.tensor(grid.values.shape) - 1) * grid.spacing / 2
    centre = to_world[:3, :3] @ centre + to_world[:3, 3]
    before, after = (c.rotation @ centre + c.world_to_camera[:, :3, 3] for c in (given, refined))
    return (after - before)[:, :2].norm(dim=1)
