"""Devices without float64, such as Apple's: a training step uses it before numbers are moved."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nova3d_core.diffusion.families import FAMILIES
from nova3d_core.training.data.batches import batch_of
from nova3d_core.training.noise import sigmas_of, spread_normals, stage_at
from nova3d_core.training.objective import Objective
from nova3d_core.training.step_rng import Draws, draw
from nova3d_core.training.train_module import fresh_trainee

from .parts import FACTOR, SIZE, SMALL, VIEWS, objects, of

COUNT = 4
LATENT = 3 * FACTOR**2


class NoFloat64(TorchDispatchMode):
    """Refuses float64 tensors, as MPS does."""

    def __torch_dispatch__(self, function, types, given=(), more=None):
        answer = function(*given, **(more or {}))
        for each in tree_leaves((given, more, answer)):
            if isinstance(each, torch.Tensor) and each.dtype == torch.float64:
                raise TypeError(f"{function}: MPS has no float64")
        return answer


def test_a_step_uses_no_float64_once_its_draws_are_on_the_device(monkeypatch):
    config = of(SMALL, optimiser__batch=COUNT)
    trainee = fresh_trainee(config.network, FAMILIES[config.family], 0)
    draws = draw(0, 0, range(COUNT), (2, VIEWS, LATENT, SIZE // FACTOR, SIZE // FACTOR), SIZE)
    batch = batch_of(objects(COUNT), VIEWS, SIZE)
    stage = stage_at(config.noise, 0, config.optimiser.steps)
    expected = sigmas_of(stage, spread_normals(draws.level, draws.place, COUNT))
    device, to = NoFloat64(), Draws.to

    def moved(self, where):
        device.__enter__()
        return to(self, where)

    monkeypatch.setattr(Draws, "to", moved)
    try:
        losses, sigmas = Objective(config, trainee, trainee, torch.device("cpu")).losses(
            batch, draws, 0
        )
        losses.mean().backward()
    finally:
        device.__exit__(None, None, None)
    assert torch.equal(sigmas, expected)  # bit for bit as before they were computed ahead
    assert losses.isfinite().all()


def test_the_stand_in_refuses_what_mps_refuses():
    with pytest.raises(TypeError, match="float64"), NoFloat64():
        torch.ones(2).double()
