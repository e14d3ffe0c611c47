"""Numbers as vectors that a network can read."""

from __future__ import annotations

import math

import torch
from torch import Tensor

COLOUR_TASK = (0.0, 1.0)
NORMAL_TASK = (1.0, 0.0)
"""One-hot tasks as Wonder3D orders them."""


def sinusoidal_embedding(values: Tensor, size: int, max_period: float = 10000.0) -> Tensor:
    """Cosines, then sines, of values at `size` / 2 frequencies from 1 down to 1 / max_period.

    Args:
        values: (...) any numbers.
        size: length of a vector, even.
        max_period: 2 pi times this is the longest wave.

    Returns:
        (..., size) float32.
    """
    half = size // 2
    exponents = torch.arange(half, dtype=torch.float32, device=values.device) / half
    angles = values.float()[..., None] * torch.exp(-math.log(max_period) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def camera_task_embedding(
    elevations_rad: Tensor, azimuths_rad: Tensor, domains: int = 2, input_view: int = 0
) -> Tensor:
    """What NOVA3D is told of each view: where it looks from, and whether to paint normals.

    Five numbers (an unused 0, elevation and azimuth relative to the input view, the one-hot task)
    as sines and cosines, in the manner of Wonder3D.

    Args:
        elevations_rad: (V,) angles of the cameras.
        azimuths_rad: (V,) angles of the cameras.
        domains: 2 for colour and normals, 1 for colour alone.
        input_view: the view that shows the input image.

    Returns:
        (D, V, 10) float32: five sines, five cosines.
    """
    elevations = elevations_rad - elevations_rad[input_view]  # (V,)
    azimuths = azimuths_rad - azimuths_rad[input_view]  # (V,)
    camera = torch.stack([torch.zeros_like(elevations), elevations, azimuths], dim=-1)  # (V, 3)
    tasks = camera.new_tensor((COLOUR_TASK, NORMAL_TASK)[:domains])  # (D, 2)
    count = len(camera)
    numbers = torch.cat(
        [camera.expand(domains, count, 3), tasks[:, None].expand(domains, count, 2)], dim=-1
    )  # (D, V, 5)
    return torch.cat([numbers.sin(), numbers.cos()], dim=-1).float()
