"""How much each view may say about each texel: seen at all, at what angle, how far from an edge."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..cameras import Cameras
from ..mesh import Mesh
from ..rendering.raycast import RayCaster
from ..rendering.views import pixel_depths
from .config import BakeConfig
from .sampling import sample_picture
from .texels import Texels

_LIFT = 2e-3
"""Rays start this share of the mesh's size above the surface, so as not to hit their own face."""
_STEP_PX = 3.0
"""A depth step is a bend of the depth map, over one pixel, by more than this many pixels' width."""
_SOLID_SHARE = 0.97
"""A pixel with this share of its mask's largest value shows nothing of the background."""


def solid_pixels(mask: Tensor) -> Tensor:
    """(H, W) bool: pixels of a mask (H, W) that lie wholly on the object.

    Mattes from background removers seldom reach 1, so the mask's own largest value counts.
    """
    return mask >= max(_SOLID_SHARE * float(mask.max()), 0.5)


def view_weights(
    mesh: Mesh, caster: RayCaster, texels: Texels, camera: Cameras, mask: Tensor, config: BakeConfig
) -> tuple[Tensor, Tensor]:
    """What one view may say about the texels.

    Args:
        mesh: the surface the texels lie on.
        caster: the same surface, prepared for rays.
        texels: T texels.
        camera: one camera.
        mask: (H, W) of the view.
        config: angle and edge settings.

    Returns:
        Weights (T,) in 0..1, zero where the view does not see the texel; pixels (T, 2).
    """
    pixels, depth_z = (part[0] for part in camera.project(texels.position))
    towards, reach = _towards_camera(texels.position, camera, depth_z)
    cosine = (texels.normal * towards).sum(dim=1)
    inside = (pixels > 0).all(dim=1) & (pixels[:, 0] < camera.width)
    inside &= (pixels[:, 1] < camera.height) & (depth_z > 0)
    facing = torch.nonzero(inside & (cosine > config.min_cosine))[:, 0]
    lift = _LIFT * float((mesh.bounds[1] - mesh.bounds[0]).max())
    origins = texels.position[facing] + lift * texels.normal[facing]
    hidden = caster.occluded(origins.numpy(), towards[facing].numpy(), reach[facing].numpy())
    seen = facing[torch.from_numpy(~hidden)]
    fade = sample_picture(_edge_fade(caster, camera, mask, config.edge_px), pixels[seen])[:, 0]
    weights = torch.zeros(len(texels.index))
    weights[seen] = cosine[seen] ** config.angle_power * fade
    return weights, pixels


def _towards_camera(points: Tensor, camera: Cameras, depth_z: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors (T, 3) from points towards a camera, and how far (T,) it is."""
    if camera.kind == "orthographic":
        return -camera.view_directions.expand_as(points), depth_z
    offset = camera.positions - points
    reach = offset.norm(dim=1)
    return offset / reach[:, None], reach


def _edge_fade(caster: RayCaster, camera: Cameras, mask: Tensor, edge_px: float) -> Tensor:
    """(H, W, 1) in 0..1: zero on silhouettes and depth steps, where a pixel mixes two surfaces."""
    from scipy.ndimage import distance_transform_edt

    clear = solid_pixels(mask) & ~_depth_steps(caster, camera)
    padded = torch.nn.functional.pad(clear, (1, 1, 1, 1))
    distance = distance_transform_edt(padded.numpy())[1:-1, 1:-1]
    fade = np.clip((distance - 0.5) / max(edge_px, 1e-6), 0.0, 1.0) * clear.numpy()
    return torch.from_numpy(fade).float()[..., None]


def _depth_steps(caster: RayCaster, camera: Cameras) -> Tensor:
    """(H, W) bool: pixels on both sides of a jump in depth."""
    depth_z = pixel_depths(caster, camera)
    far = torch.nan_to_num(depth_z, posinf=1e6)
    pixel_size = 1.0 / camera.intrinsics[0, 0, 0]
    if camera.kind == "perspective":
        pixel_size = pixel_size * depth_z[torch.isfinite(depth_z)].mean().nan_to_num(1.0)
    limit = _STEP_PX * pixel_size
    steps = torch.zeros_like(depth_z, dtype=torch.bool)
    # a plane seen at a flat angle changes its depth fast but evenly: only a bend is a step
    steps[1:-1] |= (far[2:] - 2 * far[1:-1] + far[:-2]).abs() > limit
    steps[:, 1:-1] |= (far[:, 2:] - 2 * far[:, 1:-1] + far[:, :-2]).abs() > limit
    return steps
