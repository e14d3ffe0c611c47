"""Camera trajectories: supported angles and the order of views."""

from __future__ import annotations

import logging

import pytest
import torch

from nova3d_core.cameras.cameras import cameras_at, cameras_from_orbit, orbit_cameras
from nova3d_core.cameras.orbits import ORBIT_PRESETS, OrbitConfig
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.diffusion.families import FAMILIES
from nova3d_core.diffusion.sampling.trajectory import plan_trajectory
from nova3d_core.errors import InputError


def assert_angles_close(result: torch.Tensor, expected) -> None:
    expected = torch.as_tensor(expected, dtype=torch.float32)
    torch.testing.assert_close(result, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_default_trajectory_is_the_familys_orbit(name):
    family = FAMILIES[name]
    trajectory = plan_trajectory(family, 64)
    own = cameras_from_orbit(ORBIT_PRESETS[family.orbit]).resized(64, 64)
    assert_angles_close(trajectory.cameras.world_to_camera, own.world_to_camera)
    assert_angles_close(trajectory.cameras.intrinsics, own.intrinsics)
    first = trajectory.cameras_input_view_first()
    assert_angles_close(first.azimuth_deg, own.azimuth_deg.roll(-family.input_view))
    assert float(trajectory.azimuths_deg[trajectory.input_view]) == 0.0
    assert trajectory.input_view == (20 if name.startswith("sv3d") else 0)


def test_sv3d_azimuths_match_the_original_code():
    trajectory = plan_trajectory(FAMILIES["sv3d_p"], 64)
    assert_angles_close(
        trajectory.azimuths_deg, torch.linspace(0, 360, 22, dtype=torch.float64)[1:] % 360
    )
    assert_angles_close(
        trajectory.azimuths_deg[[0, 1, -2, -1]], [17.142857, 34.285713, 342.857147, 0.0]
    )


def test_sine_orbit_in_either_view_order():
    orbit = OrbitConfig(RigConfig(count=21, elevation_deg=10.0), "sine", 30.0)
    for cameras in (
        cameras_from_orbit(orbit),  # the input image first
        cameras_from_orbit(orbit)[[*range(1, 21), 0]],  # and last, as SV3D has it
    ):
        trajectory = plan_trajectory(FAMILIES["sv3d_p"], 64, cameras=cameras)
        fractions = torch.arange(1, 22) / 21.0
        assert_angles_close(
            trajectory.elevations_deg, 10.0 + 30.0 * torch.sin(2.0 * torch.pi * fractions)
        )
        assert trajectory.input_view == 20
        assert_angles_close(trajectory.cameras.elevation_deg, trajectory.elevations_deg)


def test_input_view_index_without_a_front_camera():
    azimuths = [30.0 + 17.0 * index for index in range(21)]  # 30 to 370
    cameras = cameras_at(azimuths, [5.0] * 21, RigConfig())
    trajectory = plan_trajectory(FAMILIES["sv3d_p"], 64, cameras=cameras)
    # the last camera, at 370 degrees, is the input view; the first is 20 degrees further
    assert_angles_close(trajectory.azimuths_deg[[0, -2, -1]], [20.0, 343.0, 0.0])
    assert_angles_close(trajectory.cameras_input_view_first().azimuth_deg[:2], [10.0, 30.0])


def test_distance_and_focal_length_are_the_familys_with_a_warning(caplog):
    own = plan_trajectory(FAMILIES["sv3d_p"], 64)
    with caplog.at_level(logging.WARNING):
        plan_trajectory(FAMILIES["sv3d_p"], 64, cameras=own.cameras)
        assert caplog.text == ""
        given = orbit_cameras(RigConfig(count=21, radius=5.0))
        trajectory = plan_trajectory(FAMILIES["sv3d_p"], 64, cameras=given)
    assert "only the angles" in caplog.text
    assert_angles_close(trajectory.cameras.positions.norm(dim=1), own.cameras.positions.norm(dim=1))
    assert trajectory.cameras.intrinsics.equal(own.cameras.intrinsics)


def relative_poses(cameras, view: int) -> torch.Tensor:
    """(V, 4, 4) transforms from the frame of one camera to each camera."""
    return cameras.world_to_camera @ cameras.camera_to_world[view]


@pytest.mark.parametrize("name", ["nova3d", "nova3d-mini", "v3d"])
@pytest.mark.parametrize("elevation", [-35.0, 10.0, 20.0, 89.0])
def test_relative_poses_are_a_level_orbits_at_any_elevation(name, elevation):
    """V3D and NOVA3D orbit the up axis of the input camera: no elevation changes their views."""
    family = FAMILIES[name]
    level, raised = (plan_trajectory(family, 64, angle) for angle in (0.0, elevation))
    torch.testing.assert_close(
        relative_poses(raised.cameras, 0), relative_poses(level.cameras, 0), atol=2e-6, rtol=0
    )
    assert raised.azimuths_deg.equal(level.azimuths_deg)
    assert raised.elevations_deg.equal(level.elevations_deg)
    # upright: the input camera looks down by the elevation, without roll
    first = raised.cameras[0]
    assert_angles_close(first.elevation_deg, [elevation])
    assert_angles_close(first.rotation[0, 0], [1.0, 0.0, 0.0])
    assert raised.cameras.intrinsics.equal(level.cameras.intrinsics)


def test_image_of_a_raised_orbit_is_the_level_one_of_a_rotated_object():
    """A point on the world's up axis appears in every view where the tilted object has it."""
    raised = plan_trajectory(FAMILIES["v3d"], 64, 30.0).cameras
    level = plan_trajectory(FAMILIES["v3d"], 64).cameras
    tilt = torch.tensor(30.0).deg2rad()
    top = torch.tensor([[0.0, 0.4, 0.0]])
    leaning = torch.tensor([[0.0, 0.4 * float(tilt.cos()), 0.4 * float(tilt.sin())]])
    for pixels, expected in zip(raised.project(top), level.project(leaning), strict=True):
        torch.testing.assert_close(pixels, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["sv3d_u", "sv3d_p"])
def test_sv3d_orbits_the_worlds_axis_at_the_elevation_of_the_image(name):
    trajectory = plan_trajectory(FAMILIES[name], 64, 25.0)
    assert_angles_close(trajectory.cameras.elevation_deg, [25.0] * 21)
    assert_angles_close(trajectory.elevations_deg, [25.0] * 21)


def test_cameras_of_a_raised_orbit_are_accepted_again(caplog):
    raised = plan_trajectory(FAMILIES["v3d"], 64, 20.0)
    with caplog.at_level(logging.WARNING):
        again = plan_trajectory(FAMILIES["v3d"], 64, cameras=raised.cameras)
    assert caplog.text == ""
    assert_angles_close(again.cameras.world_to_camera, raised.cameras.world_to_camera)
    assert_angles_close(again.elevations_deg, [0.0] * 18)


def test_elevated_circle_that_v3d_cannot_generate_is_replaced_with_a_warning(caplog):
    circle = orbit_cameras(RigConfig(count=18, elevation_deg=20.0, radius=1.25))
    with caplog.at_level(logging.WARNING):
        trajectory = plan_trajectory(FAMILIES["v3d"], 64, cameras=circle)
    assert "orbits the up axis of the input camera" in caplog.text
    expected = plan_trajectory(FAMILIES["v3d"], 64, 20.0).cameras
    assert_angles_close(trajectory.cameras.world_to_camera, expected.world_to_camera)


def test_evenly_spaced_is_independent_of_elevation_and_order():
    sine = cameras_from_orbit(OrbitConfig(RigConfig(count=21), "sine", 30.0))
    assert plan_trajectory(FAMILIES["sv3d_p"], 64, cameras=sine).evenly_spaced
    uneven = cameras_at([17.0 * index for index in range(21)], [0.0] * 21, RigConfig())
    assert not plan_trajectory(FAMILIES["sv3d_p"], 64, cameras=uneven).evenly_spaced


@pytest.mark.parametrize(
    ("name", "cameras", "message"),
    [
        ("nova3d", orbit_cameras(RigConfig(count=15)), "generates 16 views, but got 15 cameras"),
        ("sv3d_p", orbit_cameras(RigConfig(count=16)), "generates 21 views, but got 16 cameras"),
        ("v3d", cameras_at([20.0 * i + (i == 3) for i in range(18)], [0.0] * 18, RigConfig()),
         "20 degrees apart"),
        ("sv3d_u", cameras_from_orbit(OrbitConfig(RigConfig(count=21), "sine")),
         "constant elevation"),
        ("sv3d_p", orbit_cameras(RigConfig(count=21))[list(range(20, -1, -1))],
         "counter-clockwise"),
        ("sv3d_p", orbit_cameras(RigConfig(count=21))[[*range(20), 19]], "counter-clockwise"),
    ],
)  # fmt: skip
def test_rejects_unsupported_orbits(name, cameras, message):
    with pytest.raises(InputError, match=message):
        plan_trajectory(FAMILIES[name], 64, cameras=cameras)
