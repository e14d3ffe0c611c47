"""EDM's loss in the form that is stable at every noise level.

The paper weighs |D(x; sigma) - y|^2 with (1 + sigma^2) / sigma^2. Since D = c_skip x + c_out F and
c_out^2 = sigma^2 / (1 + sigma^2), that is |F - v|^2 with v = (noise - sigma y) / sqrt(1 + sigma^2):
no division by a small sigma, and every level counts alike.
"""

from __future__ import annotations

import torch
from torch import Tensor


def per_object(sigmas: Tensor) -> Tensor:
    """(B,) -> (1, B, 1, 1, 1, 1): one level for all views and both domains of an object."""
    return sigmas.float()[None, :, None, None, None, None]


def network_input(clean: Tensor, noise: Tensor, sigmas: Tensor) -> Tensor:
    """c_in x, with x = y + sigma noise.

    Args:
        clean: (D, B, V, C, h, w) float32 scaled latents y.
        noise: as `clean`, standard normal.
        sigmas: (B,) noise levels.

    Returns:
        As `clean`.
    """
    sigma = per_object(sigmas)
    return (clean + sigma * noise) * torch.rsqrt(1.0 + sigma * sigma)


def velocity(clean: Tensor, noise: Tensor, sigmas: Tensor) -> Tensor:
    """v = (noise - sigma y) / sqrt(1 + sigma^2), what F shall answer; shapes of `network_input`."""
    sigma = per_object(sigmas)
    return (noise - sigma * clean) * torch.rsqrt(1.0 + sigma * sigma)


def edm_loss(answer: Tensor, clean: Tensor, noise: Tensor, sigmas: Tensor) -> Tensor:
    """The paper's weighted loss of each domain and object.

    Args:
        answer: (D, B, V, C, h, w) what the network F gave, in any number format.
        clean: as `answer`, the latents.
        noise: as `answer`, what was added.
        sigmas: (B,) noise levels.

    Returns:
        (D, B) float32 means over views, channels and places.
    """
    wrong = answer.float() - velocity(clean, noise, sigmas)
    return wrong.square().mean(dim=(2, 3, 4, 5))


def edm_loss_of_denoised(denoised: Tensor, clean: Tensor, sigmas: Tensor) -> Tensor:
    """The same loss as the paper writes it; the plain twin of `edm_loss`.

    Args:
        denoised: (D, B, V, C, h, w) D(x; sigma).
        clean: as `denoised`.
        sigmas: (B,) noise levels.
    """
    sigma = per_object(sigmas)
    weight = (1.0 + sigma * sigma) / (sigma * sigma)
    return (weight * (denoised - clean).square()).mean(dim=(2, 3, 4, 5))
