"""Cameras of the presets equal those that the models' authors publish."""

from __future__ import annotations

import math

import pytest
import torch

from nova3d_core.cameras.cameras import Cameras, cameras_from_orbit
from nova3d_core.cameras.orbits import ORBIT_PRESETS, OrbitConfig, focal_for_fov, preset_orbit
from nova3d_core.errors import InputError


def cameras_of(preset: str) -> Cameras:
    return cameras_from_orbit(preset_orbit(preset, 512, 512))


def z_up_to_y_up(vectors: torch.Tensor) -> torch.Tensor:
    """(..., 3) of Blender's axes, front view from -y, in ours: front view from +z."""
    x, y, z = vectors.unbind(-1)
    return torch.stack([x, z, -y], dim=-1)


def close(actual: torch.Tensor, expected: torch.Tensor, atol: float = 1e-4) -> None:
    torch.testing.assert_close(actual, expected.float(), atol=atol, rtol=0)


ERA3D_RIGHT_AND_BACK = {  # first and third rows of instant-nsr-pl/datasets/fixed_poses/000_*_RT.txt
    "front": ((1.0, 0.0, 0.0), (0.0, -1.0, 0.0)),
    "front_right": ((0.70710678, 0.70710678, 0.0), (0.70710678, -0.70710678, 0.0)),
    "right": ((0.0, 1.0, 0.0), (1.0, 0.0, 0.0)),
    "back": ((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
    "left": ((0.0, -1.0, 0.0), (-1.0, 0.0, 0.0)),
    "front_left": ((0.70710678, -0.70710678, 0.0), (-0.70710678, -0.70710678, 0.0)),
}


@pytest.mark.parametrize(
    ("preset", "width"), [("wonder3d", 1.35), ("era3d", 512.0 / 420.0), ("mvadapter", 1.1)]
)
def test_orthographic_six_have_the_axes_of_the_published_poses(preset, width):
    cameras = cameras_of(preset)
    assert cameras.kind == "orthographic"
    rows = torch.tensor(list(ERA3D_RIGHT_AND_BACK.values()))  # (6, 2, 3), z up
    close(cameras.rotation[:, 0], z_up_to_y_up(rows[:, 0]))
    close(-cameras.view_directions, z_up_to_y_up(rows[:, 1]))
    close(cameras.intrinsics[:, 0, 0], torch.full((6,), 512.0 / width))


def test_mvadapter_positions_follow_its_formula():
    azimuth = torch.deg2rad(torch.tensor([0.0, 45, 90, 180, 270, 315]) - 90.0)  # -y is the front
    back = torch.stack([azimuth.cos(), azimuth.sin(), torch.zeros(6)], dim=1)
    close(-cameras_of("mvadapter").view_directions, z_up_to_y_up(back))


def test_zero123plus_angles_distance_and_field_of_view():
    cameras = cameras_of("zero123plus")
    azimuth = torch.deg2rad(torch.tensor([30.0, 90, 150, 210, 270, 330]) - 90.0)
    elevation = torch.deg2rad(torch.tensor([20.0, -10, 20, -10, 20, -10]))
    level = elevation.cos()
    back = torch.stack([level * azimuth.cos(), level * azimuth.sin(), elevation.sin()], dim=1)
    close(cameras.positions, z_up_to_y_up(back) * 0.5 / math.tan(math.radians(15.0)))
    close(cameras.intrinsics[:, 0, 0] / 512, torch.full((6,), 0.5 / math.tan(math.radians(15.0))))


@pytest.mark.parametrize("preset", ["pixal3d_mv", "hunyuan3d_mv"])
def test_multiview_generators_see_front_left_back_right(preset):
    cameras = cameras_of(preset)
    sides = torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 0, -1], [-1, 0, 0]])  # +X is its own left
    close(-cameras.view_directions, sides)
    # a plane of width 1 through the centre fills 1 / 1.1 of the image
    corner = torch.tensor([[0.0, 0.5, 0.0]])
    pixels, _ = cameras.project(corner)
    close(256.0 - pixels[:, 0, 1], torch.full((4,), 256.0 / 1.1), atol=1e-2)
    assert float(cameras.intrinsics[0, 0, 0]) == pytest.approx(512 * focal_for_fov(20.0))


