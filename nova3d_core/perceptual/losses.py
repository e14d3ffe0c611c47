"""Image losses of optimisations: L1 and structural similarity."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

SSIM_WINDOW_PX = 11
SSIM_SIGMA_PX = 1.5
_C1, _C2 = 0.01**2, 0.03**2


@lru_cache(maxsize=8)
def gaussian_band(size: int, device: torch.device) -> Tensor:
    """(size, size) matrix that blurs along one axis with the window of SSIM, zero outside.

    On a CPU, two products with it are six times faster than a depthwise convolution.
    """
    offset = torch.arange(size)[:, None] - torch.arange(size)[None]
    window = torch.exp(-0.5 * (offset / SSIM_SIGMA_PX).square())
    half = SSIM_WINDOW_PX // 2
    taps = torch.exp(-0.5 * (torch.arange(-half, half + 1) / SSIM_SIGMA_PX).square())
    return (window * (offset.abs() <= half) / taps.sum()).to(device)


def ssim_map(result: Tensor, reference: Tensor) -> Tensor:
    """(C, H, W) structural similarity of two images (C, H, W) in 0..1.

    Gaussian window of sigma 1.5 and 11 pixels, images continued with zeros, biased covariances.
    """
    height, width = result.shape[1:]
    rows, columns = (gaussian_band(size, result.device) for size in (height, width))

    def blur(images: Tensor) -> Tensor:
        return rows @ images @ columns.T

    channels = len(result)
    products = [result, reference, result.square(), reference.square(), result * reference]
    means = blur(torch.cat(products)).split(channels)
    a, b, aa, bb, ab = means
    covariance, variance = ab - a * b, aa - a * a + bb - b * b
    similarity = (2 * a * b + _C1) * (2 * covariance + _C2)
    return similarity / ((a * a + b * b + _C1) * (variance + _C2))


def image_loss(result: Tensor, reference: Tensor, ssim_weight: float) -> Tensor:
    """(1 - w) L1 + w (1 - SSIM) of two images (H, W, 3), as in 3D Gaussian splatting."""
    absolute = (result - reference).abs().mean()
    similarity = ssim_map(result.permute(2, 0, 1), reference.permute(2, 0, 1)).mean()
    return (1.0 - ssim_weight) * absolute + ssim_weight * (1.0 - similarity)
