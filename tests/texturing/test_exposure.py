"""Exposure compensation: views that differ by gains of their colour channels."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.mesh import Mesh
from nova3d_core.rendering.views import render_views
from nova3d_core.texturing.bake import BakeResult, bake_texture
from nova3d_core.texturing.config import BakeConfig
from nova3d_core.views import Views

CONFIG = BakeConfig(texture_px=128)
RIG = RigConfig(count=12, width_px=128, height_px=128)


@pytest.fixture(scope="module")
def clean(globe) -> Views:
    return render_views(globe, orbit_cameras(RIG)).views


@pytest.fixture(scope="module")
def baked_clean(globe, clean) -> BakeResult:
    return bake_texture(globe, clean, CONFIG)


def some_gains(count: int, spread: float = 0.15) -> torch.Tensor:
    """(V, 3) in 1 - spread to 1 + spread, 1 for view 0."""
    random = torch.rand(count, 3, generator=torch.Generator().manual_seed(4))
    gains = 1.0 + spread * (2.0 * random - 1.0)
    gains[0] = 1.0
    return gains


def exposed(views: Views, gains: torch.Tensor) -> Views:
    """The views with their objects multiplied by gains, saturated at 1 like images."""
    white = 1.0 - views.masks[..., None]
    colour = gains[:, None, None] * (views.colour - white).clamp_min(0.0) + white
    return replace(views, colour=colour.clamp(0.0, 1.0))


def test_estimates_and_undoes_gains(globe, clean, baked_clean):
    gains = some_gains(len(clean))
    views = exposed(clean, gains)
    assert (views.colour[1:] == 1).logical_and(clean.colour[1:] < 1).any()  # some are saturated
    baked = bake_texture(globe, views, CONFIG)
    assert (baked.gains / gains - 1).abs().max() < 0.01
    truth = baked_clean.mesh.texture
    off = bake_texture(globe, views, replace(CONFIG, exposure=False))
    # colours that all views saturate are lost
    kept = (truth < 0.8).all(dim=-1)
    assert (baked.mesh.texture - truth)[kept].abs().max() < 0.01
    assert (off.mesh.texture - truth)[kept].abs().max() > 0.05
    assert (baked.mesh.texture - truth).abs().max() < 0.08
    assert (baked.mesh.texture - truth).abs().mean() < 0.002
    assert torch.equal(off.gains, torch.ones(len(views), 3))


def test_clean_views_keep_their_colours(globe, clean, baked_clean):
    baked = baked_clean
    assert (baked.gains - 1).abs().max() < 0.005
    off = bake_texture(globe, clean, replace(CONFIG, exposure=False))
    assert (baked.mesh.texture - off.mesh.texture).abs().max() < 1 / 255


def test_gains_are_relative_to_view_0(globe, clean):
    gains = torch.full((len(clean), 3), 0.8)
    gains[0] = 1.0
    baked = bake_texture(globe, exposed(clean, gains), CONFIG)
    assert torch.equal(baked.gains[0], torch.ones(3))
    assert (baked.gains[1:] / 0.8 - 1).abs().max() < 0.01


def with_stripes(globe: Mesh, bright: float) -> Mesh:
    """Alternating dark and bright bands, each wide enough to be uniform inside."""
    band = (globe.vertices[:, 1:2] * 12).round().long() % 2 == 0
    return replace(globe, vertex_colours=torch.where(band, bright, 0.45).expand(-1, 3).contiguous())


def test_saturated_colours_do_not_bias_the_gains(globe):
    # half of the sphere is so bright that every gain above 1 saturates
    mesh = with_stripes(globe, 0.97)
    views = render_views(mesh, orbit_cameras(RIG)).views
    gains = some_gains(len(views))
    assert (bake_texture(mesh, exposed(views, gains), CONFIG).gains / gains - 1).abs().max() < 0.01


def test_white_object_takes_its_colour_from_view_0(globe):
    white = replace(globe, vertex_colours=torch.ones_like(globe.vertices))
    views = render_views(white, orbit_cameras(RIG)).views
    gains = torch.full((len(views), 3), 0.9)
    gains[0] = 1.0
    baked = bake_texture(white, exposed(views, gains), CONFIG)
    assert (baked.gains[1:] / 0.9 - 1).abs().max() < 0.01
    assert (baked.mesh.texture - 1).abs().max() < 0.01


def test_recoloured_patch_does_not_bias_the_gains(globe, clean, baked_clean):
    gains = some_gains(len(clean))
    views = exposed(clean, gains)
    views.colour[3, 40:70, 45:75] = torch.tensor([0.9, 0.1, 0.1])
    baked = bake_texture(globe, views, CONFIG)
    assert (baked.gains / gains - 1).abs().max() < 0.01
    truth = baked_clean.mesh.texture
    kept = (truth < 0.8).all(dim=-1)
    assert (baked.mesh.texture - truth)[kept].abs().max() < 0.02


def test_views_with_unrelated_colours_are_not_compensated(globe):
    """As a small model generates them: no gain makes such views consistent."""
    generator = torch.Generator().manual_seed(5)
    each = []
    for number in range(RIG.count):
        waves = torch.randn(3, 3, generator=generator) * 6.0
        colours = 0.5 + 0.4 * torch.sin(globe.vertices @ waves + number)
        coloured = replace(globe, vertex_colours=colours.contiguous())
        each.append(render_views(coloured, orbit_cameras(RIG)[number]).views.colour[0])
    views = replace(render_views(globe, orbit_cameras(RIG)).views, colour=torch.stack(each))
    assert (bake_texture(globe, views, CONFIG).gains - 1).abs().max() < 0.02


def test_views_without_common_texels_are_not_compensated(globe, clean):
    apart = exposed(clean[[0, 6]], torch.tensor([[1.0, 1.0, 1.0], [0.8, 0.8, 0.8]]))
    assert torch.equal(bake_texture(globe, apart, CONFIG).gains, torch.ones(2, 3))
    alone = bake_texture(globe, clean[0], CONFIG)
    assert torch.equal(alone.gains, torch.ones(1, 3))
