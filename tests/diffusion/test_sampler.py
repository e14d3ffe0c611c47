"""Euler's steps where the answer is known."""

from __future__ import annotations

import pytest
import torch

from nova3d_core.diffusion.sampling.sampler import sample_euler
from nova3d_core.diffusion.sampling.schedule import karras_sigmas
from nova3d_core.errors import Cancelled


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def test_a_denoiser_that_knows_the_data_ends_exactly_on_it():
    data = noise(2, 5)
    x = data + 700.0 * noise(2, 5)
    for steps in (1, 2, 30):
        assert sample_euler(lambda x, sigma: data, x, karras_sigmas(steps)).equal(data)


def test_the_step_is_eulers():
    sigmas = torch.tensor([4.0, 1.5, 0.5], dtype=torch.float64)
    x = start = noise(6).double()

    def denoise(x, sigma):
        return torch.sin(x) * sigma

    for sigma, following in ((4.0, 1.5), (1.5, 0.5)):
        x = x + (following - sigma) * (x - denoise(x, sigma)) / sigma
    torch.testing.assert_close(sample_euler(denoise, start, sigmas), x)


def test_gaussian_data_come_out_with_their_spread():
    # data N(0, s^2) have D(x) = x s^2 / (s^2 + sigma^2), and the flow scales x by a known factor
    spread = 0.7
    x = 700.0 * noise(1000).double()

    def denoise(x, sigma):
        return x * spread**2 / (spread**2 + sigma**2)

    known = x * spread / (spread**2 + 700.0**2) ** 0.5
    error = [
        float((sample_euler(denoise, x, karras_sigmas(steps)) - known).abs().max() / known.std())
        for steps in (100, 200, 400)
    ]
    assert error[0] > 1.8 * error[1] > 3.2 * error[2]  # of first order
    assert error[2] < 0.05


def test_every_step_is_reported_and_what_the_report_raises_ends_it():
    seen, calls = [], []

    def denoise(x, sigma):
        calls.append(sigma)
        return x * 0.0 + sigma

    def on_step(step, estimate):
        seen.append((step, float(estimate[0])))
        if step == 3:
            raise Cancelled("sampling")

    sigmas = karras_sigmas(10)
    with pytest.raises(Cancelled):
        sample_euler(denoise, noise(1), sigmas, on_step)
    assert calls == sigmas[:3].tolist()
    assert seen == list(zip((1, 2, 3), sigmas[:3].tolist(), strict=True))
