"""Unfused attention equals torch's."""

from __future__ import annotations

import pytest
import torch

from nova3d_core.diffusion.families import FAMILIES
from nova3d_core.diffusion.network.attention import Attention, scaled_dot_product
from nova3d_core.training.attention import choose_attention, math_attention
from nova3d_core.training.train_module import init_train_module

from .parts import SMALL


@pytest.mark.parametrize("lengths", [(16, 16), (32, 7), (1, 1)])
def test_values_and_gradients_equal_torchs(lengths):
    generator = torch.Generator().manual_seed(0)
    length, keys = lengths
    parts = [torch.randn(5, n, 24, generator=generator) for n in (length, keys, keys)]
    found = []
    for attend in (scaled_dot_product, math_attention):
        q, k, v = (part.clone().requires_grad_(True) for part in parts)
        out = attend(q, k, v, 3)
        out.square().sum().backward()
        found.append((out, q.grad, k.grad, v.grad))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_is_chosen_for_low_precision_on_a_cpu_only():
    def chosen(device, precision):
        module = init_train_module(SMALL.network, FAMILIES[SMALL.family], 0)
        choose_attention(module, torch.device(device), precision)
        functions = {m.attend for m in module.modules() if isinstance(m, Attention)}
        assert len(functions) == 1
        return functions.pop()

    assert chosen("cpu", "bfloat16") is math_attention
    assert chosen("cpu", "autocast") is math_attention
    assert chosen("cpu", "float32") is scaled_dot_product
    assert chosen("cuda", "bfloat16") is scaled_dot_product
