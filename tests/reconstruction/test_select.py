"""Selection of the four views that LGM sees."""

from __future__ import annotations

import logging

import pytest
import torch

from nova3d_core.cameras.cameras import cameras_at, cameras_from_orbit
from nova3d_core.cameras.orbits import ORBIT_PRESETS
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import InputError
from nova3d_core.reconstruction.select import select_views


def cameras(azimuths_deg, elevations_deg=None, **rig):
    elevations_deg = elevations_deg or [0.0] * len(azimuths_deg)
    return cameras_at(azimuths_deg, elevations_deg, RigConfig(**rig))


@pytest.mark.parametrize(
    ("preset", "expected"),
    [("nova3d", [0, 4, 8, 12]), ("wonder3d", [0, 2, 3, 4]), ("pixal3d_mv", [0, 1, 2, 3])],
)
def test_selects_the_quarter_views_of_known_orbits(preset, expected):
    assert select_views(cameras_from_orbit(ORBIT_PRESETS[preset])) == expected


@pytest.mark.parametrize("preset", ["v3d", "sv3d"])
def test_orbits_without_quarter_views_are_close_enough(preset, caplog):
    orbit = cameras_from_orbit(ORBIT_PRESETS[preset])
    offsets = orbit.azimuth_deg[select_views(orbit)] - orbit.azimuth_deg[0]
    errors = (offsets - torch.tensor([0.0, 90.0, 180.0, 270.0]) + 180.0) % 360.0 - 180.0
    assert float(errors.abs().max()) < 10.1 and float(errors[0]) == 0.0
    assert caplog.records == []


def test_azimuths_are_relative_to_the_first_view_in_any_order():
    assert select_views(cameras([200.0, 20.0, 110.0, 290.0, 245.0])) == [0, 3, 1, 2]


def test_prefers_elevation_0():
    azimuths = [0.0, 90.0, 180.0, 270.0] * 2
    elevations = [25.0] * 4 + [0.0] * 4
    assert select_views(cameras(azimuths, elevations)) == [4, 5, 6, 7]


def test_orthographic_cameras_are_selected_by_their_direction():
    assert select_views(cameras([0.0, 45.0, 90.0, 180.0, 270.0], kind="orthographic")) == [
        0, 2, 3, 4,
    ]  # fmt: skip


def test_warns_of_views_far_from_level(caplog):
    with caplog.at_level(logging.WARNING):
        select_views(cameras([0.0, 90.0, 180.0, 270.0], [30.0] * 4))
    assert "up to 30 degrees from azimuths" in caplog.text


@pytest.mark.parametrize(
    ("azimuths", "elevations", "message"),
    [
        ([0.0, 90.0, 180.0], [0.0] * 3, "there are 3 views"),
        ([0.0], [0.0], "there is 1 view,"),
        ([0.0, 30.0, 60.0, 100.0], [0.0] * 4, "no view is near azimuth 270"),
        ([0.0, 90.0, 180.0, 270.0], [50.0] * 4, "the nearest is 50 degrees away"),
        ([0.0, 90.0, 180.0, 270.0], [90.0, 0.0, 0.0, 0.0], "first view is at elevation 90"),
    ],
)
def test_rejects_views_from_unusable_directions(azimuths, elevations, message):
    with pytest.raises(InputError, match=message):
        select_views(cameras(azimuths, elevations))
