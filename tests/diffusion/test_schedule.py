"""Noise schedule and preconditioning against published values and SVD's parameterisation."""

from __future__ import annotations

import math

import pytest
import torch

from nova3d_core.diffusion.sampling.schedule import init_noise_sigma, karras_sigmas, preconditioning
from nova3d_core.errors import InputError


@pytest.mark.parametrize(
    ("steps", "first", "last"),
    [(50, (700.0, 620.3278, 548.5581), 0.004049), (25, (700.0, 545.7292, 421.5691), 0.007882)],
)
def test_sigmas_match_published_values(steps, first, last):
    sigmas = karras_sigmas(steps)
    assert sigmas.shape == (steps + 1,) and sigmas.dtype == torch.float32
    torch.testing.assert_close(sigmas[:3], torch.tensor(first), rtol=1e-6, atol=0)
    torch.testing.assert_close(sigmas[-3:], torch.tensor([last, 0.002, 0.0]), rtol=2e-4, atol=0)
    assert bool((sigmas.diff() < 0).all())


def test_sigmas_match_diffusers_scheduler():
    from diffusers import EulerDiscreteScheduler

    for steps in (2, 7, 25):
        scheduler = EulerDiscreteScheduler(
            use_karras_sigmas=True, sigma_min=0.002, sigma_max=700.0, timestep_type="continuous",
            prediction_type="v_prediction", timestep_spacing="leading", steps_offset=1,
        )  # fmt: skip
        scheduler.set_timesteps(steps)
        torch.testing.assert_close(scheduler.sigmas, karras_sigmas(steps), rtol=1e-6, atol=0)
        noise_levels = [
            preconditioning(sigma).c_noise for sigma in karras_sigmas(steps)[:-1].tolist()
        ]
        torch.testing.assert_close(scheduler.timesteps, torch.tensor(noise_levels))
        assert float(scheduler.init_noise_sigma) == pytest.approx(init_noise_sigma(700.0), rel=1e-6)


def test_single_step_and_invalid_counts():
    assert karras_sigmas(1).tolist() == [700.0, 0.0]
    for steps in (0, 1001):
        with pytest.raises(InputError, match="steps"):
            karras_sigmas(steps)


@pytest.mark.parametrize("sigma", [0.002, 0.3, 1.0, 5.0, 700.0])
def test_coefficients_form_an_orthonormal_rotation(sigma):
    edm = preconditioning(sigma)
    assert edm.c_in**2 + edm.c_out**2 == pytest.approx(1.0, abs=1e-12)  # cos^2 + sin^2
    assert edm.c_skip == pytest.approx(edm.c_in**2, rel=1e-12)
    assert edm.c_out == pytest.approx(-sigma * edm.c_in, rel=1e-12)
    assert edm.c_noise == pytest.approx(math.log(sigma) / 4, rel=1e-12)
    # the network sees data of standard deviation 1: c_in^2 (1 + sigma^2) = 1
    assert edm.c_in * init_noise_sigma(sigma) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("sigma", [0.01, 1.0, 30.0])
def test_negative_c_out_recovers_the_data_from_a_perfect_v(sigma):
    generator = torch.Generator().manual_seed(0)
    data, noise = torch.randn(2, 1000, generator=generator, dtype=torch.float64)
    angle = math.atan(sigma)
    v = math.cos(angle) * noise - math.sin(angle) * data  # what SVD predicts
    edm = preconditioning(sigma)
    noisy = data + sigma * noise
    torch.testing.assert_close(edm.c_skip * noisy + edm.c_out * v, data)
    assert not torch.allclose(edm.c_skip * noisy - edm.c_out * v, data, atol=1e-3)
