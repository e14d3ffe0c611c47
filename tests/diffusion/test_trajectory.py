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
    assert_angles_close(first.azimuth_deg, torch.arange(family.views) * 360.0 / family.views)
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


def test_orbit_may_have_any_constant_elevation():
    for name in FAMILIES:
        trajectory = plan_trajectory(FAMILIES[name], 64, 25.0)
        assert_angles_close(trajectory.cameras.elevation_deg, [25.0] * FAMILIES[name].views)


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
