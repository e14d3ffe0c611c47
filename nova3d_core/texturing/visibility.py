"""How much each view may say about each texel: seen at all, at what angle, how far from an edge."""

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
"""Rays start this share of the mesh's size above the surface, so as not to hit their own face."""
_DISCONTINUITY_PX = 3.0
"""A depth step is a bend of the depth map, over one pixel, by more than this many pixels' width."""


@dataclass(frozen=True, eq=False)
class VisiblePoints:
    """The S places of a surface, texels or vertices, that one view sees."""

    place: Tensor
    """(S,) which of those asked for, in ascending order."""
    cosine: Tensor
    """(S,) in 0..1, between the surface's normal and the direction to the camera."""
    pixels: Tensor
    """(S, 2) x and y in the image."""


def visible_points(
    caster: RayCaster, position: Tensor, normal: Tensor, camera: Cameras, min_cosine: float
) -> VisiblePoints:
    """The places of a surface that lie in a camera's image, face it and are not hidden from it.

    Args:
        caster: the surface.
        position: (T, 3) places on it.
        normal: (T, 3) its unit normals there.
        camera: one camera.
        min_cosine: surfaces seen at a flatter angle do not count.
    """
    pixels, depth_z = (part[0] for part in camera.project(position))
    towards, reach = _towards_camera(position, camera, depth_z)
    cosine = (normal * towards).sum(dim=1)
    inside = (pixels > 0).all(dim=1) & (pixels[:, 0] < camera.width)
    inside &= (pixels[:, 1] < camera.height) & (depth_z > 0)
    facing = torch.nonzero(inside & (cosine > min_cosine))[:, 0]
    origins = position[facing] + _RAY_OFFSET_RATIO * caster.longest_side * normal[facing]
    hidden = caster.occluded(origins.numpy(), towards[facing].numpy(), reach[facing].numpy())
    seen = facing[torch.from_numpy(~hidden)]
    return VisiblePoints(seen, cosine[seen], pixels[seen])


def observed_vertices(
    mesh: Mesh, cameras: Cameras, min_cosine: float, progress: Progress = SILENT
) -> Tensor:
    """(N,) bool: the vertices of a mesh that some camera sees, at least so steeply."""
    mesh, cameras = mesh.to("cpu").with_smooth_normals(), cameras.to("cpu").float()
    caster = RayCaster.of(mesh)
    seen = torch.zeros(len(mesh.vertices), dtype=torch.bool)
    for view in progress.track(range(len(cameras)), "seeing", len(cameras)):
        left = torch.nonzero(~seen)[:, 0]
        places = (mesh.vertices[left], mesh.normals[left])
        seen[left[visible_points(caster, *places, cameras[view], min_cosine).place]] = True
    return seen


def boundary_weight(caster: RayCaster, camera: Cameras, mask: Tensor, edge_px: float) -> Tensor:
    """(H, W) in 0..1: zero on silhouettes and depth steps, where a pixel mixes two surfaces.

    Args:
        caster: the surface.
        camera: one camera.
        mask: (H, W) of its image.
        edge_px: how far from an edge the fade ends at 1.
    """
    from scipy.ndimage import distance_transform_edt

    clear = interior_pixels(mask) & ~_depth_discontinuities(caster, camera)
    padded = torch.nn.functional.pad(clear, (1, 1, 1, 1))
    distance = distance_transform_edt(padded.numpy())[1:-1, 1:-1]
    fade = np.clip((distance - 0.5) / max(edge_px, 1e-6), 0.0, 1.0) * clear.numpy()
    return torch.from_numpy(fade).float()


def _towards_camera(points: Tensor, camera: Cameras, depth_z: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors (T, 3) from points towards a camera, and how far (T,) it is."""
    if camera.kind == "orthographic":
        return -camera.view_directions.expand_as(points), depth_z
    offset = camera.positions - points
    reach = offset.norm(dim=1)
    return offset / reach[:, None], reach


def _depth_discontinuities(caster: RayCaster, camera: Cameras) -> Tensor:
    """(H, W) bool: pixels on both sides of a jump in depth."""
    depth_z = pixel_depths(caster, camera)
    far = torch.nan_to_num(depth_z, posinf=1e6)
    pixel_size = 1.0 / camera.intrinsics[0, 0, 0]
    if camera.kind == "perspective":
        pixel_size = pixel_size * depth_z[torch.isfinite(depth_z)].mean().nan_to_num(1.0)
    limit = _DISCONTINUITY_PX * pixel_size
    steps = torch.zeros_like(depth_z, dtype=torch.bool)
    # a plane seen at a flat angle changes its depth fast but evenly: only a bend is a step
    steps[1:-1] |= (far[2:] - 2 * far[1:-1] + far[:-2]).abs() > limit
    steps[:, 1:-1] |= (far[:, 2:] - 2 * far[:, 1:-1] + far[:, :-2]).abs() > limit
    return steps
