"""Image losses of optimisations: L1 and structural similarity."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

SSIM_WINDOW_PX = 11
SSIM_SIGMA_PX = 1.5
_HALF = SSIM_WINDOW_PX // 2
_C1, _C2 = 0.01**2, 0.03**2
_BLOCK_PX = 64
"""Size of the band's blocks on a CPU."""


@lru_cache(maxsize=8)
def gaussian_band(size: int, device: torch.device) -> Tensor:
    """(size, size) matrix that blurs along one axis with the window of SSIM, zero outside.

    On a CPU, two products with it are far faster than a depthwise convolution.
    """
    offset = torch.arange(size)[:, None] - torch.arange(size)[None]
    window = torch.exp(-0.5 * (offset / SSIM_SIGMA_PX).square())
    taps = torch.exp(-0.5 * (torch.arange(-_HALF, _HALF + 1) / SSIM_SIGMA_PX).square())
    return (window * (offset.abs() <= _HALF) / taps.sum()).to(device)


def blur(images: Tensor) -> Tensor:
    """Images (C, H, W) blurred with the window of SSIM, continued with zeros; equals its adjoint.

    The band is multiplied in blocks, most of which would be zeros otherwise.
    """
    height, width = images.shape[1:]
    rows, columns = (gaussian_band(size, images.device) for size in (height, width))
    block = _BLOCK_PX if images.device.type == "cpu" else max(height, width)
    parts = [
        images[..., max(start - _HALF, 0) : start + block + _HALF]
        @ columns[max(start - _HALF, 0) : start + block + _HALF, start : start + block]
        for start in range(0, width, block)
    ]
    images = torch.cat(parts, dim=2)
    parts = [
        rows[start : start + block, max(start - _HALF, 0) : start + block + _HALF]
        @ images[:, max(start - _HALF, 0) : start + block + _HALF]
        for start in range(0, height, block)
    ]
    return torch.cat(parts, dim=1)


class _Ssim(torch.autograd.Function):
    """Structural similarity with its analytic gradients.

    With means a, b, variances and covariance s of windows, the similarity is A1 A2 / (B1 B2) with
    A1 = 2 a b + C1, A2 = 2 s_ab + C2, B1 = a^2 + b^2 + C1, B2 = s_aa + s_bb + C2.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        a, b, aa, bb, ab = blur(torch.cat([x, y, x * x, y * y, x * y])).split(len(x))
        a1, a2 = 2 * a * b + _C1, 2 * (ab - a * b) + _C2
        b1, b2 = a * a + b * b + _C1, aa - a * a + bb - b * b + _C2
        similarity = a1 * a2 / (b1 * b2)
        ctx.save_for_backward(x, y, a, b, a1, a2, b1, b2, similarity)
        return similarity

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, y, a, b, a1, a2, b1, b2, similarity = ctx.saved_tensors
        inverse = gradient / (b1 * b2)
        by_product = 2 * a1 * inverse  # by the mean of x y
        by_square = -gradient * similarity / b2  # by the mean of x^2, and of y^2
        by_a = 2 * b * (a2 * inverse) - 2 * a * (gradient * similarity / b1)
        by_a = by_a - b * by_product - 2 * a * by_square
        if not ctx.needs_input_grad[1]:
            mean, square, product = blur(torch.cat([by_a, by_square, by_product])).split(len(x))
            return mean + 2 * x * square + y * product, None
        by_b = 2 * a * (a2 * inverse) - 2 * b * (gradient * similarity / b1)
        by_b = by_b - a * by_product - 2 * b * by_square
        parts = blur(torch.cat([by_a, by_b, by_square, by_product])).split(len(x))
        mean_a, mean_b, square, product = parts
        return mean_a + 2 * x * square + y * product, mean_b + 2 * y * square + x * product


def ssim_map(result: Tensor, reference: Tensor) -> Tensor:
    """(C, H, W) structural similarity of two images (C, H, W) in 0..1; differentiable in both.

    Gaussian window of sigma 1.5 and 11 pixels, images continued with zeros, biased covariances.
    """
    return _Ssim.apply(result, reference)


def image_loss(result: Tensor, reference: Tensor, ssim_weight: float) -> Tensor:
    """(1 - w) L1 + w (1 - SSIM) of two images (H, W, 3), as in 3D Gaussian splatting."""
    absolute = (result - reference).abs().mean()
    similarity = ssim_map(result.permute(2, 0, 1), reference.permute(2, 0, 1)).mean()
    return (1.0 - ssim_weight) * absolute + ssim_weight * (1.0 - similarity)
