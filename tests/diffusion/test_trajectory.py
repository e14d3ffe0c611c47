"""Where cameras may stand, and in which order they are painted."""

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


def close(result: torch.Tensor, expected) -> None:
    expected = torch.as_tensor(expected, dtype=torch.float32)
    torch.testing.assert_close(result, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_walks_its_own_orbit(name):
    family = FAMILIES[name]
    trajectory = plan_trajectory(family, 64)
    own = cameras_from_orbit(ORBIT_PRESETS[family.orbit]).resized(64, 64)
    close(trajectory.cameras.world_to_camera, own.world_to_camera)
    close(trajectory.cameras.intrinsics, own.intrinsics)
    first = trajectory.cameras_input_view_first()
    close(first.azimuth_deg, torch.arange(family.views) * 360.0 / family.views)
    assert float(trajectory.azimuths_deg[trajectory.input_view]) == 0.0
    assert trajectory.input_view == (20 if name.startswith("sv3d") else 0)


def test_sv3d_is_told_the_azimuths_that_its_authors_tell_it():
    trajectory = plan_trajectory(FAMILIES["sv3d_p"], 64)
    close(trajectory.azimuths_deg, torch.linspace(0, 360, 22, dtype=torch.float64)[1:] % 360)
    close(trajectory.azimuths_deg[[0, 1, -2, -1]], [17.142857, 34.285713, 342.857147, 0.0])


def test_a_sine_orbit_starts_and_ends_at_its_own_height():
    orbit = OrbitConfig(RigConfig(count=21, elevation_deg=10.0), "sine", 30.0)
    for cameras in (
        cameras_from_orbit(orbit),  # the input image first
        cameras_from_orbit(orbit)[[*range(1, 21), 0]],  # and last, as SV3D has it
    ):
        trajectory = plan_trajectory(FAMILIES["sv3d_p"], 64, cameras=cameras)
        turns = torch.arange(1, 22) / 21.0
        close(trajectory.elevations_deg, 10.0 + 30.0 * torch.sin(2.0 * torch.pi * turns))
        assert trajectory.input_view == 20
        close(trajectory.cameras.elevation_deg, trajectory.elevations_deg)


def test_without_a_camera_at_the_front_the_familys_place_counts():
    azimuths = [30.0 + 17.0 * index for index in range(21)]  # 30 to 370
    cameras = cameras_at(azimuths, [5.0] * 21, RigConfig())
    trajectory = plan_trajectory(FAMILIES["sv3d_p"], 64, cameras=cameras)
    # 370 degrees, the last, is the input view's; the first follows it 20 degrees on
    close(trajectory.azimuths_deg[[0, -2, -1]], [20.0, 343.0, 0.0])
    close(trajectory.cameras_input_view_first().azimuth_deg[:2], [10.0, 30.0])


def test_distance_and_lens_stay_the_familys_and_the_user_is_told(caplog):
    own = plan_trajectory(FAMILIES["sv3d_p"], 64)
    with caplog.at_level(logging.WARNING):
        plan_trajectory(FAMILIES["sv3d_p"], 64, cameras=own.cameras)
        assert caplog.text == ""
        given = orbit_cameras(RigConfig(count=21, radius=5.0))
        trajectory = plan_trajectory(FAMILIES["sv3d_p"], 64, cameras=given)
    assert "only the angles" in caplog.text
    close(trajectory.cameras.positions.norm(dim=1), own.cameras.positions.norm(dim=1))
    assert trajectory.cameras.intrinsics.equal(own.cameras.intrinsics)


def test_a_level_orbit_may_have_any_one_height():
    for name in FAMILIES:
        trajectory = plan_trajectory(FAMILIES[name], 64, 25.0)
        close(trajectory.cameras.elevation_deg, [25.0] * FAMILIES[name].views)


@pytest.mark.parametrize(
    ("name", "cameras", "words"),
    [
        ("nova3d", orbit_cameras(RigConfig(count=15)), "paints 16 views, but 15 cameras"),
        ("sv3d_p", orbit_cameras(RigConfig(count=16)), "paints 21 views, but 16 cameras"),
        ("v3d", cameras_at([20.0 * i + (i == 3) for i in range(18)], [0.0] * 18, RigConfig()),
         "20 degrees apart"),
        ("sv3d_u", cameras_from_orbit(OrbitConfig(RigConfig(count=21), "sine")), "one height"),
        ("sv3d_p", orbit_cameras(RigConfig(count=21))[list(range(20, -1, -1))],
         "counter-clockwise"),
        ("sv3d_p", orbit_cameras(RigConfig(count=21))[[*range(20), 19]], "counter-clockwise"),
    ],
)  # fmt: skip
def test_orbits_that_a_family_cannot_walk_are_refused(name, cameras, words):
    with pytest.raises(InputError, match=words):
        plan_trajectory(FAMILIES[name], 64, cameras=cameras)
