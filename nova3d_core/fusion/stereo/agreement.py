"""Agreement of stereo depths between views: confidence and a common depth."""

from __future__ import annotations

import torch
from torch import Tensor

from ...cameras.cameras import Cameras
from .patches import StereoPatches, SurfaceMaps, pixels_of

_SIGMA_PX = 0.7
"""Distance between the surfaces of two views, in pixels, at which their agreement is exp(-1/2)."""
_MIN_FACING = 0.2
"""Limits how far a distance along a normal moves a depth along a grazing ray."""
_PRIOR = 0.25
"""Confidence of an imaginary view that agrees, where no neighbour has a depth."""


def agree(
    cameras: Cameras,
    patches: StereoPatches,
    maps: SurfaceMaps,
    offset: Tensor,
    confidence: Tensor,
    stride_px: int,
    pixel_size: float,
) -> tuple[Tensor, Tensor]:
    """Depth offsets (M,) averaged with those of the neighbours that agree, and confidences (M,).

    A neighbour agrees if its own depth at the point's pixel is close to the point. Its vote is
    weighted by its confidence; a patch that confident neighbours contradict loses its own.

    Args:
        cameras: V cameras.
        patches: M patches.
        maps: the surface that the offsets refer to.
        offset: (V, rows, columns) depth offsets at every n-th pixel.
        confidence: (V, rows, columns) in 0..1.
        stride_px: n.
        pixel_size: world width of a pixel.
    """
    view, row, column = patches.pixel.unbind(dim=1)
    at = (view, row // stride_px, column // stride_px)
    own_offset, own_confidence = offset[at], confidence[at]
    own_z = maps.depth_z[view, row, column] + own_offset
    h = patches.origin + own_z[:, None, None] * patches.axis  # (M, K, 3)
    y, x, inside = pixels_of(h, *maps.depth_z.shape[1:])
    inside &= patches.neighbours >= 0
    index = patches.neighbours.clamp_min(0)
    other = (index, y // stride_px, x // stride_px)
    vote = torch.where(inside & (maps.depth_z[index, y, x] > 0), confidence[other], 0.0)
    point = unproject(cameras, view, column, row, own_z)[:, None]
    found = unproject(cameras, index, x, y, maps.depth_z[index, y, x] + offset[other])
    normal = maps.normal[index, y, x]
    # from the point to the plane of the neighbour's surface: independent of its pixels' centres
    distance = (normal * (found - point)).sum(dim=2)  # (M, K)
    ray = unproject(cameras, view, column, row, own_z + 1.0)[:, None] - point
    facing = (normal * ray).sum(dim=2).clamp_max(-_MIN_FACING)
    weight = vote * torch.exp(-0.5 * (distance / (_SIGMA_PX * pixel_size)).square())
    agreement = (weight.sum(dim=1) + _PRIOR) / (vote.sum(dim=1) + _PRIOR)
    total = own_confidence + weight.sum(dim=1)
    mean = (weight * distance / facing).sum(dim=1) / total.clamp_min(1e-6)
    return own_offset + mean, own_confidence * agreement


def unproject(
    cameras: Cameras, view: Tensor, column: Tensor, row: Tensor, depth_z: Tensor
) -> Tensor:
    """(..., 3) world points at depths (...) along the axes of views (...), at pixels' centres."""
    focal = cameras.intrinsics.diagonal(dim1=1, dim2=2)[view][..., :2]
    plane = torch.stack([column, row], dim=-1) + 0.5 - cameras.intrinsics[view][..., :2, 2]
    lateral = plane / focal
    if cameras.kind == "perspective":
        lateral = lateral * depth_z[..., None]
    in_camera = torch.cat([lateral, depth_z[..., None]], dim=-1)
    return cameras.positions[view] + (in_camera[..., None, :] @ cameras.rotation[view])[..., 0, :]
