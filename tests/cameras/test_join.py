"""Joined cameras project as before, whatever their image sizes and origins."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nova3d_core.cameras.cameras import Cameras, orbit_cameras
from nova3d_core.cameras.join import join_cameras, viewing_centre
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import InputError


def rig(count: int, width: int, height: int, **settings) -> Cameras:
    return orbit_cameras(RigConfig(count=count, width_px=width, height_px=height, **settings))


def test_equal_sizes_are_concatenated():
    first, second = rig(3, 64, 48), rig(4, 64, 48, elevation_deg=30.0)
    joined = join_cameras([first, second])
    assert torch.equal(joined[:3].world_to_camera, first.world_to_camera)
    assert torch.equal(joined[3:].world_to_camera, second.world_to_camera)
    assert torch.equal(joined[3:].intrinsics, second.intrinsics)


def test_intrinsics_follow_the_centred_image():
    large, wide = rig(2, 100, 100), rig(2, 80, 40, elevation_deg=20.0)
    joined = join_cameras([large, wide])
    assert (joined.width, joined.height) == (100, 100)
    points = torch.randn(30, 3, generator=torch.Generator().manual_seed(0)) * 0.3
    pixels, _ = wide.project(points)
    placed, _ = joined[2:].project(points)  # scaled by 100 / 80, 25 rows of padding above
    torch.testing.assert_close(placed, pixels * 1.25 + torch.tensor([0.0, 25.0]))
    torch.testing.assert_close(joined[:2].project(points)[0], large.project(points)[0])


def test_origins_are_those_of_the_first():
    far = (1e6, 0.0, 2e6)
    near = rig(3, 32, 32)
    shifted = replace(rig(2, 32, 32, elevation_deg=40.0), origin=(far[0] + 0.5, 0.0, far[2]))
    joined = join_cameras([replace(near, origin=far), shifted])
    assert joined.origin == far
    expected = shifted.positions + torch.tensor([0.5, 0.0, 0.0])
    torch.testing.assert_close(joined[3:].positions, expected, atol=1e-5, rtol=0)


def test_viewing_centre_is_where_the_axes_meet():
    cameras = rig(5, 32, 32, elevation_deg=25.0)
    target = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
    centre = viewing_centre(cameras.positions.double() + target, cameras.view_directions.double())
    torch.testing.assert_close(centre, target, atol=1e-6, rtol=0)
    one = viewing_centre(
        torch.tensor([[1.0, 0, 5]]).double(), torch.tensor([[0.0, 0, -1]]).double()
    )
    torch.testing.assert_close(one, torch.tensor([1.0, 0.0, 0.0]).double())


def test_warns_of_equal_poses_and_of_other_worlds(caplog):
    cameras = rig(6, 32, 32)
    join_cameras([cameras, rig(6, 32, 32, elevation_deg=30.0)])
    assert not caplog.messages
    join_cameras([cameras, cameras[2]])
    assert caplog.messages == ["views 2 and 6 have the same pose: is one input connected twice?"]
    caplog.clear()
    moved = cameras.world_to_camera.clone()
    moved[:, :3, 3] += moved[:, :3, :3] @ torch.tensor([50.0, 0.0, 0.0])
    join_cameras([cameras, replace(cameras, world_to_camera=moved)], ["one", "two"])
    assert caplog.messages == [
        "no camera of two shows the point that one look at: they are probably in different worlds"
    ]


def test_rejects_nothing_and_mixed_projections():
    with pytest.raises(InputError, match="no cameras to join"):
        join_cameras([])
    with pytest.raises(InputError, match="a are perspective, but b are orthographic"):
        join_cameras([rig(2, 8, 8), rig(2, 8, 8, kind="orthographic")], ["a", "b"])
