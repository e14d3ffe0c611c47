"""Score distillation: known gradients through texture, gather and codec."""

from __future__ import annotations

import math

import pytest
import torch

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.completion.sds import (
    distillation_residual,
    image_gradient,
    random_sigma,
    sigma_bounds,
)
from nova3d_core.completion.texture_renderer import TextureRenderer
from nova3d_core.diffusion.codecs.pixels import PixelCodec
from nova3d_core.diffusion.codecs.vae import VaeCodec, build_vae
from nova3d_core.diffusion.codecs.vae_config import VaeConfig
from nova3d_core.rendering.raycast import RayCaster
from nova3d_core.texturing.surface_pixels import as_planes

from ..diffusion.models import randomised
from .models import gaussian_denoiser


def test_residual_of_a_gaussian():
    """E[z - D(z + s e; s)] = s^2 / (v + s^2) (z - m), within 3 standard errors."""
    z, mean, variance, sigma, count = 1.3, -0.4, 0.5, 0.8, 200_000
    noise = torch.randn(count, generator=torch.Generator().manual_seed(0))
    latents = torch.full((count,), z)
    found = distillation_residual(gaussian_denoiser(mean, variance), latents, noise, sigma)
    expected = sigma**2 / (variance + sigma**2) * (z - mean)
    assert abs(float(found.mean()) - expected) < 3.0 * float(found.std()) / math.sqrt(count)


def test_gradient_reaches_the_texture_through_gather_and_codec(textured):
    """The texture's gradient is the transpose of gather and codec on s^2 / (v + s^2) (z - m)."""
    codec, mean, variance, sigma = PixelCodec(4), 0.2, 0.5, 1.5
    cameras = orbit_cameras(RigConfig(count=2, width_px=32, height_px=32))
    renderer = TextureRenderer.of(textured, RayCaster.from_mesh(textured), cameras)
    texture = as_planes(textured.texture).requires_grad_()
    images = renderer.render(texture)
    signed = images.movedim(-1, 1) * 2.0 - 1.0
    latents = codec.encode_scaled(signed).detach()
    draws, random = 400, torch.Generator().manual_seed(0)
    residuals = torch.stack([
        distillation_residual(
            gaussian_denoiser(mean, variance), latents,
            torch.randn(latents.shape, generator=random), sigma,
        )
        for _ in range(draws)
    ])  # fmt: skip
    exact = sigma**2 / (variance + sigma**2) * (latents - mean)
    error = residuals.mean(dim=0) - exact
    # the noise of the residual has the standard deviation v s / (v + s^2)
    standard_error = variance * sigma / (variance + sigma**2) / math.sqrt(draws)
    assert float(error.abs().max()) < 5.0 * standard_error  # the largest of thousands
    assert float(error.square().mean().sqrt()) < 1.1 * standard_error

    by_image = image_gradient(codec.encode_scaled, signed.detach(), exact)
    (by_texture,) = torch.autograd.grad((images * 2.0 * by_image.movedim(1, -1)).sum(), texture)
    # the same by finite steps: images and codec are linear in the texture
    direction = torch.randn(texture.shape, generator=random)
    moved = codec.encode_scaled(
        (renderer.render((texture + direction).detach()).movedim(-1, 1)) * 2.0 - 1.0
    )
    change = ((moved - latents) * exact).sum()
    torch.testing.assert_close((by_texture * direction).sum(), change, atol=1e-2, rtol=1e-4)


@pytest.mark.parametrize("check", [False, True])
def test_one_image_at_a_time_gives_the_gradient_of_all(check):
    codec = VaeCodec(randomised(build_vae(VaeConfig((32, 32), 1, 4, False)), 1).double())
    random = torch.Generator().manual_seed(0)
    images = torch.rand(3, 3, 16, 16, generator=random, dtype=torch.float64) * 2.0 - 1.0
    gradient = torch.randn(3, 4, 8, 8, generator=random, dtype=torch.float64)
    calls = []
    arguments = (lambda: calls.append(1),) if check else ()
    single = image_gradient(codec.encode_scaled, images, gradient, *arguments)
    together = images.clone().requires_grad_()
    latents = codec.encode_scaled(together)
    (expected,) = torch.autograd.grad(latents, together, gradient.to(latents))
    torch.testing.assert_close(single, expected, atol=1e-9, rtol=1e-9)
    assert float(expected.abs().max()) > 1e-3
    assert len(calls) == 3 * check


def test_noise_levels_fall_from_start_to_end():
    limits = (0.002, 700.0)
    assert sigma_bounds(0.0, limits) == (3.0, 30.0)
    low, high = sigma_bounds(1.0, limits)
    assert low == pytest.approx(0.5) and high == pytest.approx(5.0)
    assert sigma_bounds(0.0, (0.03, 14.6)) == (3.0, 14.6)
    random = torch.Generator().manual_seed(0)
    draws = [random_sigma((0.5, 5.0), random) for _ in range(2000)]
    assert 0.5 <= min(draws) < 0.51 and 4.9 < max(draws) <= 5.0
    median = sorted(draws)[1000]
    assert median == pytest.approx(math.sqrt(2.5), rel=0.1)
