"""Devices without float64, such as MPS: a training step uses float64 on the CPU only."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nova3d_core.diffusion.families import FAMILIES
from nova3d_core.training.data.batches import collate_images
from nova3d_core.training.noise import log_normal_sigmas, stage_at, stratified_normals
from nova3d_core.training.objective import Objective
from nova3d_core.training.step_rng import StepRandomness, draw_step_randomness
from nova3d_core.training.train_module import init_train_module

from .parts import FACTOR, SIZE, SMALL, VIEWS, objects, of

COUNT = 4
LATENT = 3 * FACTOR**2


class NoFloat64(TorchDispatchMode):
    """Rejects float64 tensors, as MPS does."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for each in tree_leaves((args, kwargs, result)):
            if isinstance(each, torch.Tensor) and each.dtype == torch.float64:
                raise TypeError(f"{function}: MPS has no float64")
        return result


def test_step_uses_no_float64_on_the_device(monkeypatch):
    config = of(SMALL, optimiser__batch_size=COUNT)
    module = init_train_module(config.network, FAMILIES[config.family], 0)
    randomness = draw_step_randomness(
        0, 0, range(COUNT), (2, VIEWS, LATENT, SIZE // FACTOR, SIZE // FACTOR), SIZE
    )
    batch = collate_images(objects(COUNT), VIEWS, SIZE)
    stage = stage_at(config.noise, 0, config.optimiser.steps)
    expected = log_normal_sigmas(
        stage, stratified_normals(randomness.level, randomness.batch_index, COUNT)
    )
    device, to = NoFloat64(), StepRandomness.to

    def enter_device(self, target):
        device.__enter__()
        return to(self, target)

    monkeypatch.setattr(StepRandomness, "to", enter_device)
    try:
        losses, sigmas = Objective(config, module, module, torch.device("cpu")).losses(
            batch, randomness, 0
        )
        losses.mean().backward()
    finally:
        device.__exit__(None, None, None)
    assert torch.equal(sigmas, expected)  # bit for bit
    assert losses.isfinite().all()


def test_simulated_device_rejects_float64():
    with pytest.raises(TypeError, match="float64"), NoFloat64():
        torch.ones(2).double()
