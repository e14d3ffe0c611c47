"""Views that contradict each other, or differ in exposure: what reaches the texture."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nova3d_core.cameras import orbit_cameras
from nova3d_core.meshing.unwrap import unwrap
from nova3d_core.rendering.views import render_views
from nova3d_core.rigs import RigConfig
from nova3d_core.texturing.bake import bake_texture
from nova3d_core.texturing.config import BakeConfig

SMALL = BakeConfig(texture_px=256)


@pytest.fixture(scope="module")
def ball(make_sphere):
    """A ball with two soft colours, unwrapped."""
    mesh = make_sphere(0.4, 4)
    shade = 0.5 + 0.5 * (mesh.vertices[:, :1] * 6).sin()
    colours = torch.lerp(torch.tensor([0.7, 0.4, 0.3]), torch.tensor([0.3, 0.5, 0.6]), shade)
    return replace(mesh, vertex_colours=colours)


@pytest.fixture(scope="module")
def plain(ball):
    """The same ball ready for a texture."""
    return unwrap(replace(ball, vertex_colours=None), texture_px=SMALL.texture_px).mesh


@pytest.fixture(scope="module")
def views(ball):
    return render_views(ball, orbit_cameras(RigConfig(width_px=128, height_px=128))).views


def difference(a, b):
    """Mean absolute difference of two textures where both were seen."""
    seen = (a.coverage == 1) & (b.coverage == 1)
    return float((a.mesh.texture - b.mesh.texture)[seen].abs().mean())


def repainted(views, view):
    """The views, with one of them wholly green on the object."""
    colour = views.colour.clone()
    colour[view][views.masks[view] > 0.5] = torch.tensor([0.1, 0.9, 0.1])
    return replace(views, colour=colour)


def test_a_repainted_view_is_outvoted(plain, views):
    clean = bake_texture(plain, views, SMALL)
    wrong = repainted(views, 5)
    agreeing = difference(bake_texture(plain, wrong, SMALL), clean)
    blended = difference(
        bake_texture(plain, wrong, replace(SMALL, agreement=False, exposure=False)), clean
    )
    assert blended > 0.01
    assert agreeing < 0.2 * blended


def test_a_conflict_map_takes_the_wrong_view_out(plain, views):
    settings = replace(SMALL, agreement=False, exposure=False)
    conflict = torch.zeros_like(views.masks)
    conflict[5] = 1.0
    with_map = bake_texture(plain, repainted(views, 5), settings, conflict=conflict)
    untouched = bake_texture(plain, views, settings, conflict=conflict)
    torch.testing.assert_close(with_map.mesh.texture, untouched.mesh.texture, atol=1e-5, rtol=0)


def test_known_gains_are_found_and_undone(plain, views):
    gains = torch.ones(16, 3)
    gains[1:] += 0.12 * (2 * torch.rand(15, 3, generator=torch.Generator().manual_seed(4)) - 1)
    white = 1 - views.masks[..., None]
    brighter = (gains[:, None, None] * (views.colour - white).clamp_min(0) + white).clamp(0, 1)
    baked = bake_texture(plain, replace(views, colour=brighter), SMALL)
    torch.testing.assert_close(baked.gains, gains, atol=0.02, rtol=0)
    assert torch.equal(baked.gains[0], torch.ones(3))
    assert difference(baked, bake_texture(plain, views, SMALL)) < 0.01


def test_clean_views_have_no_gains_and_lose_nothing(plain, views):
    baked = bake_texture(plain, views, SMALL)
    assert (baked.gains - 1).abs().max() < 0.005
    assert difference(baked, bake_texture(plain, views, replace(SMALL, agreement=False))) < 2 / 255
    again = bake_texture(plain, views, SMALL)
    assert torch.equal(baked.mesh.texture, again.mesh.texture)
