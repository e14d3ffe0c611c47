"""EMA: its formula, its warm-up, and the context with averaged parameters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nova3d_core.training.ema import Ema


def randomise(module: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for weight in module.parameters():
        weight.data.normal_(generator=generator)


def test_matches_the_recursion_in_float64():
    module = nn.Linear(3, 2)
    ema = Ema(module, 0.9)
    average = module.weight.detach().double().clone()
    for step in range(30):
        randomise(module, step)
        decay = min(0.9, (1 + step) / (10 + step))
        assert ema.current_decay() == decay
        ema.update()
        average = decay * average + (1 - decay) * module.weight.detach().double()
    torch.testing.assert_close(ema.weights["weight"].double(), average, rtol=1e-6, atol=1e-7)


def test_decay_grows_to_its_final_value():
    ema = Ema(nn.Linear(1, 1), 0.99)
    decays = []
    for _ in range(1000):
        decays.append(ema.current_decay())
        ema.update()
    assert decays[0] == pytest.approx(0.1)
    assert decays == sorted(decays)
    assert decays[-1] == 0.99


def test_average_parameters_swaps_weights_and_restores_them():
    module = nn.Linear(3, 2)
    ema = Ema(module, 0.9)
    randomise(module, 1)
    ema.update()
    own = {name: value.clone() for name, value in module.state_dict().items()}
    average = {name: value.clone() for name, value in ema.weights.items()}
    with ema.average_parameters():
        for name, value in module.named_parameters():
            assert torch.equal(value, average[name])
    for name, value in module.state_dict().items():
        assert torch.equal(value, own[name])
        assert torch.equal(ema.weights[name], average[name])
    with pytest.raises(ZeroDivisionError), ema.average_parameters():
        _ = 1 / 0
    assert torch.equal(module.weight, own["weight"])


def test_skips_frozen_weights_and_averages_bfloat16_in_float32():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).bfloat16()
    module[0].requires_grad_(False)
    ema = Ema(module, 0.5)
    assert set(ema.weights) == {"1.weight", "1.bias"}
    ema.update()
    assert ema.weights["1.weight"].dtype == torch.float32
