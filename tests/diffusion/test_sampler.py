"""The samplers against closed-form solutions and a transcription of k-diffusion's."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from nova3d_core.diffusion.sampling.config import SAMPLER_NAMES
from nova3d_core.diffusion.sampling.sampler import SAMPLERS, evaluation_sigmas, sample_euler
from nova3d_core.diffusion.sampling.schedule import karras_sigmas
from nova3d_core.errors import Cancelled

EACH_SAMPLER = pytest.mark.parametrize("name", SAMPLERS)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def nonlinear(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """A denoiser that depends on x and the level, for comparisons with the reference."""
    return torch.tanh(x / (1.0 + sigma)) + 0.1 * math.log(sigma)


def k_diffusion(name: str, denoise, x: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
    """k-diffusion's sample_euler, sample_heun and sample_dpmpp_2m, without churn, in its terms."""
    old_denoised = None
    for i in range(len(sigmas) - 1):
        sigma, sigma_next = sigmas[i], sigmas[i + 1]
        denoised = denoise(x, float(sigma))
        d, dt = (x - denoised) / sigma, sigma_next - sigma
        if name == "dpmpp_2m":
            h = sigma.log() - sigma_next.log()  # t = -log(sigma)
            denoised_d = denoised
            if old_denoised is not None and sigma_next != 0:
                r = (sigmas[i - 1].log() - sigma.log()) / h
                denoised_d = (1 + 1 / (2 * r)) * denoised - 1 / (2 * r) * old_denoised
            x = sigma_next / sigma * x - torch.expm1(-h) * denoised_d
            old_denoised = denoised
        elif name == "euler" or sigma_next == 0:
            x = x + d * dt
        else:
            x_2 = x + d * dt
            d_2 = (x_2 - denoise(x_2, float(sigma_next))) / sigma_next
            x = x + (d + d_2) / 2 * dt
    return x


def test_every_sampler_is_a_choice():
    assert tuple(SAMPLERS) == SAMPLER_NAMES


@EACH_SAMPLER
@pytest.mark.parametrize("steps", [1, 2, 7, 30])
def test_equals_k_diffusion(name, steps):
    for sigmas in (karras_sigmas(steps).double(), karras_sigmas(steps + 1).double()[:-1]):
        x = sigmas[0] * noise(40).double()
        expected = k_diffusion(name, nonlinear, x, sigmas)
        result = SAMPLERS[name](nonlinear, x, sigmas, None)
        torch.testing.assert_close(result, expected, atol=1e-10, rtol=1e-10)


@EACH_SAMPLER
def test_perfect_denoiser_ends_exactly_at_the_data(name):
    data = noise(2, 5)
    x = data + 700.0 * noise(2, 5)
    for steps in (1, 2, 30):
        assert SAMPLERS[name](lambda x, sigma: data, x, karras_sigmas(steps), None).equal(data)


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2), ("dpmpp_2m", 2)])
def test_convergence_order_on_gaussian_data(name, order):
    # data N(0, s^2) have D(x) = x s^2 / (s^2 + sigma^2), and the exact flow scales x by a factor
    std, sigma_max, sigma_min = 0.7, 80.0, 0.05

    def denoise(x, sigma):
        return x * std**2 / (std**2 + sigma**2)

    x = torch.ones(1, dtype=torch.float64)
    exact = ((std**2 + sigma_min**2) / (std**2 + sigma_max**2)) ** 0.5
    error = []
    for steps in (101, 201, 401):
        sigmas = karras_sigmas(steps, sigma_min, sigma_max).double()[:-1]
        error.append(abs(float(SAMPLERS[name](denoise, x, sigmas, None)) / exact - 1.0))
    for coarse, fine in pairwise(error):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.1)


def test_higher_order_is_more_exact_for_the_same_evaluations():
    std = 0.7
    exact = std / (std**2 + 700.0**2) ** 0.5

    def error(name: str, steps: int) -> float:
        def denoise(x, sigma):
            return x * std**2 / (std**2 + sigma**2)

        sigmas = karras_sigmas(steps).double()
        return abs(float(SAMPLERS[name](denoise, torch.ones(1).double(), sigmas, None)) / exact - 1)

    # 79 or 80 evaluations each
    assert error("dpmpp_2m", 80) < 0.2 * error("euler", 80)
    assert error("heun", 40) < 0.5 * error("euler", 80)


@EACH_SAMPLER
def test_callback_receives_every_evaluation_and_may_abort(name):
    reports, calls = [], []

    def denoise(x, sigma):
        calls.append(sigma)
        return x * 0.0 + sigma

    def on_evaluation(done, estimate):
        reports.append((done, float(estimate[0])))
        if done == 3:
            raise Cancelled("sampling")

    sigmas = karras_sigmas(10)
    expected = evaluation_sigmas(name, sigmas)
    with pytest.raises(Cancelled):
        SAMPLERS[name](denoise, noise(1), sigmas, on_evaluation)
    assert calls == expected[:3]
    assert reports == list(zip((1, 2, 3), expected[:3], strict=True))


def test_evaluation_levels():
    sigmas = torch.tensor([4.0, 2.0, 1.0, 0.0])
    assert evaluation_sigmas("euler", sigmas) == evaluation_sigmas("dpmpp_2m", sigmas) == [4, 2, 1]
    assert evaluation_sigmas("heun", sigmas) == [4, 2, 2, 1, 1]  # the last step takes one
    assert evaluation_sigmas("heun", sigmas[:-1]) == [4, 2, 2, 1]


def test_euler_step_in_float32_is_exact_at_level_zero():
    """The estimate is returned bit for bit: x - denoised cancels at large noise levels."""
    x = 700.0 * noise(1000)
    assert sample_euler(lambda x, sigma: torch.sin(x), x, torch.tensor([700.0, 0.0])).equal(x.sin())
