"""Pluecker coordinates of the rays through the pixels of posed cameras."""

from __future__ import annotations

import torch
from torch import Tensor

from ..cameras.cameras import Cameras
from ..cameras.pixels import pixel_centres


def plucker_rays(cameras: Cameras) -> Tensor:
    """(V, 6, H, W): moments o x d and unit directions d of the rays, o the camera's centre.

    Args:
        cameras: V perspective cameras in the model's world.
    """
    pixels = pixel_centres(cameras.height, cameras.width)
    origins, directions = cameras.rays(pixels.flatten(0, 1))
    moments = torch.linalg.cross(origins, directions)  # (V, H W, 3)
    rays = torch.cat([moments, directions], dim=-1).transpose(1, 2)
    return rays.unflatten(2, (cameras.height, cameras.width))
