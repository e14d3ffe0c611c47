"""Canonical coordinate maps of rendered depth: the second feedback image of Ouroboros3D."""

from __future__ import annotations

import torch
from torch import Tensor

from .network.config import CoordinateKind

RELEASED_SCALE = 0.001


def coordinate_maps(
    depth: Tensor,
    alpha: Tensor,
    camera_to_world: Tensor,
    focal: Tensor,
    kind: CoordinateKind = "released",
) -> Tensor:
    """Coordinate maps of accumulated depth; differentiable.

    Args:
        depth: (..., H, W) sum of z alpha T over the splats of a pixel, not divided by alpha.
        alpha: (..., H, W) coverage in 0..1.
        camera_to_world: (..., 4, 4), OpenCV axes.
        focal: (...) focal lengths over the image width; the principal point is the centre.
        kind: true: the mean point of a pixel's splats plus 0.5, and 0.5 where there are none, for
            objects in the unit cube. released: what Ouroboros3D's code computes and its weights
            expect. It mixes pixel coordinates with a normalised focal length, so that the maps are
            mostly ramps over the image along the camera's axes.

    Returns:
        (..., 3, H, W) in 0..1.
    """
    height, width = depth.shape[-2:]
    pose, focal = camera_to_world.to(depth), focal.to(depth)
    offset = 0.5 if kind == "true" else 0.0
    rows = torch.arange(height, device=depth.device, dtype=depth.dtype) + offset
    columns = torch.arange(width, device=depth.device, dtype=depth.dtype) + offset
    if kind == "true":
        rows, columns = (rows - height / 2) / width, columns / width
    else:
        rows = rows - 0.5  # the principal point is normalised, the pixel is not
    x = (columns - 0.5).expand(height, width) / focal[..., None, None]
    y = rows[:, None].expand(height, width) / focal[..., None, None]
    points = torch.stack([x, y, torch.ones_like(x)], dim=-1) * depth[..., None]  # (..., H, W, 3)
    rotated = torch.einsum("...ij,...hwj->...hwi", pose[..., :3, :3], points)
    position = pose[..., None, None, :3, 3]
    if kind == "true":
        world = rotated + alpha[..., None] * position
        scale = 1.0
    else:
        world = torch.where(depth[..., None] > 0.0, rotated + position, 0.0)
        scale = RELEASED_SCALE
    return (world * scale + 0.5).clamp(0.0, 1.0).movedim(-1, -3)
