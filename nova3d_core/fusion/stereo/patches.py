"""Patches of the present surface, and the neighbouring views that see them."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ...cameras.cameras import Cameras

NUM_NEIGHBOURS = 4
"""Views that a patch is compared with."""
_MIN_ANGLE_DEG, _BEST_ANGLE_DEG, _MAX_ANGLE_DEG = 4.0, 25.0, 65.0
"""Angles between viewing directions: small ones hardly show depth, in large ones patches differ too
much."""
_MIN_COSINE = 0.2
"""A patch is not compared with views that see it at a more grazing angle."""
_OCCLUSION_PX = 3.0
"""Depth by which a point may lie behind a view's surface, in widths of a pixel."""


@dataclass(frozen=True, eq=False)
class SurfaceMaps:
    """The present surface as V views see it."""

    depth_z: Tensor
    """(V, H, W) depth along the viewing axis at pixel centres; 0 where no surface is seen."""
    normal: Tensor
    """(V, H, W, 3) unit normals in the world of the cameras; zero where no surface is seen."""


@dataclass(frozen=True, eq=False)
class StereoPatches:
    """M patches around pixels of V views, and their projections to K neighbouring views.

    The surface point at depth z of the pixel dx columns and dy rows from the patch's centre appears
    in a neighbour at h[:2] / h[2], pixel centres at +0.5, where
    h = origin + z * axis + s * (dx * column_step + dy * row_step), s = z under perspective, else 1.
    """

    pixel: Tensor
    """(M, 3) view, row and column."""
    neighbours: Tensor
    """(M, K) index of each neighbouring view, -1 for none."""
    origin: Tensor
    """(M, K, 3)"""
    axis: Tensor
    """(M, K, 3)"""
    column_step: Tensor
    """(M, K, 3)"""
    row_step: Tensor
    """(M, K, 3)"""

    def __len__(self) -> int:
        return len(self.pixel)

    def at(self, index: slice | Tensor) -> StereoPatches:
        """The selected patches."""
        return StereoPatches(*(getattr(self, each.name)[index] for each in fields(self)))


def neighbour_table(cameras: Cameras) -> Tensor:
    """(V, K) the views at the most useful angles to each view; -1 where there are fewer."""
    axes = cameras.view_directions
    angle_deg = torch.rad2deg(torch.acos((axes @ axes.T).clamp(-1.0, 1.0)))
    usable = (angle_deg >= _MIN_ANGLE_DEG) & (angle_deg <= _MAX_ANGLE_DEG)
    ranked = torch.where(usable, (angle_deg - _BEST_ANGLE_DEG).abs(), torch.inf)
    # equal angles: the order must not depend on rounding
    order = torch.argsort((ranked * 100.0).round(), dim=1, stable=True)[:, :NUM_NEIGHBOURS]
    return torch.where(ranked.gather(1, order) < torch.inf, order, -1)


def make_patches(cameras: Cameras, pixel: Tensor, maps: SurfaceMaps) -> StereoPatches:
    """Patches around pixels on the surface, with the neighbours that see their centres.

    Args:
        cameras: V cameras in the surface's world.
        pixel: (M, 3) view, row and column, where the maps have a surface.
        maps: the surface in all views.
    """
    view, row, column = pixel.unbind(dim=1)
    depth_z, normal = maps.depth_z[view, row, column], maps.normal[view, row, column]
    neighbours = neighbour_table(cameras)[view]  # (M, K)
    world = _world_line(cameras, view, torch.stack([column, row], dim=1) + 0.5)
    index = neighbours.clamp_min(0)
    projection = _projections(cameras)[index]  # (M, K, 3, 4)
    origin, axis, column_step, row_step = (
        (projection @ part[:, None, :, None])[..., 0] for part in world
    )
    start = origin + depth_z[:, None, None] * axis
    point = (world[0] + depth_z[:, None] * world[1])[:, :3]
    seen = (neighbours >= 0) & _sees(cameras, index, point, normal, start, maps)
    seen_by = torch.where(seen, neighbours, -1)
    return StereoPatches(pixel, seen_by, origin, axis, column_step, row_step)


def _world_line(cameras: Cameras, view: Tensor, pixel: Tensor) -> tuple[Tensor, ...]:
    """World vectors (M, 4), homogeneous, of the docstring of `StereoPatches`."""
    rotation = cameras.rotation[view]  # (M, 3, 3)
    focal = cameras.intrinsics.diagonal(dim1=1, dim2=2)[view][:, :2]
    plane = (pixel - cameras.intrinsics[view, :2, 2]) / focal
    lateral = (plane[:, :, None] * rotation[:, :2]).sum(dim=1)
    origin, axis = cameras.positions[view], rotation[:, 2]
    if cameras.kind == "perspective":
        axis = axis + lateral
    else:
        origin = origin + lateral
    steps = rotation[:, :2] / focal[:, :, None]  # (M, 2, 3)
    pad = torch.nn.functional.pad
    vectors = [pad(part, (0, 1)) for part in (axis, steps[:, 0], steps[:, 1])]
    return (pad(origin, (0, 1), value=1.0), *vectors)


def _projections(cameras: Cameras) -> Tensor:
    """(V, 3, 4) homogeneous projections from the world to pixels."""
    extrinsics = cameras.world_to_camera[:, :3].clone()
    if cameras.kind == "orthographic":
        extrinsics[:, 2] = extrinsics.new_tensor([0.0, 0.0, 0.0, 1.0])
    return cameras.intrinsics @ extrinsics


def pixels_of(projected: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and columns (M, K) of homogeneous pixels (M, K, 3), and whether they are in the image.

    Those outside, or behind the camera, are clamped to the image.
    """
    in_front = projected[..., 2] > 1e-6
    scale = torch.where(in_front, projected[..., 2], 1.0)
    column, row = (projected[..., axis].div(scale).floor().long() for axis in (0, 1))
    inside = in_front & (column >= 0) & (row >= 0) & (column < width) & (row < height)
    return row.clamp(0, height - 1), column.clamp(0, width - 1), inside


def _sees(
    cameras: Cameras,
    view: Tensor,
    point: Tensor,
    normal: Tensor,
    projected: Tensor,
    maps: SurfaceMaps,
) -> Tensor:
    """(M, K) bool: points (M, 3) are in the images of views (M, K), face them and are not occluded.

    `projected` (M, K, 3) are their homogeneous pixels.
    """
    height, width = maps.depth_z.shape[1:]
    row, column, inside = pixels_of(projected, height, width)
    nearest = maps.depth_z[view, row, column]
    axes = cameras.view_directions[view]  # (M, K, 3)
    depth_z = (point[:, None] * axes).sum(dim=2) + cameras.world_to_camera[view, 2, 3]
    towards, pixel = -axes, 1.0 / cameras.intrinsics[view, 0, 0]
    if cameras.kind == "perspective":
        towards = torch.nn.functional.normalize(cameras.positions[view] - point[:, None], dim=2)
        pixel = pixel * depth_z
    cosine = (normal[:, None] * towards).sum(dim=2)
    limit = nearest + _OCCLUSION_PX * pixel / cosine.clamp_min(_MIN_COSINE)
    return inside & (cosine > _MIN_COSINE) & (nearest > 0) & (depth_z < limit)
