"""Nearest pixels of a region."""

from __future__ import annotations

import torch
from torch import Tensor


def nearest_pixels(region: Tensor) -> Tensor:
    """(H, W) linear index of the nearest pixel of a region; of those inside, their own.

    Args:
        region: (H, W) bool on the CPU, with at least one pixel.
    """
    from scipy.ndimage import distance_transform_edt

    row, column = distance_transform_edt(
        ~region.numpy(), return_distances=False, return_indices=True
    )
    return torch.from_numpy(row).long() * region.shape[1] + torch.from_numpy(column).long()
