"""Fixtures: small random networks with every kind of block."""

from __future__ import annotations

import pytest
import torch

from nova3d_core.cameras.orbits import ORBIT_PRESETS, OrbitConfig
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.diffusion.network.config import CAMERA_TASK_DIM, UNetConfig
from nova3d_core.diffusion.network.unet import VideoUNet

SMALL = {"model_channels": 32, "num_head_channels": 16, "context_dim": 48, "norm_num_groups": 8}


def small_unet(seed: int = 0, **settings) -> VideoUNet:
    """A network with every kind of block, with weights that give each a noticeable effect."""
    unet = VideoUNet(UNetConfig(**{"add_embed_dim": 24, **SMALL, **settings})).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in unet.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * 0.05 if parameter.dim() > 1 else 0.5 + noise * 0.3)
    return unet


def inputs_for(unet: VideoUNet, objects: int = 2, views: int = 5, size: int = 16, seed: int = 1):
    """Random inputs of the right shapes: x, c_noise, context, added_embeds, camera_task."""
    config = unet.config
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    domains, task_dim = config.domains, config.camera_task_dim
    return {
        "x": noise(domains, objects, views, config.in_channels, size, size),
        "c_noise": noise(objects),
        "context": noise(objects, 1, config.context_dim),
        "added_embeds": noise(objects, views, config.add_embed_dim),
        "camera_task": noise(domains, objects, views, task_dim) if task_dim else None,
    }


@pytest.fixture(scope="session")
def svd_unet() -> VideoUNet:
    """A network with one domain, like SVD."""
    return small_unet()


@pytest.fixture(scope="session")
def nova3d_unet() -> VideoUNet:
    """A network with two aligned domains and camera and task embedding."""
    return small_unet(domains=2, alignment="gta", camera_task_dim=CAMERA_TASK_DIM, add_embed_dim=8)


@pytest.fixture(scope="session")
def few_views():
    """Registers orbits of few cameras, for fast complete samples."""
    counts = (4, 5)
    for count in counts:
        ORBIT_PRESETS[f"of {count}"] = OrbitConfig(RigConfig(count=count))
    yield counts
    for count in counts:
        del ORBIT_PRESETS[f"of {count}"]
