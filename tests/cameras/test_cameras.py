"""Azimuth, elevation, handedness and projection against hand-computed values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nova3d_core.cameras.cameras import Cameras, cameras_at, orbit_cameras, orbit_pose
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.conventions import OPENGL_FROM_OPENCV
from nova3d_core.errors import InputError


def test_positions_follow_the_conventions():
    cameras = cameras_at([0.0, 90.0, 180.0, 30.0], [0.0, 0.0, 0.0, 40.0], RigConfig(radius=2.0))
    az, el = math.radians(30.0), math.radians(40.0)
    expected = [
        [0.0, 0.0, 2.0],
        [2.0, 0.0, 0.0],
        [0.0, 0.0, -2.0],
        [2 * math.sin(az) * math.cos(el), 2 * math.sin(el), 2 * math.cos(az) * math.cos(el)],
    ]
    torch.testing.assert_close(cameras.positions, torch.tensor(expected), atol=1e-6, rtol=0)


def test_default_rig():
    cameras = orbit_cameras()
    assert len(cameras) == 16
    assert (cameras.width, cameras.height) == (256, 256)
    torch.testing.assert_close(cameras.azimuth_deg, torch.arange(16) * 22.5, atol=1e-4, rtol=0)
    assert cameras.elevation_deg.abs().max() < 1e-4
    fov_deg = 2 * math.degrees(math.atan(128 / float(cameras.intrinsics[0, 0, 0])))
    assert fov_deg == pytest.approx(39.6, abs=0.01)


def test_default_rig_frames_the_unit_cube_with_margin():
    corners = torch.cartesian_prod(*[torch.tensor([-0.5, 0.5])] * 3)
    # the vertical edge of a cube is the worst case for objects whose longest side is 1
    pixels, _ = orbit_cameras(RigConfig(count=64)).project(corners)
    assert (pixels - 128).abs().max() < 128 * 0.95


def test_pose_is_a_proper_rotation_even_at_the_poles():
    for azimuth_deg in range(0, 360, 30):
        for elevation_deg in (-90, -45, 0, 45, 90):
            rotation = orbit_pose(azimuth_deg, elevation_deg, 2.0)[:3, :3]
            torch.testing.assert_close(
                rotation @ rotation.T, torch.eye(3, dtype=torch.float64), atol=1e-12, rtol=0
            )
            assert torch.linalg.det(rotation) == pytest.approx(1.0)


def test_image_is_upright_and_x_grows_to_the_right():
    camera = orbit_cameras(RigConfig(count=1))
    points = torch.tensor([[0.0, 0.0, 0.0], [0.3, 0.0, 0.0], [0.0, 0.3, 0.0]])
    pixels, depth_z = camera.project(points)
    centre, right, up = pixels[0]
    torch.testing.assert_close(centre, torch.tensor([128.0, 128.0]))
    assert right[0] > centre[0] and right[1] == centre[1]
    assert up[1] < centre[1] and up[0] == centre[0]
    torch.testing.assert_close(depth_z, torch.full((1, 3), 2.2))
    assert float(right[0] - centre[0]) == pytest.approx(0.3 * 1.3889 * 256 / 2.2, rel=1e-5)


def test_camera_at_azimuth_90_sees_plus_z_on_its_left():
    camera = orbit_cameras(RigConfig(count=1, azimuth_start_deg=90.0))
    pixels, _ = camera.project(torch.tensor([[0.0, 0.0, 0.4]]))
    assert pixels[0, 0, 0] < 128


@pytest.mark.parametrize("kind", ["perspective", "orthographic"])
def test_rays_and_projection_are_inverse(kind):
    rig = RigConfig(count=5, elevation_deg=20.0, kind=kind, width_px=200, height_px=120)
    cameras = orbit_cameras(rig)
    pixels = torch.rand(50, 2, generator=torch.Generator().manual_seed(0)) * 100
    origins, directions = cameras.rays(pixels)
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(5, 50))
    for view in range(5):
        again, depth_z = cameras.project(origins[view] + 1.7 * directions[view])
        torch.testing.assert_close(again[view], pixels, atol=1e-3, rtol=0)
        along = (directions[view] * cameras.view_directions[view]).sum(dim=-1) * 1.7
        torch.testing.assert_close(depth_z[view], along, atol=1e-4, rtol=0)


def test_azimuth_and_elevation_are_recovered_from_the_pose():
    azimuths, elevations = [0.0, 33.0, 181.0, 359.0], [0.0, -60.0, 15.0, 89.0]
    cameras = cameras_at(azimuths, elevations, RigConfig())
    torch.testing.assert_close(cameras.azimuth_deg, torch.tensor(azimuths), atol=2e-3, rtol=0)
    torch.testing.assert_close(cameras.elevation_deg, torch.tensor(elevations), atol=2e-2, rtol=0)


def test_opengl_camera_looks_along_minus_z():
    cameras = orbit_cameras(RigConfig(count=3))
    opengl = cameras.camera_to_world_opengl
    torch.testing.assert_close(-opengl[:, :3, 2], cameras.view_directions)
    torch.testing.assert_close(opengl[:, :3, 3], cameras.positions)
    flip = torch.tensor(OPENGL_FROM_OPENCV)
    torch.testing.assert_close(flip @ flip, torch.eye(3))


def test_indexing_keeps_the_view_axis():
    cameras = orbit_cameras()
    assert len(cameras[3]) == 1
    assert len(cameras[2:6]) == 4
    torch.testing.assert_close(cameras[[5, 1]].azimuth_deg, torch.tensor([112.5, 22.5]))


def test_resizing_scales_pixel_positions():
    cameras = orbit_cameras(RigConfig(count=2))
    points = torch.tensor([[0.1, -0.2, 0.3]])
    small, _ = cameras.project(points)
    large, _ = cameras.resized(512, 768).project(points)
    torch.testing.assert_close(large, small * torch.tensor([2.0, 3.0]))


@pytest.mark.parametrize(
    ("corrupt", "message"),
    [
        (lambda m: m[0, 0].__setitem__(slice(0, 1), torch.nan), "NaN or infinite"),
        (lambda m: m[1, :3, :3].mul_(1.1), "view 1 is not rigid"),
        (lambda m: m[1, 0].neg_(), "mirrors"),
        (lambda m: m[0, 3].fill_(0.5), "last row"),
    ],
)
def test_rejects_non_rigid_poses(corrupt, message):
    good = orbit_cameras(RigConfig(count=2))
    matrix = good.world_to_camera.clone()
    corrupt(matrix)
    with pytest.raises(InputError, match=message):
        Cameras(matrix, good.intrinsics, 256, 256)


def test_rejects_no_angles_and_accepts_every_kind_of_index():
    with pytest.raises(InputError, match="at least one azimuth"):
        cameras_at([], [], RigConfig())
    cameras = orbit_cameras()
    for index in (2, np.int64(2), torch.tensor(2), [2], torch.tensor([2]), slice(2, 3)):
        torch.testing.assert_close(cameras[index].azimuth_deg, torch.tensor([45.0]))


def test_rejects_skewed_intrinsics():
    good = orbit_cameras(RigConfig(count=2))
    skewed = good.intrinsics.clone()
    skewed[:, 0, 1] = 3.0
    with pytest.raises(InputError, match="skew"):
        Cameras(good.world_to_camera, skewed, 256, 256)


def test_rejects_bad_focal_length_kind_shape_and_elevation():
    good = orbit_cameras(RigConfig(count=2))
    with pytest.raises(InputError, match="focal length"):
        Cameras(good.world_to_camera, good.intrinsics * -1, 256, 256)
    with pytest.raises(InputError, match="fisheye"):
        Cameras(good.world_to_camera, good.intrinsics, 256, 256, "fisheye")
    with pytest.raises(InputError, match=r"\(1, 3, 3\), expected \(V, 3, 3\) with V = 2"):
        Cameras(good.world_to_camera, good.intrinsics[:1], 256, 256)
    with pytest.raises(InputError, match="elevation"):
        RigConfig(elevation_deg=91.0)
