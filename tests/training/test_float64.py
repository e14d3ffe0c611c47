"""Devices without float64, such as Apple's: a training step uses it before numbers are moved."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nova3d_core.diffusion.families import FAMILIES
from nova3d_core.training.data.batches import collate_images
from nova3d_core.training.noise import log_normal_sigmas, stratified_normals, stage_at
from nova3d_core.training.objective import Objective
from nova3d_core.training.step_rng import StepRandomness, draw
from nova3d_core.training.train_module import init_train_module

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
    config = of(SMALL, optimiser__batch_size=COUNT)
    trainee = init_train_module(config.network, FAMILIES[config.family], 0)
    draws = draw(0, 0, range(COUNT), (2, VIEWS, LATENT, SIZE // FACTOR, SIZE // FACTOR), SIZE)
    batch = collate_images(objects(COUNT), VIEWS, SIZE)
    stage = stage_at(config.noise, 0, config.optimiser.steps)
    expected = log_normal_sigmas(stage, stratified_normals(draws.level, draws.place, COUNT))
    device, to = NoFloat64(), StepRandomness.to

    def moved(self, where):
        device.__enter__()
        return to(self, where)

    monkeypatch.setattr(StepRandomness, "to", moved)
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
