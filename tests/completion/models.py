"""Models whose denoiser is known in closed form, in the place of a trained network."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from nova3d_core.diffusion.codecs.pixels import PixelCodec
from nova3d_core.diffusion.families import FAMILIES
from nova3d_core.diffusion.model import MultiviewModel
from nova3d_core.diffusion.sampling.schedule import preconditioning

from ..diffusion.models import small_config, small_model

SIZE_PX = 32
COLOUR = (0.2, 0.6, 0.3)
"""Mean of the generated images."""


def gaussian_denoiser(mean: Tensor | float, variance: float):
    """D(x; s) = (v x + s^2 m) / (v + s^2) of data ~ N(m, v)."""

    def denoise(x: Tensor, sigma: float) -> Tensor:
        return (variance * x + sigma**2 * mean) / (variance + sigma**2)

    return denoise


class GaussianUNet(nn.Module):
    """F of a Gaussian: EDM's preconditioning makes D of it, as of a trained network.

    Args:
        family: for the architecture's dimensions.
        mean: (D, C) of each domain's latents.
        variance: of the latents.
    """

    def __init__(self, family, mean: Tensor, variance: float):
        super().__init__()
        self.config = small_config(family)
        self.register_buffer("mean", mean)
        self.variance = variance
        self.calls = 0

    def forward(self, x: Tensor, c_noise: Tensor, *conditions) -> Tensor:
        self.calls += 1
        sigma = float((4.0 * c_noise[0]).exp())
        edm, mean = preconditioning(sigma), self.mean[:, None, None, :, None, None]
        noisy = x[:, :, :, : self.mean.shape[1]].float() / edm.c_in
        denoised = gaussian_denoiser(mean, self.variance)(noisy, sigma)
        return (denoised - edm.c_skip * noisy) / edm.c_out


def gaussian_model(name: str = "sv3d_p", variance: float = 1e-4, **changes) -> MultiviewModel:
    """A model of a family that generates images around one colour, in pixel latents."""
    family = replace(FAMILIES[name], size_px=SIZE_PX, **changes)
    codec = PixelCodec(4)
    image = torch.tensor(COLOUR)[None, :, None, None].expand(1, 3, 4, 4) * 2.0 - 1.0
    mean = codec.encode_scaled(image)[:, :, 0, 0].expand(len(family.domains), -1)
    unet = GaussianUNet(family, mean.contiguous(), variance)
    encoder = small_model("nova3d-mini").image_encoder
    return MultiviewModel(family, unet, codec, encoder, "gaussian.safetensors")