def test_ultratex_poses_are_those_of_its_training_data():
    # camera-to-world of pose/000..005.npy in Blender's axes: columns right, up, back
    published = {  # in the order of the preset, which differs from the files' at views 1 and 3
        0: [[1, 0, 0], [0, 0, -1], [0, 1, 0]],
        3: [[0, 0, 1], [1, 0, 0], [0, 1, 0]],
        2: [[-1, 0, 0], [0, 0, 1], [0, 1, 0]],
        1: [[0, 0, -1], [-1, 0, 0], [0, 1, 0]],
        4: [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        5: [[-1, 0, 0], [0, 1, 0], [0, 0, -1]],
    }
    columns = torch.tensor(list(published.values()), dtype=torch.float32)  # (6, 3, 3)
    axes = z_up_to_y_up(columns.transpose(1, 2))  # (6, 3 axes, 3)
    cameras = cameras_of("ultratex")
    close(cameras.rotation[:, 0], axes[:, 0])
    close(-cameras.rotation[:, 1], axes[:, 1])
    close(cameras.positions, axes[:, 2] * 1.67)
    close(cameras.intrinsics[:, 0, 0], torch.full((6,), 512 * 6400 / 4096))


def test_camera_angle_is_eight_directions_at_eye_level():
    cameras = cameras_of("camera_angle")
    azimuths = torch.arange(8) * math.pi / 4
    back = torch.stack([azimuths.sin(), torch.zeros(8), azimuths.cos()], dim=1)
    close(cameras.positions, 6.0 * back)
    close(cameras.intrinsics[:, 0, 0] / 512, torch.full((8,), focal_for_fov(35.0) * 1.4375))


def test_qwen_multiangle_is_8_azimuths_of_4_elevations_at_3_distances():
    cameras = cameras_of("qwen_multiangle")
    assert len(cameras) == 96
    elevations = cameras.elevation_deg.reshape(3, 4, 8)
    close(elevations, torch.tensor([-30.0, 0, 30, 60])[None, :, None].expand(3, 4, 8), 1e-3)
    azimuths = cameras.azimuth_deg.reshape(12, 8)
    offset = (azimuths - 45.0 * torch.arange(8) + 180.0) % 360.0 - 180.0
    assert offset.abs().max() < 1e-3
    zooms = cameras.intrinsics[:, 0, 0].reshape(3, 32) / (512 * focal_for_fov(35.0))
    close(zooms, torch.tensor([1.0, 1.4375, 1.875])[:, None].expand(3, 32))
    close(cameras.positions.norm(dim=1), torch.full((96,), 6.0))


def test_sv3d_sine_has_one_period_and_ends_at_the_front():
    cameras = cameras_of("sv3d_sine")
    index = torch.arange(1, 22)
    expected = 30.0 * torch.sin(2.0 * math.pi * index / 21)
    close(cameras.elevation_deg, expected, 1e-3)
    level = cameras_of("sv3d")
    close(cameras.intrinsics, level.intrinsics)
    close(cameras.positions.norm(dim=1), level.positions.norm(dim=1))
    close(cameras.positions[-1], level.positions[-1])


def test_rejects_zooms_of_another_count():
    with pytest.raises(InputError, match="got 16 azimuths but 2 zooms"):
        OrbitConfig(zooms=(1.0, 2.0))
    with pytest.raises(InputError, match="orbit zooms is 0"):
        OrbitConfig(zooms=(0.0,) * 16)


def test_presets_keep_the_image_size_that_is_asked_for():
    for preset in ORBIT_PRESETS:
        cameras = cameras_from_orbit(preset_orbit(preset, 320, 240))
        assert (cameras.width, cameras.height) == (320, 240)
