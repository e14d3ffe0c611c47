"""Pixel coordinates: x to the right, y down, the centre of the top left pixel at (0.5, 0.5)."""

from __future__ import annotations

import torch
from torch import Tensor


def pixel_centres(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """(height, width, 2) x and y of the centres of an image's pixels."""
    rows, columns = torch.meshgrid(
        torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
    )
    return torch.stack([columns, rows], dim=-1) + 0.5
