"""Smooth warps of images: displacements are splines, or bicubic, between a few nodes."""

from __future__ import annotations

import torch
from torch import Tensor

from ..cameras.pixels import pixel_centres


def spline_weights(position: Tensor, nodes: int) -> Tensor:
    """(N, nodes) weights of a uniform cubic B-spline at positions (N,) in 0..1; their sum is 1.

    Args:
        position: clamped to 0..1.
        nodes: at least 4; the range 0..1 has nodes - 3 intervals.
    """
    intervals = nodes - 3
    scaled = position.clamp(0.0, 1.0) * intervals
    first = scaled.floor().clamp_max(intervals - 1)
    t = scaled - first
    local = torch.stack(
        [
            (1.0 - t) ** 3,
            3.0 * t**3 - 6.0 * t**2 + 4.0,
            -3.0 * t**3 + 3.0 * t**2 + 3.0 * t + 1.0,
            t**3,
        ],
        dim=1,
    )
    index = first.long()[:, None] + torch.arange(4, device=position.device)
    return position.new_zeros(len(position), nodes).scatter_(1, index, local / 6.0)


def smooth_image(nodes: Tensor, height: int, width: int) -> Tensor:
    """(H, W, C) values at the pixel centres of a spline over an image, nodes (C, n, n)."""
    rows, columns = (
        spline_weights((torch.arange(size, device=nodes.device) + 0.5) / size, nodes.shape[-1])
        for size in (height, width)
    )
    return torch.einsum("crk,hr,wk->hwc", nodes, rows, columns)


def bicubic_image(nodes: Tensor, height: int, width: int) -> Tensor:
    """(H, W, C) bicubic interpolation of nodes (C, n, n); the outer ones are corner pixels."""
    values = torch.nn.functional.interpolate(
        nodes[None], size=(height, width), mode="bicubic", align_corners=True
    )
    return values[0].permute(1, 2, 0)


def warp_image(image: Tensor, displacement_px: Tensor) -> Tensor:
    """The image (H, W, C) at each pixel plus its displacement (H, W, 2), bicubic.

    Beyond the border the border is repeated.
    """
    height, width = image.shape[:2]
    centres = pixel_centres(height, width, image.device)
    coordinates = (centres + displacement_px) / centres.new_tensor([width, height]) * 2.0 - 1.0
    sampled = torch.nn.functional.grid_sample(
        image.permute(2, 0, 1)[None],
        coordinates[None],
        mode="bicubic",
        padding_mode="border",
        align_corners=False,
    )
    return sampled[0].permute(1, 2, 0)
