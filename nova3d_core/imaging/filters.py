"""Gaussian blur and gradients of images."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Border = Literal["constant", "replicate"]
"""Values beyond the border, as in `torch.nn.functional.pad`: zeros, or those of the border."""


def gaussian_blur(
    image: Tensor, sigma_px: float, radius_px: int | None = None, border: Border = "constant"
) -> Tensor:
    """Gaussian blur of an image (C, H, W).

    Args:
        image: (C, H, W) float.
        sigma_px: standard deviation.
        radius_px: where the Gaussian is cut off; 2.5 standard deviations by default.
        border: values beyond the border.
    """
    radius = math.ceil(2.5 * sigma_px) if radius_px is None else radius_px
    weights = [math.exp(-(step**2) / (2 * sigma_px**2)) for step in range(-radius, radius + 1)]
    total = sum(weights)
    # a loop over the taps is three times as fast as a convolution with so few
    for axis, sides in ((2, (radius, radius, 0, 0)), (1, (0, 0, radius, radius))):
        padded = functional.pad(image, sides, mode=border)
        image = torch.zeros_like(image)
        for step, weight in enumerate(weights):
            part = padded.narrow(axis, step, image.shape[axis])
            image.add_(part, alpha=weight / total)
    return image


def image_gradient(image: Tensor, border: Border = "constant") -> Tensor:
    """(2, C, H, W) central differences along x and y of an image (C, H, W)."""
    padded = functional.pad(image, (1, 1, 1, 1), mode=border)
    along_x = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2
    along_y = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2
    return torch.stack([along_x, along_y])
