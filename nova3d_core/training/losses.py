"""EDM's loss in the form that is numerically stable at every noise level.

The paper weights |D(x; sigma) - y|^2 with (1 + sigma^2) / sigma^2. Since D = c_skip x + c_out F and
c_out^2 = sigma^2 / (1 + sigma^2), that equals |F - v|^2 with v = (noise - sigma y) / sqrt(1 +
sigma^2): no division by a small sigma, and equal weight for every level.
"""

from __future__ import annotations

import torch
from torch import Tensor


def expand_sigmas(sigmas: Tensor) -> Tensor:
    """(B,) -> (1, B, 1, 1, 1, 1): one level for all views and both domains of an object."""
    return sigmas.float()[None, :, None, None, None, None]


def network_input(clean: Tensor, noise: Tensor, sigmas: Tensor) -> Tensor:
    """c_in x, with x = y + sigma noise.

    Args:
        clean: (D, B, V, C, h, w) float32 scaled latents y.
        noise: standard normal, same shape.
        sigmas: (B,) noise levels.

    Returns:
        Same shape as `clean`.
    """
    sigma = expand_sigmas(sigmas)
    return (clean + sigma * noise) * torch.rsqrt(1.0 + sigma * sigma)


def velocity_target(clean: Tensor, noise: Tensor, sigmas: Tensor) -> Tensor:
    """v = (noise - sigma y) / sqrt(1 + sigma^2), the target of F; shapes of `network_input`."""
    sigma = expand_sigmas(sigmas)
    return (noise - sigma * clean) * torch.rsqrt(1.0 + sigma * sigma)


def edm_loss(
    prediction: Tensor,
    clean: Tensor,
    noise: Tensor,
    sigmas: Tensor,
    view_weights: Tensor | None = None,
) -> Tensor:
    """The paper's weighted loss per domain and object.

    Args:
        prediction: (D, B, V, C, h, w) output of the network F, of any dtype.
        clean: latents, same shape.
        noise: the noise that was added, same shape.
        sigmas: (B,) noise levels.
        view_weights: (B, V) of mean 1; 1 if None.

    Returns:
        (D, B) float32 means over views, channels and pixels.
    """
    error = prediction.float() - velocity_target(clean, noise, sigmas)
    if view_weights is None:
        return error.square().mean(dim=(2, 3, 4, 5))
    return (error.square().mean(dim=(3, 4, 5)) * view_weights).mean(dim=2)


def noise_level_weights(sigmas: Tensor, floor: float) -> Tensor:
    """sigma^2 / (sigma^2 + floor^2) of noise levels (B,): 1 far above the floor; 1 without one."""
    if floor == 0.0:
        return torch.ones_like(sigmas)
    squares = sigmas.float().square()
    return squares / (squares + floor**2)


def angle_weights(elevations_deg: Tensor, azimuths_deg: Tensor, lowest: float) -> Tensor:
    """(B, V) weights of mean 1 that grow linearly with the angle from the input view.

    Args:
        elevations_deg: (B, V) of the cameras, the input view first.
        azimuths_deg: (B, V) of the cameras.
        lowest: weight of the input view relative to the opposite one.
    """
    elevations, azimuths = elevations_deg.deg2rad(), azimuths_deg.deg2rad()
    first = elevations[:, :1]
    relative = azimuths - azimuths[:, :1]
    cosine = elevations.sin() * first.sin() + elevations.cos() * first.cos() * relative.cos()
    fraction = torch.acos(cosine.clamp(-1.0, 1.0)) / torch.pi
    weights = lowest + (1.0 - lowest) * fraction
    return weights / weights.mean(dim=1, keepdim=True)


def edm_loss_from_denoised(denoised: Tensor, clean: Tensor, sigmas: Tensor) -> Tensor:
    """The same loss as the paper writes it; reference implementation for `edm_loss`.

    Args:
        denoised: (D, B, V, C, h, w) D(x; sigma).
        clean: latents, same shape.
        sigmas: (B,) noise levels.
    """
    sigma = expand_sigmas(sigmas)
    weight = (1.0 + sigma * sigma) / (sigma * sigma)
    return (weight * (denoised - clean).square()).mean(dim=(2, 3, 4, 5))
