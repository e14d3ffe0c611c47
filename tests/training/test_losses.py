"""The loss: the stable form equals the paper's, at every noise level and per object."""

from __future__ import annotations

import pytest
import torch

from nova3d_core.diffusion.sampling.schedule import preconditioning
from nova3d_core.training.losses import (
    edm_loss,
    edm_loss_from_denoised,
    expand_sigmas,
    network_input,
    noise_level_weights,
    velocity_target,
)

SHAPE = (2, 5, 3, 4, 6, 6)
SIGMAS = torch.tensor([0.002, 0.3, 1.0, 20.0, 700.0])


def batch(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(SHAPE, generator=generator, dtype=dtype) for _ in range(3)]


def denoise(prediction, clean, noise, sigmas):
    """D = c_skip x + c_out F with the sampler's coefficients."""
    x = clean + sigmas[None, :, None, None, None, None] * noise
    parts = []
    for index, sigma in enumerate(sigmas.tolist()):
        edm = preconditioning(sigma)
        parts.append(edm.c_skip * x[:, index] + edm.c_out * prediction[:, index])
    return torch.stack(parts, dim=1)


def test_stable_form_equals_the_papers():
    clean, noise, prediction = batch(torch.float64)
    sigmas = SIGMAS.double()
    denoised = denoise(prediction, clean, noise, sigmas)
    sigma = sigmas[None, :, None, None, None, None]
    exact = ((1 + sigma**2) / sigma**2 * (denoised - clean).square()).mean(dim=(2, 3, 4, 5))
    stable = edm_loss(prediction.float(), clean.float(), noise.float(), SIGMAS)
    torch.testing.assert_close(stable.double(), exact, rtol=1e-5, atol=0)
    reference = edm_loss_from_denoised(denoised.float(), clean.float(), SIGMAS)
    torch.testing.assert_close(reference[:, 1:4].double(), exact[:, 1:4], rtol=1e-3, atol=0)


def test_network_input_matches_the_samplers():
    clean, noise, _ = batch()
    inputs = network_input(clean, noise, SIGMAS)
    for index, sigma in enumerate(SIGMAS.tolist()):
        expected = preconditioning(sigma).c_in * (clean[:, index] + sigma * noise[:, index])
        torch.testing.assert_close(inputs[:, index], expected)
    assert abs(float(inputs.std()) - 1.0) < 0.02  # unit variance at every level


def test_exact_prediction_has_zero_loss_and_denoises_exactly():
    clean, noise, _ = batch()
    prediction = velocity_target(clean, noise, SIGMAS)
    assert float(edm_loss(prediction, clean, noise, SIGMAS).max()) == 0.0
    denoised = denoise(prediction, clean, noise, SIGMAS)
    torch.testing.assert_close(denoised[:, :3], clean[:, :3], rtol=0, atol=1e-4)


@pytest.mark.parametrize("sigma", [1e-6, 1e-3, 1e3, 1e5])
def test_loss_is_finite_and_of_order_one_at_extreme_levels(sigma):
    clean, noise, prediction = batch()
    loss = edm_loss(prediction, clean, noise, torch.full((5,), sigma))
    assert bool(torch.isfinite(loss).all())
    assert 1.0 < float(loss.mean()) < 3.0


def test_bfloat16_prediction_is_compared_in_float32():
    clean, noise, prediction = batch()
    low = prediction.bfloat16()
    loss = edm_loss(low, clean, noise, SIGMAS)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, edm_loss(low.float(), clean, noise, SIGMAS))


def test_object_has_one_level_for_all_views_and_domains():
    assert expand_sigmas(SIGMAS).shape == (1, 5, 1, 1, 1, 1)
    clean, noise, _ = batch()
    inputs = network_input(clean, noise, SIGMAS).double()
    # c_in^2 = 1 / (1 + sigma^2): least squares over (y, n) in each view and domain recovers sigma
    for d in range(SHAPE[0]):
        for v in range(SHAPE[2]):
            for b, sigma in enumerate(SIGMAS.tolist()):
                pair = torch.stack([clean[d, b, v].flatten(), noise[d, b, v].flatten()], 1)
                signal, added = torch.linalg.lstsq(
                    pair.double(), inputs[d, b, v].flatten()
                ).solution
                assert float(added / signal) == pytest.approx(sigma, rel=1e-4, abs=1e-6)


def test_floor_bounds_the_weight_of_errors_of_clean_latents():
    torch.testing.assert_close(noise_level_weights(SIGMAS, 0.0), torch.ones(5))
    edm = (1 + SIGMAS**2) / SIGMAS**2
    found = edm * noise_level_weights(SIGMAS, 0.5)
    torch.testing.assert_close(found, (1 + SIGMAS**2) / (SIGMAS**2 + 0.25))
    assert found.max() <= 4.0 and found[-1] == pytest.approx(1.0, abs=1e-5)
