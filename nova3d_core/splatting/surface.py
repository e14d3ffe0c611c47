"""A coloured surface that a fit of splats starts on and stays close to.

Level views determine the images of splats at their own elevation only: splats that fit all of them
may have any depth. A surface fused from the same views with their normals knows the depth. It gives
the splats their start, and renders from directions that no view shows (novel views), which the fit
compares with a small weight.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..cameras.cameras import Cameras
from ..cameras.rotations import axis_angle_to_matrix, matrix_to_quaternion, rotation_between
from ..fusion.config import SdfFusionConfig
from ..fusion.fuse import fuse_sdf, with_refined_cameras
from ..fusion.poses.view_warps import warp_views
from ..mesh import Mesh
from ..meshing.isosurface import extract_surface
from ..progress import SILENT, Progress
from ..rendering.config import RenderConfig
from ..rendering.shading import interpolate, surface_colour
from ..rendering.surface_samples import random_surface_points
from ..rendering.views import render_views
from ..splats import Splats
from ..texturing.bake import bake_vertex_colours
from ..views import Views
from .initialise import OPACITY, neighbour_distances

FLATNESS = 0.2
"""Initial scale of a splat along the surface's normal, relative to the one across it."""
NOVEL_ELEVATIONS_DEG = (25.0, -25.0, 45.0, -45.0)
"""Novel cameras are the given ones, rotated up and down about the object by these angles."""
_MAX_NOVEL_PX = 512
"""Larger novel views are scaled down: the mesh has no finer detail."""
_NOVEL_SAMPLES = 2
"""Rays per pixel of novel views along x and y."""


def fuse_coloured_mesh(
    views: Views,
    refine_poses: bool,
    seed: int,
    progress: Progress = SILENT,
    device: torch.device | str = "cpu",
) -> tuple[Mesh, Views]:
    """Fuses views into a mesh with vertex colours, in the world of their cameras.

    The fusion has the preset fast. Its mesh has about one vertex per pixel of a view of 256 px.

    Args:
        views: masked views with normals.
        refine_poses: whether the cameras may move.
        seed: of the fusion.
        progress: receives each step.
        device: of the optimisation.

    Returns:
        The mesh, and the views with refined cameras.

    Raises:
        InputError, StageError, Cancelled: as `fuse_sdf`.
    """
    config = SdfFusionConfig(refine_poses=refine_poses, check_inputs=False, seed=seed % 2**31)
    surface = fuse_sdf(views, config, progress, device)
    views = with_refined_cameras(views, surface)
    aligned = views if surface.warps is None else warp_views(views, surface.warps)
    mesh = extract_surface(surface.grid).transformed(surface.field_to_world)
    mesh = replace(mesh, origin=views.cameras.origin)
    return bake_vertex_colours(mesh, aligned, progress, surface.conflict), views


def splats_on_mesh(mesh: Mesh, count: int, seed: int) -> Splats:
    """Flat splats at random points of a coloured mesh, uniform by area, along its surface.

    Their scales across the normal are the root mean square distance to the three nearest
    neighbours.

    Args:
        mesh: with a texture or vertex colours.
        count: number of splats.
        seed: of the random points.
    """
    face, barycentric = random_surface_points(mesh, count, seed)
    positions = interpolate(mesh.vertices, mesh.faces[face], barycentric)
    normals = mesh.face_normals[face]
    if mesh.normals is not None:
        normals = interpolate(mesh.normals, mesh.faces[face], barycentric)
        normals = torch.nn.functional.normalize(normals, dim=-1, eps=1e-12)
    normals = torch.where(normals[:, 2:] < 0.0, -normals, normals)  # a splat has no front
    axis = torch.tensor([0.0, 0.0, 1.0]).expand(count, 3)
    flat = torch.tensor([1.0, 1.0, FLATNESS])
    return Splats(
        positions=positions,
        scales=neighbour_distances(positions)[:, None] * flat,
        rotations=matrix_to_quaternion(rotation_between(axis, normals)),
        opacities=torch.full((count,), OPACITY),
        colours=surface_colour(mesh, face, barycentric),
    )


def novel_views(mesh: Mesh, cameras: Cameras, progress: Progress = SILENT) -> Views:
    """Renders of a coloured mesh from between and beyond the elevations of the given cameras.

    Args:
        mesh: with a texture or vertex colours, in the world of the cameras.
        cameras: V cameras.
        progress: receives each view.

    Returns:
        V views without normals.
    """
    rotated = elevated_cameras(cameras, mesh.bounds.mean(dim=0), NOVEL_ELEVATIONS_DEG)
    scale = min(_MAX_NOVEL_PX / max(cameras.width, cameras.height), 1.0)
    size = (max(round(scale * side), 1) for side in (cameras.width, cameras.height))
    rotated = rotated.resized(*size)
    rendering = render_views(mesh, rotated, RenderConfig(_NOVEL_SAMPLES), progress)
    return rendering.views.without_normals()


def elevated_cameras(
    cameras: Cameras, centre: Tensor, elevations_deg: tuple[float, ...]
) -> Cameras:
    """Cameras rotated about a point around their own horizontal axis, upwards if positive.

    Args:
        cameras: V cameras; their distance to the point does not change.
        centre: (3,) in the world.
        elevations_deg: of the first, second, ... camera; repeated.
    """
    index = torch.arange(len(cameras)) % len(elevations_deg)
    angle = torch.deg2rad(torch.tensor(elevations_deg))[index]
    rotation = axis_angle_to_matrix(angle[:, None] * torch.tensor([1.0, 0.0, 0.0]))  # (V, 3, 3)
    poses = cameras.world_to_camera.clone()
    at = poses[:, :3, :3] @ centre + poses[:, :3, 3]  # (V, 3) centre in camera axes
    offset = poses[:, :3, 3] - at
    poses[:, :3, :3] = rotation @ poses[:, :3, :3]
    poses[:, :3, 3] = (rotation @ offset[..., None])[..., 0] + at
    return replace(cameras, world_to_camera=poses)
