"""Score distillation on images whose geometry is fixed (Poole et al. 2023; SV3D, section 4)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..diffusion.sampling.sampler import Denoise

START_SIGMAS, END_SIGMAS = (3.0, 30.0), (0.5, 5.0)
"""Range of the noise levels at the first and the last iteration."""


def distillation_residual(denoise: Denoise, latents: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """z - D(z + sigma e; sigma), the gradient of score distillation by the latents.

    The usual eps_hat - eps is this over sigma; with the weight omega(sigma) = sigma, a step of
    length 1 against it moves z to the denoised estimate.

    Args:
        denoise: the denoiser D.
        latents: z (...).
        noise: e (...), standard normal.
        sigma: the noise level, above 0.
    """
    return latents - denoise(latents + sigma * noise, sigma)


def sigma_bounds(fraction: float, limits: tuple[float, float]) -> tuple[float, float]:
    """Range of noise levels after a fraction of the iterations, geometric between start and end.

    Args:
        fraction: 0 at the first, 1 at the last iteration.
        limits: smallest and largest level of the model's training.
    """
    low, high = (
        start * (end / start) ** fraction
        for start, end in zip(START_SIGMAS, END_SIGMAS, strict=True)
    )
    low = min(max(low, limits[0]), limits[1])
    return low, min(max(high, low), limits[1])


def random_sigma(bounds: tuple[float, float], generator: torch.Generator) -> float:
    """A noise level, log-uniform within bounds."""
    low, high = (math.log(bound) for bound in bounds)
    return math.exp(low + (high - low) * float(torch.rand((), generator=generator)))


def image_gradient(
    encode: Callable[[Tensor], Tensor],
    images: Tensor,
    latent_gradient: Tensor,
    check: Callable[[], None] = lambda: None,
) -> Tensor:
    """Back-propagates a gradient by latents through the encoder, one image at a time.

    The memory is that of one image; the result equals a backward pass over all images.

    Args:
        encode: images (N, 3, H, W) -> latents (N, C, h, w).
        images: (V, 3, H, W).
        latent_gradient: (V, C, h, w).
        check: called before each image; an exception in it ends the loop.

    Returns:
        (V, 3, H, W).
    """
    parts = []
    for image, gradient in zip(images, latent_gradient, strict=True):
        check()
        leaf = image[None].detach().requires_grad_()
        latent = encode(leaf)
        (part,) = torch.autograd.grad(latent, leaf, gradient[None].to(latent))
        parts.append(part)
    return torch.cat(parts)
