"""Random numbers of a step follow from seed, step and batch index only."""

from __future__ import annotations

import torch

from nova3d_core.training.step_rng import draw_step_randomness

LATENTS = (2, 3, 4, 5, 5)


def tensors(randomness):
    return {name: value for name, value in vars(randomness).items() if name != "noise"}


def test_two_processes_draw_the_values_of_one():
    full = draw_step_randomness(7, 3, range(4), LATENTS, 8)
    halves = [
        draw_step_randomness(7, 3, range(2), LATENTS, 8),
        draw_step_randomness(7, 3, range(2, 4), LATENTS, 8),
    ]
    for name, value in tensors(full).items():
        assert torch.equal(value, torch.cat([getattr(half, name) for half in halves])), name
    assert torch.equal(full.noise, torch.cat([half.noise for half in halves], dim=1))
    assert torch.equal(full.slice(1, 3).noise, full.noise[:, 1:3])
    assert torch.equal(full.slice(1, 3).strength, full.strength[1:3])


def test_seed_step_and_index_each_change_all_values():
    base = draw_step_randomness(7, 3, range(1), LATENTS, 8)
    for other in (
        draw_step_randomness(8, 3, range(1), LATENTS, 8),
        draw_step_randomness(7, 4, range(1), LATENTS, 8),
        draw_step_randomness(7, 3, range(1, 2), LATENTS, 8),
    ):
        for name, value in vars(other).items():
            if name != "batch_index" and name != "background":
                assert not torch.equal(value, getattr(base, name)), name


def test_leaves_the_global_random_state_untouched():
    torch.manual_seed(0)
    expected = torch.randn(4)
    torch.manual_seed(0)
    draw_step_randomness(1, 2, range(2), LATENTS, 8)
    assert torch.equal(torch.randn(4), expected)


def test_distributions():
    randomness = draw_step_randomness(0, 0, range(2000), (1, 1, 1, 2, 2), 2)
    for name in ("level", "dropout", "variant"):
        values = getattr(randomness, name)
        assert abs(float(values.mean()) - 0.5) < 0.03
        assert abs(float(values.std()) - 12**-0.5) < 0.02
    for name in ("strength", "noise", "image_noise"):
        values = getattr(randomness, name)
        assert abs(float(values.mean())) < 0.06
        assert abs(float(values.std()) - 1.0) < 0.05
    grey = (randomness.background == randomness.background[:, :1]).all(dim=1)
    assert abs(float(grey.float().mean()) - 0.5) < 0.05
