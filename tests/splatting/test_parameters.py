"""Parameters of splats: Adam, and moments that follow their splat."""

from __future__ import annotations

import pytest
import torch

from nova3d_core.splatting.parameters import ADAM_BETAS, LEARNING_RATES, SplatParameters

CPU = torch.device("cpu")


def step(parameters: SplatParameters, seed: int = 0, rows: torch.Tensor | None = None) -> None:
    """One step with random gradients, of the splats `rows` of 20."""
    generator = torch.Generator().manual_seed(seed)
    for value in parameters.values.values():
        gradient = torch.randn(20, *value.shape[1:], generator=generator)
        value.grad = gradient if rows is None else gradient[rows]
    parameters.step(0.0)


def test_steps_are_those_of_adam(random_splats):
    ours, reference = (SplatParameters(random_splats(20), CPU) for _ in range(2))
    groups = [
        {"params": [value], "lr": LEARNING_RATES[name][0]}
        for name, value in reference.values.items()
    ]
    adam = torch.optim.Adam(groups, betas=ADAM_BETAS, eps=1e-15)
    for seed in range(5):
        step(ours, seed)
        generator = torch.Generator().manual_seed(seed)
        for value in reference.values.values():
            value.grad = torch.randn(value.shape, generator=generator)
        adam.step()
    for name, value in ours.values.items():
        torch.testing.assert_close(value, reference[name], rtol=1e-5, atol=1e-6)


def test_moments_follow_their_splat(random_splats):
    """Removing some splats does not change how the others go on."""
    every, some = (SplatParameters(random_splats(20), CPU) for _ in range(2))
    kept = torch.arange(20) % 3 != 0
    step(every), step(some)
    some.keep(kept)
    assert len(some) == int(kept.sum())
    step(every, 1), step(some, 1, kept)
    for part in ("values", "first", "second"):
        for name, value in getattr(every, part).items():
            assert torch.equal(value[kept], getattr(some, part)[name])


def test_snapshots_restore_everything_and_may_be_used_twice(random_splats):
    parameters = SplatParameters(random_splats(20), CPU)
    step(parameters)
    saved = parameters.snapshot()
    results = []
    for _ in range(2):
        step(parameters, 1)
        parameters.keep(torch.arange(20) < 10)
        results.append({name: value.detach().clone() for name, value in parameters.values.items()})
        parameters.restore(saved)
        assert len(parameters) == 20
    for name, value in results[0].items():
        assert torch.equal(value, results[1][name])


def test_learning_rates_decay(random_splats):
    """The first step of Adam has the length of the learning rate."""
    for done, index in ((0.0, 0), (1.0, 1)):
        parameters = SplatParameters(random_splats(20), CPU)
        before = parameters["colours"].detach().clone()
        for value in parameters.values.values():
            value.grad = torch.ones_like(value)
        parameters.step(done)
        moved = (before - parameters["colours"].detach()).mean()
        assert float(moved) == pytest.approx(LEARNING_RATES["colours"][index], rel=1e-3)


def test_splats_round_trip(random_splats):
    splats = random_splats(20)
    result = SplatParameters(splats, CPU).splats()
    for name, value in vars(splats).items():
        torch.testing.assert_close(getattr(result, name), value, rtol=1e-5, atol=1e-5)
