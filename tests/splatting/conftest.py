"""Random splats and cameras."""

from __future__ import annotations

import pytest
import torch

from nova3d_core.cameras.cameras import Cameras, orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.splats import Splats


@pytest.fixture
def random_splats():
    """Makes N splats in the unit cube from a seed."""

    def make(count: int, seed: int = 0, scale: float = 0.08) -> Splats:
        generator = torch.Generator().manual_seed(seed)
        return Splats(
            positions=torch.rand(count, 3, generator=generator) - 0.5,
            scales=scale * torch.rand(count, 3, generator=generator) + 0.01,
            rotations=torch.randn(count, 4, generator=generator),
            opacities=torch.rand(count, generator=generator),
            colours=torch.rand(count, 3, generator=generator),
        )

    return make


@pytest.fixture
def camera():
    """Makes one camera in front of the unit cube."""

    def make(width_px: int = 24, height_px: int = 21, **rig) -> Cameras:
        return orbit_cameras(RigConfig(count=1, width_px=width_px, height_px=height_px, **rig))

    return make
