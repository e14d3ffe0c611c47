"""The loss: the stable form equals the paper's, at every level and for each object alone."""

from __future__ import annotations

import pytest
import torch

from nova3d_core.diffusion.sampling.schedule import preconditioning
from nova3d_core.training.losses import (
    edm_loss,
    edm_loss_from_denoised,
    network_input,
    per_object,
    velocity_target,
)

SHAPE = (2, 5, 3, 4, 6, 6)
SIGMAS = torch.tensor([0.002, 0.3, 1.0, 20.0, 700.0])


def batch(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(SHAPE, generator=generator, dtype=dtype) for _ in range(3)]


def denoised_of(answer, clean, noise, sigmas):
    """D = c_skip x + c_out F with the sampler's own coefficients."""
    x = clean + sigmas[None, :, None, None, None, None] * noise
    parts = []
    for index, sigma in enumerate(sigmas.tolist()):
        edm = preconditioning(sigma)
        parts.append(edm.c_skip * x[:, index] + edm.c_out * answer[:, index])
    return torch.stack(parts, dim=1)


def test_both_forms_are_equal():
    clean, noise, answer = batch(torch.float64)
    sigmas = SIGMAS.double()
    denoised = denoised_of(answer, clean, noise, sigmas)
    sigma = sigmas[None, :, None, None, None, None]
    exact = ((1 + sigma**2) / sigma**2 * (denoised - clean).square()).mean(dim=(2, 3, 4, 5))
    stable = edm_loss(answer.float(), clean.float(), noise.float(), SIGMAS)
    torch.testing.assert_close(stable.double(), exact, rtol=1e-5, atol=0)
    twin = edm_loss_from_denoised(denoised.float(), clean.float(), SIGMAS)
    torch.testing.assert_close(twin[:, 1:4].double(), exact[:, 1:4], rtol=1e-3, atol=0)


def test_the_network_sees_what_the_sampler_shows_it():
    clean, noise, _ = batch()
    seen = network_input(clean, noise, SIGMAS)
    for index, sigma in enumerate(SIGMAS.tolist()):
        expected = preconditioning(sigma).c_in * (clean[:, index] + sigma * noise[:, index])
        torch.testing.assert_close(seen[:, index], expected)
    assert abs(float(seen.std()) - 1.0) < 0.02  # unit variance at every level


def test_the_right_answer_costs_nothing_and_denoises_exactly():
    clean, noise, _ = batch()
    answer = velocity_target(clean, noise, SIGMAS)
    assert float(edm_loss(answer, clean, noise, SIGMAS).max()) == 0.0
    denoised = denoised_of(answer, clean, noise, SIGMAS)
    torch.testing.assert_close(denoised[:, :3], clean[:, :3], rtol=0, atol=1e-4)


@pytest.mark.parametrize("sigma", [1e-6, 1e-3, 1e3, 1e5])
def test_extreme_levels_stay_finite_and_of_order_one(sigma):
    clean, noise, answer = batch()
    loss = edm_loss(answer, clean, noise, torch.full((5,), sigma))
    assert bool(torch.isfinite(loss).all())
    assert 1.0 < float(loss.mean()) < 3.0


def test_a_network_in_bfloat16_is_compared_in_float32():
    clean, noise, answer = batch()
    low = answer.bfloat16()
    loss = edm_loss(low, clean, noise, SIGMAS)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, edm_loss(low.float(), clean, noise, SIGMAS))


def test_an_object_has_one_level_for_all_its_views_in_both_domains():
    assert per_object(SIGMAS).shape == (1, 5, 1, 1, 1, 1)
    clean, noise, _ = batch()
    seen = network_input(clean, noise, SIGMAS).double()
    # c_in^2 = 1 / (1 + sigma^2): least squares of (y, n) in each view and domain gives it back
    for d in range(SHAPE[0]):
        for v in range(SHAPE[2]):
            for b, sigma in enumerate(SIGMAS.tolist()):
                pair = torch.stack([clean[d, b, v].flatten(), noise[d, b, v].flatten()], 1)
                kept, added = torch.linalg.lstsq(pair.double(), seen[d, b, v].flatten()).solution
                assert float(added / kept) == pytest.approx(sigma, rel=1e-4, abs=1e-6)
