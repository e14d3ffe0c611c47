"""Visibility of surface points in views: occlusion, viewing angle, distance to boundaries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..cameras.cameras import Cameras
from ..mesh import Mesh
from ..progress import SILENT, Progress
from ..rendering.raycast import RayCaster
from ..rendering.views import pixel_depths
from .view_images import interior_pixels

_RAY_OFFSET_RATIO = 2e-3
"""Offset of ray origins from the surface, relative to its size, against self-intersection."""
_DISCONTINUITY_PX = 3.0
"""Minimum second difference of depth at a discontinuity, in widths of a pixel on the surface."""


@dataclass(frozen=True, eq=False)
class VisiblePoints:
    """The S points of a surface, texels or vertices, that are visible in one view."""

    index: Tensor
    """(S,) ascending indices among the given points."""
    cosine: Tensor
    """(S,) in 0..1, between surface normal and direction to the camera."""
    pixels: Tensor
    """(S, 2) x and y in the image."""


def visible_points(
    caster: RayCaster, position: Tensor, normal: Tensor, camera: Cameras, min_cosine: float
) -> VisiblePoints:
    """The surface points that project into a camera's image, face it and are not occluded.

    Args:
        caster: the surface.
        position: (T, 3) points on it.
        normal: (T, 3) unit normals at the points.
        camera: one camera.
        min_cosine: points with a smaller cosine between normal and viewing direction are excluded.
    """
    pixels, depth_z = (part[0] for part in camera.project(position))
    direction, distance = _directions_to_camera(position, camera, depth_z)
    cosine = (normal * direction).sum(dim=1)
    inside = (pixels > 0).all(dim=1) & (pixels[:, 0] < camera.width)
    inside &= (pixels[:, 1] < camera.height) & (depth_z > 0)
    facing = torch.nonzero(inside & (cosine > min_cosine))[:, 0]
    origins = position[facing] + _RAY_OFFSET_RATIO * caster.longest_side * normal[facing]
    occluded = caster.occluded(origins.numpy(), direction[facing].numpy(), distance[facing].numpy())
    visible = facing[torch.from_numpy(~occluded)]
    return VisiblePoints(visible, cosine[visible], pixels[visible])


def observed_vertices(
    mesh: Mesh, cameras: Cameras, min_cosine: float, progress: Progress = SILENT
) -> Tensor:
    """(N,) bool: vertices of a mesh that at least one camera sees, as in `visible_points`."""
    mesh, cameras = mesh.to("cpu").with_smooth_normals(), cameras.to("cpu").float()
    caster = RayCaster.from_mesh(mesh)
    observed = torch.zeros(len(mesh.vertices), dtype=torch.bool)
    for view in progress.track(range(len(cameras)), "observing", len(cameras)):
        remaining = torch.nonzero(~observed)[:, 0]
        points = (mesh.vertices[remaining], mesh.normals[remaining])
        visible = visible_points(caster, *points, cameras[view], min_cosine)
        observed[remaining[visible.index]] = True
    return observed


def boundary_weight(mask: Tensor, discontinuities: Tensor, ramp_px: float) -> Tensor:
    """(H, W) in 0..1: zero on silhouettes and depth discontinuities, where pixels mix surfaces.

    Args:
        mask: (H, W) of an image.
        discontinuities: (H, W) bool, from `depth_discontinuities` of its camera.
        ramp_px: distance from the boundary at which the weight reaches 1.
    """
    from scipy.ndimage import distance_transform_edt

    clear = interior_pixels(mask) & ~discontinuities
    padded = torch.nn.functional.pad(clear, (1, 1, 1, 1))
    distance = distance_transform_edt(padded.numpy())[1:-1, 1:-1]
    weight = np.clip((distance - 0.5) / max(ramp_px, 1e-6), 0.0, 1.0) * clear.numpy()
    return torch.from_numpy(weight).float()


def _directions_to_camera(
    points: Tensor, camera: Cameras, depth_z: Tensor
) -> tuple[Tensor, Tensor]:
    """Unit vectors (T, 3) from points to a camera, and the distances (T,)."""
    if camera.kind == "orthographic":
        return -camera.view_directions.expand_as(points), depth_z
    offset = camera.positions - points
    distance = offset.norm(dim=1)
    return offset / distance[:, None], distance


def depth_discontinuities(caster: RayCaster, camera: Cameras) -> Tensor:
    """(H, W) bool: pixels on both sides of a depth discontinuity."""
    depth_z = pixel_depths(caster, camera)
    far = torch.nan_to_num(depth_z, posinf=1e6)
    pixel_size = 1.0 / camera.intrinsics[0, 0, 0]
    if camera.kind == "perspective":
        pixel_size = pixel_size * depth_z[torch.isfinite(depth_z)].mean().nan_to_num(1.0)
    limit = _DISCONTINUITY_PX * pixel_size
    steps = torch.zeros_like(depth_z, dtype=torch.bool)
    # second differences: the depth of a plane at a grazing angle changes fast but linearly
    steps[1:-1] |= (far[2:] - 2 * far[1:-1] + far[:-2]).abs() > limit
    steps[:, 1:-1] |= (far[:, 2:] - 2 * far[:, 1:-1] + far[:, :-2]).abs() > limit
    return steps
