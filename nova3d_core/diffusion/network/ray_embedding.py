"""Embeddings of each pixel's ray in Pluecker coordinates, as in Ouroboros3D."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

FREQUENCIES = 6
"""Octaves of the harmonic embedding."""
RAY_CHANNELS = 6 * (2 * FREQUENCIES + 1)
"""Length of a ray's embedding: sines and cosines of 6 coordinates, and the coordinates."""


def transposed_plucker_rays(camera_to_world: Tensor, focal: Tensor, size: int) -> Tensor:
    """Pluecker rays as in Ouroboros3D's training: not the rays of these pixels.

    Its code takes the row of a pixel as x and the column as y, and transforms the direction p by
    R^T p - t instead of R p. Its weights expect exactly that.

    Args:
        camera_to_world: (..., 4, 4), OpenCV axes.
        focal: (...) focal lengths over the image width; the principal point is the centre.
        size: width and height of the feature map.

    Returns:
        (..., size, size, 6) float32: moments o x d, and unit directions d.
    """
    pose, focal = camera_to_world.float(), focal.float()
    axis = (torch.arange(size, device=pose.device) + 0.5) / size - 0.5
    points = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1)  # (s, s, 2)
    points = points / focal[..., None, None, None]
    points = functional.pad(points, (0, 1), value=1.0)  # (..., s, s, 3)
    origins = pose[..., None, None, :3, 3].expand_as(points)
    rotated = torch.einsum("...ij,...hwi->...hwj", pose[..., :3, :3], points)
    directions = functional.normalize(rotated - origins, dim=-1)
    return torch.cat([torch.linalg.cross(origins, directions), directions], dim=-1)


def harmonic_embedding(values: Tensor) -> Tensor:
    """Sines, then cosines, of values (..., C) times 1, 2, 4, ..., 32, then the values.

    Returns:
        (..., 13 C); the octaves of a channel are adjacent.
    """
    octaves = 2.0 ** torch.arange(FREQUENCIES, device=values.device, dtype=values.dtype)
    angles = (values[..., None] * octaves).flatten(-2)
    return torch.cat([angles.sin(), angles.cos(), values], dim=-1)


class RayEmbedding(nn.Module):
    """MLP from a ray's harmonic embedding to the channels of a feature map.

    Args:
        channels: of the feature map.
        operations: provides Linear.
        factory: device and dtype of the weights.
    """

    def __init__(self, channels: int, operations: ModuleType | type, **factory: Any):
        super().__init__()
        self.embed = nn.Sequential(
            operations.Linear(RAY_CHANNELS, channels, **factory),
            nn.SiLU(),
            operations.Linear(channels, channels, **factory),
        )

    def forward(self, rays: Tensor) -> Tensor:
        """(N, s, s, 78) -> (N, C, s, s)."""
        return self.embed(rays).movedim(-1, 1)
