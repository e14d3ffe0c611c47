"""A step's random numbers belong to seed, step and object, and to nothing else."""

from __future__ import annotations

import torch

from nova3d_core.training.step_rng import draw

LATENTS = (2, 3, 4, 5, 5)


def tensors(draws):
    return {name: value for name, value in vars(draws).items() if name != "noise"}


def test_two_processes_draw_what_one_draws():
    whole = draw(7, 3, range(4), LATENTS, 8)
    halves = [draw(7, 3, range(2), LATENTS, 8), draw(7, 3, range(2, 4), LATENTS, 8)]
    for name, value in tensors(whole).items():
        assert torch.equal(value, torch.cat([getattr(half, name) for half in halves])), name
    assert torch.equal(whole.noise, torch.cat([half.noise for half in halves], dim=1))
    assert torch.equal(whole.part(1, 3).noise, whole.noise[:, 1:3])
    assert torch.equal(whole.part(1, 3).strength, whole.strength[1:3])


def test_seed_step_and_place_each_change_everything():
    base = draw(7, 3, range(1), LATENTS, 8)
    for other in (
        draw(8, 3, range(1), LATENTS, 8),
        draw(7, 4, range(1), LATENTS, 8),
        draw(7, 3, range(1, 2), LATENTS, 8),
    ):
        for name, value in vars(other).items():
            if name != "place" and name != "background":
                assert not torch.equal(value, getattr(base, name)), name


def test_the_global_random_state_is_left_alone():
    torch.manual_seed(0)
    expected = torch.randn(4)
    torch.manual_seed(0)
    draw(1, 2, range(2), LATENTS, 8)
    assert torch.equal(torch.randn(4), expected)


def test_distributions():
    draws = draw(0, 0, range(2000), (1, 1, 1, 2, 2), 2)
    for name in ("level", "dropped", "plain"):
        values = getattr(draws, name)
        assert abs(float(values.mean()) - 0.5) < 0.03
        assert abs(float(values.std()) - 12**-0.5) < 0.02
    for name in ("strength", "noise", "image_noise"):
        values = getattr(draws, name)
        assert abs(float(values.mean())) < 0.06
        assert abs(float(values.std()) - 1.0) < 0.05
    grey = (draws.background == draws.background[:, :1]).all(dim=1)
    assert abs(float(grey.float().mean()) - 0.5) < 0.05
