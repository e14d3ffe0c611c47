"""Orbits with per-view angles, and the orbits of known models."""

from __future__ import annotations

import math

import pytest
import torch

from nova3d_core.cameras.cameras import cameras_from_orbit, orbit_cameras
from nova3d_core.cameras.orbits import (
    ORBIT_PRESETS,
    OrbitConfig,
    focal_for_fov,
    parse_angles,
    parse_orbit,
    preset_orbit,
    rig_from_fov,
)
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import InputError


def test_first_preset_is_the_default_rig():
    preset = cameras_from_orbit(preset_orbit("nova3d", 256, 256))
    default = orbit_cameras()
    assert torch.equal(preset.world_to_camera, default.world_to_camera)
    assert torch.equal(preset.intrinsics, default.intrinsics)


@pytest.mark.parametrize(
    ("preset", "count", "front"), [("nova3d", 16, 0), ("sv3d", 21, 20), ("v3d", 18, 0)]
)
def test_preset_orbit_is_even_with_the_front_view_where_its_model_has_it(preset, count, front):
    cameras = cameras_from_orbit(preset_orbit(preset, 64, 48))
    assert (len(cameras), cameras.width, cameras.height) == (count, 64, 48)
    position = cameras.positions[front]
    assert position[:2].abs().max() < 1e-5
    assert position[2] > 1.0
    steps = (cameras.azimuth_deg.roll(-1) - cameras.azimuth_deg) % 360.0
    torch.testing.assert_close(steps, torch.full((count,), 360.0 / count), atol=1e-3, rtol=0)


def test_wonder3d_has_six_orthographic_views():
    cameras = cameras_from_orbit(ORBIT_PRESETS["wonder3d"])
    assert cameras.kind == "orthographic"
    expected = torch.tensor([0.0, 45.0, 90.0, 180.0, 270.0, 315.0])
    difference = (cameras.azimuth_deg - expected + 180.0) % 360.0 - 180.0
    assert difference.abs().max() < 1e-3


FRAMED_OTHERWISE = {
    "zero123plus",  # its authors' cameras cut off the rim of the sphere
    "camera_angle", "qwen_multiangle",  # wide shots: the sphere fills a quarter of the image
}  # fmt: skip


@pytest.mark.parametrize("preset", sorted(ORBIT_PRESETS.keys() - FRAMED_OTHERWISE))
def test_presets_frame_a_sphere_of_diameter_one(preset):
    cameras = cameras_from_orbit(preset_orbit(preset, 128, 128))
    generator = torch.Generator().manual_seed(0)
    sphere = torch.nn.functional.normalize(torch.randn(2000, 3, generator=generator), dim=1) * 0.5
    pixels, _ = cameras.project(sphere)
    assert pixels.min() > 0.0
    assert pixels.max() < 128.0
    assert (pixels.amax(dim=1) - pixels.amin(dim=1)).min() > 0.6 * 128.0  # and not small


def test_sine_elevation_has_one_period_per_orbit():
    orbit = OrbitConfig(RigConfig(count=8, elevation_deg=5.0), "sine", 30.0)
    elevations = cameras_from_orbit(orbit).elevation_deg
    expected = [5.0 + 30.0 * math.sin(2.0 * math.pi * index / 8) for index in range(8)]
    torch.testing.assert_close(elevations, torch.tensor(expected), atol=1e-3, rtol=0)


def test_parses_lists_of_angles():
    rig = RigConfig(elevation_deg=10.0)
    orbit = parse_orbit(rig, "custom", 30.0, "0, 45;90\n -30", "1 2, 3, 4.5")
    assert orbit.angles_deg() == ([0.0, 45.0, 90.0, -30.0], [1.0, 2.0, 3.0, 4.5])
    one_for_all = parse_orbit(rig, "custom", 30.0, "0 90", "7")
    assert one_for_all.angles_deg() == ([0.0, 90.0], [7.0, 7.0])
    none = parse_orbit(rig, "custom", 30.0, "0 90", " ")
    assert none.angles_deg() == ([0.0, 90.0], [10.0, 10.0])


def test_angle_lists_are_ignored_unless_custom():
    assert parse_orbit(RigConfig(count=3), "static", 30.0, "nonsense", "").azimuths_deg == ()


def test_field_of_view_matches_the_projection():
    rig = rig_from_fov(4, 0.0, 2.0, 60.0, "perspective", 1.0, (100, 50))
    cameras = cameras_from_orbit(OrbitConfig(rig))
    edge = torch.tensor([[2.0 * math.tan(math.radians(30.0)), 0.0, 0.0]])
    pixels, _ = cameras.project(edge)
    torch.testing.assert_close(pixels[0, 0], torch.tensor([100.0, 25.0]), atol=1e-3, rtol=0)
    assert focal_for_fov(90.0) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: parse_angles("0, 4o", "azimuths"), "azimuths: '4o' is not a number"),
        (lambda: OrbitConfig(motion="custom"), "needs azimuths"),
        (lambda: OrbitConfig(motion="custom", azimuths_deg=(0.0,) * 3, elevations_deg=(1.0, 2.0)),
         "3 azimuths but 2 elevations"),
        (lambda: OrbitConfig(RigConfig(elevation_deg=80.0), "sine", 30.0), "elevation is 91"),
        (lambda: OrbitConfig(motion="custom", azimuths_deg=(math.nan,)), "azimuth is nan"),
        (lambda: OrbitConfig(RigConfig(count=5000)), "rig count is 5000"),
        (lambda: preset_orbit("zero123", 8, 8), "orbit preset is 'zero123'"),
        (lambda: focal_for_fov(0.0), "field of view is 0"),
    ],
)  # fmt: skip
def test_rejects_invalid_values(make, message):
    with pytest.raises(InputError, match=message):
        make()
