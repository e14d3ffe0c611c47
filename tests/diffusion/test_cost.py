"""Estimates of memory and work against what is counted."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from nova3d_core.diffusion.network.config import CAMERA_TASK_DIM, UNetConfig
from nova3d_core.diffusion.network.unet import VideoUNet
from nova3d_core.diffusion.sampling.cost import (
    activation_bytes,
    estimate_cpu_seconds,
    forward_flops,
)

from .conftest import small_unet

FULL = {
    "sv3d_u": UNetConfig(add_embed_dim=256),
    "nova3d": UNetConfig(
        add_embed_dim=256, domains=2, alignment="gta", camera_task_dim=CAMERA_TASK_DIM
    ),
}


class Allocations(TorchDispatchMode):
    """Counts the bytes of all storages that operations make, while they are alive."""

    def __init__(self, known: VideoUNet):
        super().__init__()
        self.alive = {each.untyped_storage()._cdata: 0 for each in known.parameters()}
        self.now = self.peak = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        out = operation(*args, **(kwargs or {}))
        for each in tree_leaves(out):
            if isinstance(each, torch.Tensor):
                storage = each.untyped_storage()
                if storage._cdata not in self.alive:
                    self.alive[storage._cdata] = storage.nbytes()
                    self.now += storage.nbytes()
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self._gone, storage._cdata)
        return out

    def _gone(self, key: int) -> None:
        self.now -= self.alive.pop(key, 0)


def flash(q, k, v, heads):
    """Attention as a kernel does it that keeps no matrix of token pairs: only its result."""
    return torch.empty_like(q)


@pytest.mark.parametrize(
    ("name", "objects", "views", "size", "dtype", "weights"),
    [
        ("sv3d_u", 1, 21, 72, torch.float32, torch.float32),
        ("sv3d_u", 2, 21, 72, torch.bfloat16, torch.bfloat16),
        ("nova3d", 2, 16, 32, torch.bfloat16, torch.bfloat16),
        ("nova3d", 1, 16, 32, torch.float32, torch.float16),
    ],
)
def test_the_networks_memory_is_what_is_counted_at_full_width(
    name, objects, views, size, dtype, weights
):
    config = FULL[name]
    with torch.device("meta"):
        unet = VideoUNet(config, attention=flash, dtype=weights)
        domains, numbers = config.domains, config.camera_task_dim
        given = {
            "x": torch.empty(domains, objects, views, 8, size, size, dtype=dtype),
            "c_noise": torch.empty(objects),
            "context": torch.empty(objects, 1, 1024),
            "added": torch.empty(objects, views, 256),
            "camera_task": torch.empty(domains, objects, views, numbers) if numbers else None,
        }
        with torch.no_grad(), Allocations(unet) as counted:
            unet(**given)
    estimate = activation_bytes(config, objects, views, size, size, dtype)
    # never less than counted, and little more: the largest layer's cast is always in it
    assert counted.peak <= estimate <= 1.25 * counted.peak


@pytest.mark.parametrize("name", FULL)
def test_the_work_of_a_pass_is_what_is_counted_at_full_width(name):
    config = FULL[name]
    with torch.device("meta"):
        unet = VideoUNet(config)
        numbers = config.camera_task_dim
        given = {
            "x": torch.empty(config.domains, 1, 16, 8, 32, 32),
            "c_noise": torch.empty(1),
            "context": torch.empty(1, 1, 1024),
            "added": torch.empty(1, 16, 256),
            "camera_task": torch.empty(config.domains, 1, 16, numbers) if numbers else None,
        }
        with torch.no_grad(), FlopCounterMode(display=False) as counted:
            unet(**given)
    assert forward_flops(unet, 16, 32, 32) == pytest.approx(counted.get_total_flops(), rel=0.03)


def test_the_time_of_a_pass_grows_with_its_places():
    unet = small_unet()
    small, large = (estimate_cpu_seconds(unet, 5, size, size, torch.float32) for size in (16, 64))
    assert 0.0 < small < large


def test_timing_a_product_draws_no_random_numbers():
    """Other nodes of the process may draw from the same generator, unseeded by themselves."""
    unet = small_unet()
    state = torch.get_rng_state()
    estimate_cpu_seconds(unet, 5, 16, 16, torch.float32)
    assert torch.equal(torch.get_rng_state(), state)
