"""The Euler sampler against closed-form solutions."""

from __future__ import annotations

import pytest
import torch

from nova3d_core.diffusion.sampling.sampler import sample_euler
from nova3d_core.diffusion.sampling.schedule import karras_sigmas
from nova3d_core.errors import Cancelled


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def test_perfect_denoiser_ends_exactly_at_the_data():
    data = noise(2, 5)
    x = data + 700.0 * noise(2, 5)
    for steps in (1, 2, 30):
        assert sample_euler(lambda x, sigma: data, x, karras_sigmas(steps)).equal(data)


def test_step_is_an_euler_step():
    sigmas = torch.tensor([4.0, 1.5, 0.5], dtype=torch.float64)
    x = start = noise(6).double()

    def denoise(x, sigma):
        return torch.sin(x) * sigma

    for sigma, sigma_next in ((4.0, 1.5), (1.5, 0.5)):
        x = x + (sigma_next - sigma) * (x - denoise(x, sigma)) / sigma
    torch.testing.assert_close(sample_euler(denoise, start, sigmas), x)


def test_gaussian_data_converge_to_first_order():
    # data N(0, s^2) have D(x) = x s^2 / (s^2 + sigma^2), and the exact flow scales x by a factor
    std = 0.7
    x = 700.0 * noise(1000).double()

    def denoise(x, sigma):
        return x * std**2 / (std**2 + sigma**2)

    expected = x * std / (std**2 + 700.0**2) ** 0.5
    error = [
        float(
            (sample_euler(denoise, x, karras_sigmas(steps)) - expected).abs().max() / expected.std()
        )
        for steps in (100, 200, 400)
    ]
    assert error[0] > 1.8 * error[1] > 3.2 * error[2]  # first order
    assert error[2] < 0.05


def test_callback_receives_every_step_and_may_abort():
    reports, calls = [], []

    def denoise(x, sigma):
        calls.append(sigma)
        return x * 0.0 + sigma

    def on_step(step, estimate):
        reports.append((step, float(estimate[0])))
        if step == 3:
            raise Cancelled("sampling")

    sigmas = karras_sigmas(10)
    with pytest.raises(Cancelled):
        sample_euler(denoise, noise(1), sigmas, on_step)
    assert calls == sigmas[:3].tolist()
    assert reports == list(zip((1, 2, 3), sigmas[:3].tolist(), strict=True))
