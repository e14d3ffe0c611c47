"""Masked resampling: noise is added to renders and removed again where they are unseen.

SDEdit (Meng et al. 2022) with a mask: after each step, the seen parts of the latents are set to the
renders at the present noise level.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from ..diffusion.sampling.sampler import Denoise, OnEvaluation, blend, reporting


def masked_resample(
    denoise: Denoise,
    latents: Tensor,
    unseen: Tensor,
    noise: Tensor,
    sigmas: Tensor,
    on_evaluation: OnEvaluation | None = None,
) -> Tensor:
    """Resamples the unseen part of latents by Euler steps.

    x <- m x + (1 - m) (z + sigma e) after each step, with the same noise e: where m = 0 this is the
    exact path of the probability flow to z.

    Args:
        denoise: the denoiser D(x; sigma).
        latents: z (...), latents of the renders.
        unseen: m in 0..1, broadcastable to the latents; 0 keeps them.
        noise: e (...), standard normal.
        sigmas: (S + 1,) decreasing noise levels, the last 0; the first is the start noise.
        on_evaluation: called after each evaluation of D; an exception in it ends the sampling.

    Returns:
        (...) latents; where m = 0 they equal z.
    """
    denoise = reporting(denoise, on_evaluation)
    levels = sigmas.tolist()
    x = latents + levels[0] * noise
    for sigma, sigma_next in pairwise(levels):
        x = blend(denoise(x, sigma), x, sigma_next / sigma)
        x = torch.lerp(latents + sigma_next * noise, x, unseen)
    return x


def latent_mask(unseen: Tensor, factor: int) -> Tensor:
    """Means (V, 1, h, w) of a map (V, H, W) over the codec's blocks of f x f pixels."""
    return functional.avg_pool2d(unseen[:, None], factor)
