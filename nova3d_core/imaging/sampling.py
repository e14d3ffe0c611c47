"""Bilinear sampling of images and textures."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def sample_texture(texture: Tensor, uv: Tensor) -> Tensor:
    """Bilinear texture lookup with repeat wrapping.

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
    """Bilinear image lookup with border clamping.

    Args:
        image: (H, W, C) float.
        pixels: (P, 2) float x and y with pixel centres at +0.5.

    Returns:
        (P, C) float.
    """
    x, y = pixels[:, 0] - 0.5, pixels[:, 1] - 0.5
    return _bilinear(image, x, y, lambda index, size: index.clamp(0, size - 1))


def _bilinear(grid: Tensor, x: Tensor, y: Tensor, wrap: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Values (P, C) of `grid` (H, W, C) at x, y (P,), in texels from the centre of texel 0.

    `wrap` maps indices and a size to indices within it.
    """
    height, width, channels = grid.shape
    flat = grid.reshape(-1, channels)
    left, top = torch.floor(x), torch.floor(y)
    right_weight, bottom_weight = (x - left)[:, None], (y - top)[:, None]
    column, row = left.long(), top.long()
    x0, x1 = wrap(column, width), wrap(column + 1, width)
    y0, y1 = wrap(row, height) * width, wrap(row + 1, height) * width
    upper = torch.lerp(flat[y0 + x0], flat[y0 + x1], right_weight)
    lower = torch.lerp(flat[y1 + x0], flat[y1 + x1], right_weight)
    return torch.lerp(upper, lower, bottom_weight)
