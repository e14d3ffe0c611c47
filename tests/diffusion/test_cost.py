"""Estimates of memory and FLOPs against counted values."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from nova3d_core.diffusion.network.config import CAMERA_TASK_DIM, UNetConfig
from nova3d_core.diffusion.network.feedback_unet import Feedback, FeedbackUNet
from nova3d_core.diffusion.network.token_transformer import TokenTransformer
from nova3d_core.diffusion.network.token_transformer_config import TokenTransformerConfig
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
    """Tracks the bytes of live storages that operations allocate."""

    def __init__(self, unet: VideoUNet):
        super().__init__()
        self.alive = {each.untyped_storage()._cdata: 0 for each in unet.parameters()}
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
                    weakref.finalize(storage, self._freed, storage._cdata)
        return out

    def _freed(self, key: int) -> None:
        self.now -= self.alive.pop(key, 0)


def flash(q, k, v, heads):
    """Stands for an attention kernel without an attention matrix: allocates only the result."""
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
def test_activation_memory_matches_count_at_full_width(name, objects, views, size, dtype, weights):
    config = FULL[name]
    with torch.device("meta"):
        unet = VideoUNet(config, attention=flash, dtype=weights)
        domains, task_dim = config.domains, config.camera_task_dim
        given = {
            "x": torch.empty(domains, objects, views, 8, size, size, dtype=dtype),
            "c_noise": torch.empty(objects),
            "context": torch.empty(objects, 1, 1024),
            "added_embeds": torch.empty(objects, views, 256),
            "camera_task": torch.empty(domains, objects, views, task_dim) if task_dim else None,
        }
        with torch.no_grad(), Allocations(unet) as counted:
            unet(**given)
    estimate = activation_bytes(config, objects, views, size, size, dtype)
    # an upper bound, but a tight one: it always includes the cast of the largest layer
    assert counted.peak <= estimate <= 1.25 * counted.peak


def feedback_inputs(objects: int, dtype: torch.dtype) -> dict:
    """Inputs of Ouroboros3D's UNet at full size."""
    image = (objects, 8, 3, 512, 512)
    feedback = Feedback(
        torch.empty(image, dtype=dtype),
        torch.empty(image, dtype=dtype),
        torch.empty(objects, 8, 4, 4),
        torch.empty(objects, 8),
    )
    return {
        "x": torch.empty(1, objects, 8, 8, 64, 64, dtype=dtype),
        "c_noise": torch.empty(objects),
        "context": torch.empty(objects, 1, 1024),
        "added_embeds": torch.empty(objects, 8, 768),
        "feedback": feedback,
    }


@pytest.mark.parametrize(("objects", "dtype"), [(1, torch.float32), (2, torch.bfloat16)])
def test_activation_memory_with_feedback(objects, dtype):
    config = UNetConfig(feedback_factor=8)
    with torch.device("meta"):
        unet = FeedbackUNet(config, attention=flash, dtype=dtype)
        given = feedback_inputs(objects, dtype)
        with torch.no_grad(), Allocations(unet) as counted:
            unet(**given)
    estimate = activation_bytes(config, objects, 8, 64, 64, dtype)
    assert counted.peak <= estimate <= 1.25 * counted.peak


def test_forward_flops_with_feedback():
    with torch.device("meta"):
        unet = FeedbackUNet(UNetConfig(feedback_factor=8))
        with torch.no_grad(), FlopCounterMode(display=False) as counted:
            unet(**feedback_inputs(1, torch.float32))
    assert forward_flops(unet, 8, 64, 64) == pytest.approx(counted.get_total_flops(), rel=0.03)


@pytest.mark.parametrize("name", FULL)
def test_forward_flops_match_count_at_full_width(name):
    config = FULL[name]
    with torch.device("meta"):
        unet = VideoUNet(config)
        task_dim = config.camera_task_dim
        given = {
            "x": torch.empty(config.domains, 1, 16, 8, 32, 32),
            "c_noise": torch.empty(1),
            "context": torch.empty(1, 1, 1024),
            "added_embeds": torch.empty(1, 16, 256),
            "camera_task": torch.empty(config.domains, 1, 16, task_dim) if task_dim else None,
        }
        with torch.no_grad(), FlopCounterMode(display=False) as counted:
            unet(**given)
    assert forward_flops(unet, 16, 32, 32) == pytest.approx(counted.get_total_flops(), rel=0.03)


def test_cpu_time_grows_with_resolution():
    unet = small_unet()
    small, large = (estimate_cpu_seconds(unet, 5, size, size, torch.float32) for size in (16, 64))
    assert 0.0 < small < large


def test_cpu_time_estimate_leaves_the_global_generator_alone():
    """Other code in the process may rely on the state of the global generator."""
    unet = small_unet()
    state = torch.get_rng_state()
    estimate_cpu_seconds(unet, 5, 16, 16, torch.float32)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("channels", "joint", "dtype"), [(256, True, torch.float32), (192, False, torch.bfloat16)]
)
def test_activation_memory_of_the_token_transformer(channels, joint, dtype):
    config = TokenTransformerConfig(channels=channels, joint_domains=joint, spans=("view", "row"))
    with torch.device("meta"):
        network = TokenTransformer(config, attention=flash, dtype=dtype)
        with torch.no_grad(), Allocations(network) as counted:
            network(
                torch.empty(2, 2, 16, 36, 16, 16, dtype=dtype),
                torch.empty(2),
                torch.empty(2, 1, 256),
                torch.empty(2, 16, 256),
                torch.empty(2, 2, 16, 10),
            )
    estimate = activation_bytes(config, 2, 16, 16, 16, dtype)
    assert counted.peak <= estimate <= 1.25 * counted.peak
