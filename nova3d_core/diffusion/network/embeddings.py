"""Sinusoidal embeddings of scalars, and of cameras and tasks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

COLOUR_TASK = (0.0, 1.0)
NORMAL_TASK = (1.0, 0.0)
"""One-hot task labels, in Wonder3D's order."""


def sinusoidal_embedding(values: Tensor, size: int, max_period: float = 10000.0) -> Tensor:
    """Cosines, then sines, of values at `size` / 2 frequencies from 1 to 1 / max_period.

    Args:
        values: (...) scalars.
        size: length of the embedding, even.
        max_period: the longest wavelength over 2 pi.

    Returns:
        (..., size) float32.
    """
    half = size // 2
    exponents = torch.arange(half, dtype=torch.float32, device=values.device) / half
    angles = values.float()[..., None] * torch.exp(-math.log(max_period) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def camera_task_embedding(
    elevations_rad: Tensor,
    azimuths_rad: Tensor,
    domains: int = 2,
    input_view: int = 0,
    camera_type: tuple[float, ...] = (),
) -> Tensor:
    """Camera and task embedding of each view, as in Wonder3D and NOVA3D.

    Sines and cosines of five values: a zero, elevation and azimuth relative to the input view, and
    the one-hot task (colour or normals).

    Args:
        elevations_rad: (V,) camera elevations.
        azimuths_rad: (V,) camera azimuths.
        domains: 2 for colour and normals, 1 for colour alone.
        input_view: index of the view that shows the input image.
        camera_type: one-hot type of the cameras, before the task (Wonder3D++).

    Returns:
        (D, V, 10) float32: five sines, five cosines; (D, V, 14) with a camera type.
    """
    elevations = elevations_rad - elevations_rad[input_view]  # (V,)
    azimuths = azimuths_rad - azimuths_rad[input_view]  # (V,)
    angles = [torch.zeros_like(elevations), elevations, azimuths]
    types = [torch.full_like(elevations, value) for value in camera_type]
    camera = torch.stack([*angles, *types], dim=-1)  # (V, C)
    tasks = camera.new_tensor((COLOUR_TASK, NORMAL_TASK)[:domains])  # (D, 2)
    views, width = camera.shape
    values = torch.cat(
        [camera.expand(domains, views, width), tasks[:, None].expand(domains, views, 2)], dim=-1
    )  # (D, V, C + 2)
    return torch.cat([values.sin(), values.cos()], dim=-1).float()
