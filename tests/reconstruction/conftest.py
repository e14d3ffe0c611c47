"""Small reconstruction models and views around an asymmetric object."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from nova3d_core.cameras.cameras import cameras_at
from nova3d_core.cameras.orbits import focal_for_fov
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.mesh import Mesh
from nova3d_core.reconstruction.config import FAMILIES, LgmConfig
from nova3d_core.reconstruction.model import ReconstructionModel
from nova3d_core.reconstruction.network import Lgm
from nova3d_core.rendering.views import render_views
from nova3d_core.views import Views

from ..weights.conftest import manifest, write_model

__all__ = ["manifest", "write_model"]

EIGHTH = LgmConfig(
    down_widths=(8, 16, 32, 64, 128, 128),
    up_widths=(128, 128, 64, 32, 16),
    num_heads=2,
    norm_num_groups=4,
)
"""LGM's "big" architecture at an eighth of its widths."""
EIGHTH_WITH_TIME = replace(EIGHTH, time_channels=16)


def random_network(config: LgmConfig, seed: int = 0) -> Lgm:
    """A network with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Lgm(config).requires_grad_(False).eval()


def random_model(
    config: LgmConfig = EIGHTH, family: str = "lgm", size_px: int = 256
) -> ReconstructionModel:
    """A model with random weights."""
    cameras = replace(FAMILIES[family], size_px=size_px)
    return ReconstructionModel(cameras, random_network(config), "random.safetensors")


@pytest.fixture(scope="session")
def render_orbit(l_solid: Mesh) -> Callable[..., Views]:
    """Views of the L at azimuths: `render_orbit(azimuths, elevations, radius, fov, size)`."""

    def render(
        azimuths_deg: tuple[float, ...] = (0.0, 90.0, 180.0, 270.0),
        elevations_deg: tuple[float, ...] | None = None,
        radius: float = 1.5,
        fov_deg: float = 49.1,
        size_px: int = 256,
        **rig: object,
    ) -> Views:
        config = RigConfig(
            radius=radius,
            focal_per_width=focal_for_fov(fov_deg),
            width_px=size_px,
            height_px=size_px,
            **rig,
        )
        elevations_deg = elevations_deg or (0.0,) * len(azimuths_deg)
        return render_views(l_solid, cameras_at(azimuths_deg, elevations_deg, config)).views

    return render
