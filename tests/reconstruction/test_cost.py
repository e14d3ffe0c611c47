"""Estimates of memory and FLOPs of LGM against counted values."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nova3d_core.reconstruction.config import LgmConfig
from nova3d_core.reconstruction.cost import (
    activation_bytes,
    estimate_cpu_seconds,
    forward_flops,
)
from nova3d_core.reconstruction.network import Lgm

from ..diffusion.test_cost import Allocations, flash
from .conftest import EIGHTH, random_network


@pytest.mark.parametrize(
    ("time_channels", "dtype"), [(0, torch.float32), (128, torch.float16), (0, torch.bfloat16)]
)
def test_activation_memory_matches_count_at_full_width(time_channels, dtype):
    with torch.device("meta"), torch.no_grad():
        network = Lgm(LgmConfig(time_channels=time_channels), attention=flash, dtype=dtype)
        x = torch.empty(1, 4, 9, 256, 256, dtype=dtype)
        with Allocations(network) as counted:
            network(x)
    estimate = activation_bytes(network, 256, dtype)
    assert counted.peak <= estimate <= 1.2 * counted.peak


@pytest.mark.parametrize("config", [LgmConfig(time_channels=128), EIGHTH])
def test_flops_match_count(config):
    with torch.device("meta"), torch.no_grad():
        network = Lgm(config)
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, 4, 9, 256, 256))
    # the time layers, which run once, are not estimated
    assert forward_flops(network, 256) == pytest.approx(counter.get_total_flops(), rel=1e-3)


def test_seconds_grow_with_the_pixels():
    network = random_network(EIGHTH)
    small, large = (estimate_cpu_seconds(network, size, torch.float32) for size in (64, 256))
    assert 0.0 < 4.0 * small < large
