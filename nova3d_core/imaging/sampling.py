"""Reading colours out of images and textures between their texel centres."""

from __future__ import annotations

import torch
from torch import Tensor


def sample_texture(texture: Tensor, uv: Tensor) -> Tensor:
    """Bilinear colours of a texture that repeats outside 0..1.

    Args:
        texture: (H, W, C) float.
        uv: (P, 2) float, origin top left, texel centres at half texels.

    Returns:
        (P, C) float.
    """
    height, width = texture.shape[:2]
    x = uv[:, 0].remainder(1.0) * width - 0.5
    y = uv[:, 1].remainder(1.0) * height - 0.5
    return _bilinear(texture, x, y, lambda index, size: index.remainder(size))


def sample_image(image: Tensor, pixels: Tensor) -> Tensor:
    """Bilinear values of an image that keeps its border value outside.

    Args:
        image: (H, W, C) float.
        pixels: (P, 2) float x and y with pixel centres at +0.5.

    Returns:
        (P, C) float.
    """
    x, y = pixels[:, 0] - 0.5, pixels[:, 1] - 0.5
    return _bilinear(image, x, y, lambda index, size: index.clamp(0, size - 1))


def _bilinear(grid: Tensor, x: Tensor, y: Tensor, inside) -> Tensor:
    """Values (P, C) of `grid` (H, W, C) at texel coordinates x, y (P,) counted from centre 0."""
    height, width, channels = grid.shape
    flat = grid.reshape(-1, channels)
    left, top = torch.floor(x), torch.floor(y)
    right_share, bottom_share = (x - left)[:, None], (y - top)[:, None]
    column, row = left.long(), top.long()
    x0, x1 = inside(column, width), inside(column + 1, width)
    y0, y1 = inside(row, height) * width, inside(row + 1, height) * width
    upper = torch.lerp(flat[y0 + x0], flat[y0 + x1], right_share)
    lower = torch.lerp(flat[y1 + x0], flat[y1 + x1], right_share)
    return torch.lerp(upper, lower, bottom_share)
