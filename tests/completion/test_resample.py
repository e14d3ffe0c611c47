"""Masked resampling: known answers with denoisers in closed form."""

from __future__ import annotations

import math

import torch

from nova3d_core.completion.resample import latent_mask, masked_resample
from nova3d_core.diffusion.sampling.schedule import karras_sigmas

from .models import gaussian_denoiser

START = 200.0


def draw(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_without_unseen_parts_the_input_comes_back():
    latents = draw((3, 5, 4, 8, 8))
    denoise = gaussian_denoiser(2.0, 0.5)
    sigmas = karras_sigmas(12, 0.002, 8.0)
    result = masked_resample(denoise, latents, torch.zeros(()), draw(latents.shape, 1), sigmas)
    torch.testing.assert_close(result, latents, atol=1e-5, rtol=0.0)


def test_unseen_latents_are_draws_of_the_model():
    """With m = 1 the mean and variance are those of N(m, v), within 3 standard errors."""
    mean, variance, count = 0.7, 0.3, 40_000
    latents = 3.0 * draw((count,))
    sigmas = karras_sigmas(400, 0.002, START)
    result = masked_resample(
        gaussian_denoiser(mean, variance), latents, torch.ones(()), draw((count,), 1), sigmas
    )
    assert abs(float(result.mean()) - mean) < 3.0 * math.sqrt(variance / count)
    assert abs(float(result.var()) - variance) < 3.0 * variance * math.sqrt(2.0 / count)


def test_low_start_noise_stays_close_to_the_input():
    """The exact flow from level s0 keeps sqrt(v / (v + s0^2)) of the distance from the mean."""
    mean, variance, start = 0.0, 1.0, 0.5
    latents = torch.full((20_000,), 2.0)
    result = masked_resample(
        gaussian_denoiser(mean, variance),
        latents,
        torch.ones(()),
        draw((20_000,)),
        karras_sigmas(400, 0.002, start),
    )
    expected = 2.0 * math.sqrt(variance / (variance + start**2))
    assert abs(float(result.mean()) - expected) < 0.01


def test_seen_and_unseen_parts_in_one_image():
    latents = draw((2, 6, 3, 8, 8))
    unseen = torch.zeros(8, 8)
    unseen[:, 4:] = 1.0
    result = masked_resample(
        gaussian_denoiser(1.5, 1e-6), latents, unseen, draw(latents.shape, 1),
        karras_sigmas(60, 0.002, START),
    )  # fmt: skip
    assert torch.equal(result[..., :4], latents[..., :4])
    torch.testing.assert_close(
        result[..., 4:], torch.full_like(result[..., 4:], 1.5), atol=0.02, rtol=0.0
    )


def test_of_two_images_the_nearer_one_wins():
    """The denoiser of a mixture of two points moves moderately noisy latents to the nearer one."""
    first, second = draw((64,), 2), draw((64,), 3)

    def denoise(x, sigma):
        logits = torch.stack([-(x - each).square().sum() / (2.0 * sigma**2)
                              for each in (first, second)])  # fmt: skip
        weight = logits.softmax(dim=0)
        return weight[0] * first + weight[1] * second

    for near in (first, second):
        start = near + 0.2 * draw((64,), 4)
        result = masked_resample(
            denoise, start, torch.ones(()), draw((64,), 5), karras_sigmas(60, 0.002, 1.0)
        )
        torch.testing.assert_close(result, near, atol=0.02, rtol=0.0)


def test_the_mask_of_latents_is_the_mean_over_their_blocks():
    unseen = torch.zeros(1, 8, 8)
    unseen[0, :4, :2] = 1.0
    mask = latent_mask(unseen, 4)
    assert torch.equal(mask, torch.tensor([[[[0.5, 0.0], [0.0, 0.0]]]]))
