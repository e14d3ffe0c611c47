"""Pluecker coordinates of the rays through the pixels of posed cameras."""

from __future__ import annotations

import torch
from torch import Tensor

from ..cameras.cameras import Cameras


def pixel_centres(width: int, height: int) -> Tensor:
    """(H W, 2) x and y of all pixel centres, row by row."""
    x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)


def plucker_rays(cameras: Cameras) -> Tensor:
    """(V, 6, H, W): moments o x d and unit directions d of the rays, o the camera's centre.

    Args:
        cameras: V perspective cameras in the model's world.
    """
    origins, directions = cameras.rays(pixel_centres(cameras.width, cameras.height))
    moments = torch.linalg.cross(origins, directions)  # (V, H W, 3)
    rays = torch.cat([moments, directions], dim=-1).transpose(1, 2)
    return rays.unflatten(2, (cameras.height, cameras.width))
