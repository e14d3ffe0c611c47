"""A textured globe and the views that have seen its front."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nova3d_core.cameras.cameras import cameras_at
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.mesh import Mesh
from nova3d_core.rendering.config import RenderConfig
from nova3d_core.rendering.views import render_views
from nova3d_core.views import Views

from ..texturing.conftest import globe  # noqa: F401


@pytest.fixture(scope="session")
def textured(globe) -> Mesh:  # noqa: F811
    """The globe with a texture of 48 x 96 texels: smooth colours by position."""
    v, u = torch.meshgrid(
        (torch.arange(48) + 0.5) / 48, (torch.arange(96) + 0.5) / 96, indexing="ij"
    )
    theta, phi = v * torch.pi, u * 2.0 * torch.pi
    normal = torch.stack([theta.sin() * phi.sin(), theta.cos(), theta.sin() * phi.cos()], dim=-1)
    return replace(globe, vertex_colours=None, texture=normal * 0.3 + 0.5)


def front_views(mesh: Mesh, azimuths: tuple[float, ...] = (0.0, 60.0, -60.0), **rig) -> Views:
    """Views of a mesh from the front."""
    cameras = cameras_at(
        azimuths, [0.0] * len(azimuths), RigConfig(width_px=64, height_px=64, **rig)
    )
    return replace(render_views(mesh, cameras, RenderConfig(2)).views, normals=None)


@pytest.fixture(scope="session")
def views(textured) -> Views:
    return front_views(textured)
