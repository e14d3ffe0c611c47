"""The stages of the way from views to a textured mesh one by one, each from bundle to bundle.

`pipeline.fuse_views` goes the whole way at once; here one may stop, look and go on with something
else in between.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .checks import check_between
from .errors import InputError
from .fusion.optimise import refine_poses, with_refined_cameras
from .fusion.sdf_config import SdfFusionConfig
from .fusion.sdf_grid import SdfGrid, grid_points
from .fusion.surface import FusionReport, Surface
from .fusion.visual_hull import carve_hull, check_carvable
from .fusion.working_size import working_views
from .mesh import Mesh
from .meshing.config import MeshingConfig
from .meshing.isosurface import extract_surface
from .pipeline import (
    Fused,
    StageClock,
    mesh_surface,
    optimised_surface,
    texture_mesh,
    with_masks,
)
from .pipeline_config import FuseConfig
from .pipeline_memory import check_fusion_memory
from .progress import SILENT, Progress
from .texturing.bake import bake_texture
from .views import Views


def fuse_to_surface(
    views: Views,
    config: FuseConfig | None = None,
    progress: Progress = SILENT,
    device: torch.device | str = "cpu",
) -> tuple[Surface, Views]:
    """Fuses views into a surface; arguments and errors as `pipeline.fuse_views`.

    Returns:
        The surface, and the views with masks and with their refined cameras. A hull is a surface
        whose report has no steps, with the given cameras and no conflict.
    """
    config = config or FuseConfig()
    views = with_masks(views).to("cpu")
    check_fusion_memory(views, config, device)
    surface = None
    if config.method == "sdf":
        surface = optimised_surface(views, config, progress, device)
    if surface is not None:
        return surface, with_refined_cameras(views, surface)
    check_carvable(views)
    grid = carve_hull(working_views(views, config.hull.resolution), config.hull, progress)
    report = FusionReport(steps=0, rays=0, spacing=grid.spacing)
    conflict = torch.zeros_like(views.masks)
    return Surface(grid, torch.eye(4), views.cameras, conflict, report), views


def refined_views(
    views: Views,
    config: SdfFusionConfig | None = None,
    progress: Progress = SILENT,
    device: torch.device | str = "cpu",
) -> Views:
    """`fusion.optimise.refine_poses` for views that may have no masks: they get mattes."""
    return refine_poses(with_masks(views), config, progress, device)


def mesh_of_surface(
    surface: Surface,
    config: MeshingConfig | None = None,
    resolution: int = 0,
    progress: Progress = SILENT,
) -> Mesh:
    """The surface as a light, closed mesh with smooth normals, in the world of the cameras.

    Args:
        surface: fused or carved.
        config: number of faces, which crumbs go, and how smooth it is where no view sees it.
        resolution: cells along the longest side of the surface's grid, 16 to 1024; 0 takes the
            grid as it is. More cells than it has only make the steps between them rounder.
        progress: told of each step.
    """
    grid = surface.grid if resolution == 0 else resampled(surface.grid, resolution)
    raw = extract_surface(grid).transformed(surface.field_to_world)
    raw = replace(raw, origin=surface.cameras.origin)
    config = config or MeshingConfig()
    cells = config.smooth_unseen * surface.grid.spacing / grid.spacing
    config = replace(config, smooth_unseen=cells)
    cameras = surface.cameras if surface.report.steps else None  # a hull has no bumps
    mesh = mesh_surface(raw, config, StageClock(), progress, cameras)
    return mesh.with_smooth_normals()


def resampled(grid: SdfGrid, resolution: int) -> SdfGrid:
    """The distances on a grid with so many cells along its longest side, from their neighbours."""
    check_between("surface resolution", resolution, 16, 1024)
    extent = (torch.tensor(grid.values.shape) - 1) * grid.spacing  # (3,)
    spacing = float(extent.max()) / resolution
    shape = [int(cells) + 1 for cells in (extent / spacing).round().clamp_min(1).tolist()]
    # the grid may end up to half a cell beside the old one: there the border's value goes on
    points = grid_points(torch.zeros(3), spacing, tuple(shape))
    where = (points / extent * 2.0 - 1.0).flip(-1)
    values = torch.nn.functional.grid_sample(
        grid.values.cpu()[None, None],
        where[None, None, None],
        align_corners=True,
        padding_mode="border",
    )
    return SdfGrid(values.reshape(shape), grid.origin.cpu(), spacing)


def bake_views(
    mesh: Mesh,
    views: Views,
    config: FuseConfig | None = None,
    surface: Surface | None = None,
    keep_uv: bool = True,
    progress: Progress = SILENT,
) -> Fused:
    """Bakes views onto a mesh that lies in the world of their cameras.

    Args:
        mesh: any mesh.
        views: masked, or on white.
        config: the unwrapping and the texture.
        surface: what these views were fused to; its cameras and conflict maps are used.
        keep_uv: bake into the mesh's own uv where it has some, instead of unwrapping it anew.
        progress: told of each step.

    Raises:
        InputError: the surface was fused from other views.
        StageError: no view sees any of the mesh.
    """
    config, views = config or FuseConfig(), with_masks(views)
    mesh = mesh.with_origin(views.cameras.origin)
    conflict = None
    if surface is not None:
        _check_same_views(surface, views)
        views, conflict = with_refined_cameras(views, surface), surface.conflict
    if not keep_uv or mesh.uv is None:
        return texture_mesh(mesh, views, config, StageClock(), progress, conflict)
    baked = bake_texture(mesh, views, config.bake, progress, conflict)
    return Fused(baked.mesh, baked.coverage, "given", views)


def _check_same_views(surface: Surface, views: Views) -> None:
    if surface.conflict.shape != views.colour.shape[:3]:
        count, height, width = surface.conflict.shape
        raise InputError(
            f"the surface was fused from {count} views of {width}x{height} px, but these are "
            f"{len(views)} of {views.cameras.width}x{views.cameras.height} px.",
            "Give the views that the fusion put out, or no surface.",
        )


def textured_mesh(
    surface: Surface, views: Views, config: FuseConfig | None = None, progress: Progress = SILENT
) -> Mesh:
    """A surface as a textured mesh: `mesh_of_surface`, then `bake_views`."""
    config = config or FuseConfig()
    mesh = mesh_of_surface(surface, config.meshing, progress=progress)
    return bake_views(mesh, views, config, surface, progress=progress).mesh


def with_steps_scaled(config: SdfFusionConfig, scale: float) -> SdfFusionConfig:
    """The settings with each level's steps multiplied; at least one step a level."""
    check_between("steps scale", scale, 0.01, 100.0)
    complete = config.complete()  # which also fits the number of rays to the field
    scaled = tuple(
        replace(level, steps=max(round(level.steps * scale), 1)) for level in complete.levels
    )
    return replace(complete, levels=scaled)


def conflict_pictures(surface: Surface) -> Tensor:
    """(V, H, W, 3) grey pictures of the conflict maps, white where a pixel contradicts others."""
    return surface.conflict.clamp(0.0, 1.0)[..., None].repeat(1, 1, 1, 3)
