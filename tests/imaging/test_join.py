"""Joined views are the views of their sources, in one size and one normal frame."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import InputError
from nova3d_core.fusion.checks.normals import check_normals
from nova3d_core.imaging.join import join_views
from nova3d_core.rendering.config import RenderConfig
from nova3d_core.rendering.views import render_views
from nova3d_core.views import Views


def views_of(mesh, count=4, width=64, height=64, **settings) -> Views:
    rig = RigConfig(count=count, width_px=width, height_px=height, **settings)
    return render_views(mesh, orbit_cameras(rig), RenderConfig(supersample=2)).views


@pytest.fixture(scope="module")
def level(l_solid_unit):
    return views_of(l_solid_unit)


@pytest.fixture(scope="module")
def raised(l_solid_unit):
    return views_of(l_solid_unit, count=3, elevation_deg=30.0)


@pytest.fixture(scope="module")
def l_solid_unit(l_solid):
    return l_solid.normalised()


def test_views_of_one_size_are_concatenated(level, raised):
    joined = join_views([level, raised])
    assert len(joined) == 7
    assert joined.normal_frame == level.normal_frame == "world"
    for part, source in ((joined[:4], level), (joined[4:], raised)):
        assert torch.equal(part.colour, source.colour)
        assert torch.equal(part.masks, source.masks)
        assert torch.equal(part.normals, source.normals)


@pytest.mark.parametrize("frames", [("world", "camera"), ("front_view", "front_view")])
def test_normal_frames_become_world(level, raised, frames):
    joined = join_views(
        [each.with_normals_in(frame) for each, frame in zip((level, raised), frames, strict=True)]
    )
    assert joined.normal_frame == "world"
    expected = torch.cat([level.normals, raised.normals])
    torch.testing.assert_close(joined.normals, expected, atol=1e-5, rtol=0)
    check_normals(joined)


def test_camera_frames_stay(level, raised):
    joined = join_views([each.with_normals_in("camera") for each in (level, raised)])
    assert joined.normal_frame == "camera"
    expected = torch.cat([level.normals, raised.normals])
    torch.testing.assert_close(joined.with_world_normals().normals, expected, atol=1e-5, rtol=0)


def test_smaller_images_equal_a_render_at_the_joined_size(l_solid_unit):
    large = views_of(l_solid_unit, width=144, height=144)
    wide = views_of(l_solid_unit, count=3, width=96, height=64, elevation_deg=30.0, radius=3.2)
    joined = join_views([large, wide])
    assert joined.colour.shape == (7, 144, 144, 3)
    rendered = render_views(l_solid_unit, joined.cameras, RenderConfig(supersample=2)).views
    inside_both = [each.masks[4:] > 0.5 for each in (joined, rendered)]
    overlap = (inside_both[0] & inside_both[1]).sum() / (inside_both[0] | inside_both[1]).sum()
    assert overlap > 0.96
    inside = (joined.masks[4:] > 0.99) & (rendered.masks[4:] > 0.99)
    cosine = (joined.normals[4:] * rendered.normals[4:]).sum(dim=-1)[inside]
    assert cosine.median() > 0.999
    assert not joined.masks[4:, :24].any()  # 144 x 96 px inside 144 x 144
    assert (joined.colour[4:, :24] == 1.0).all()


def test_missing_masks_are_mattes(level, raised):
    joined = join_views([level, replace(raised, masks=None)])
    assert ((joined.masks[4:] > 0.5) == (raised.masks > 0.5)).float().mean() > 0.99
    assert join_views([replace(each, masks=None) for each in (level, raised)]).masks is None


def test_warns_if_padding_cuts_the_object(l_solid_unit, level, caplog):
    close = views_of(l_solid_unit, count=3, width=64, height=32, radius=1.2)
    join_views([level, close], ["level", "close"])
    assert any("close: the object touches the border" in each for each in caplog.messages)


def test_rejects_what_cannot_be_joined(level, raised):
    with pytest.raises(InputError, match="no views to join"):
        join_views([])
    without = replace(raised, normals=None, normal_frame=None)
    with pytest.raises(InputError, match="a have normals, but b have none"):
        join_views([level, without], ["a", "b"])
    grey = replace(raised, colour=torch.full_like(raised.colour, 0.4), masks=None)
    with pytest.raises(InputError, match=r"^b: "):
        join_views([level, grey], ["a", "b"])
    tiny = Views(
        orbit_cameras(RigConfig(count=500, width_px=16, height_px=16)), torch.ones(500, 16, 16, 3)
    )
    with pytest.raises(InputError, match="times the memory"):
        join_views([tiny, replace(level, normals=None, normal_frame=None)])
