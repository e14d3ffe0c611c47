"""A page's 3D viewer as cameras: the same as three.js places and projects."""

from __future__ import annotations

import math

import pytest
import torch

from nodes.load3d import AUTO_SCALED_SIZE, camera_from_viewer, mesh_in_viewer
from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.conventions import orbit_position
from nova3d_core.errors import InputError


def xyz(*values: float) -> dict[str, float]:
    return dict(zip("xyz", values, strict=False))


def state(position, target=(0.0, 0.0, 0.0), **more):
    return {
        "position": xyz(*position),
        "target": xyz(*target),
        "zoom": 1,
        "cameraType": "perspective",
        **more,
    }


@pytest.mark.parametrize(("azimuth", "elevation"), [(0, 0), (90, 0), (200, 35), (-30, -60)])
def test_a_viewer_on_an_orbit_is_the_orbits_camera(azimuth, elevation):
    rig = RigConfig(count=1, azimuth_start_deg=azimuth, elevation_deg=elevation, radius=3.0)
    orbit = orbit_cameras(rig)
    place = orbit_position(math.radians(azimuth), math.radians(elevation), 3.0)
    ours = camera_from_viewer(state(place), 256, 256)
    torch.testing.assert_close(ours.world_to_camera, orbit.world_to_camera, atol=1e-5, rtol=0)


def test_fov_is_vertical_and_zoom_multiplies_the_focal_length():
    camera = camera_from_viewer(state((0, 0, 4), fov=50.0, zoom=2.0), 300, 200)
    top = 4.0 * math.tan(math.radians(25.0)) / 2.0
    pixels, depth = camera.project(torch.tensor([[0.0, top, 0.0], [0.0, 0.0, 0.0]]))
    torch.testing.assert_close(pixels[0, 0], torch.tensor([150.0, 0.0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(depth[0], torch.tensor([4.0, 4.0]))


def test_orthographic_shows_its_frustum():
    frustum = {"left": -4.0, "right": 4.0, "top": 2.0, "bottom": -2.0}
    info = state((0, 0, 9), cameraType="orthographic", frustum=frustum, zoom=2)
    camera = camera_from_viewer(info, 100, 100)
    assert camera.kind == "orthographic"
    pixels, _ = camera.project(torch.tensor([[0.0, 1.0, 5.0]]))
    torch.testing.assert_close(pixels[0, 0], torch.tensor([50.0, 0.0]), atol=1e-4, rtol=0)


def test_a_quaternion_tells_the_turn_with_its_roll():
    half = math.radians(90.0) / 2
    roll = {"x": 0.0, "y": 0.0, "z": math.sin(half), "w": math.cos(half)}
    camera = camera_from_viewer(state((0, 0, 4), quaternion=roll), 100, 100)
    pixels, _ = camera.project(torch.tensor([[1.0, 0.0, 0.0]]))
    # a camera rolled counter-clockwise sees the world rolled clockwise: +X points down
    assert pixels[0, 0, 0] == pytest.approx(50.0, abs=1e-3)
    assert pixels[0, 0, 1] > 60.0


def test_straight_down_has_a_direction():
    camera = camera_from_viewer(state((0, 5, 0)), 64, 64)
    pixels, depth = camera.project(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
    torch.testing.assert_close(pixels[0, 0], torch.tensor([32.0, 32.0]), atol=1e-3, rtol=0)
    assert depth[0, 0] == pytest.approx(5.0)
    assert pixels[0, 1, 1] > 33.0  # the front is at the image's bottom


def test_a_models_place_is_scale_then_turn_then_shift(l_solid):
    half = math.radians(90.0) / 2
    info = {
        "position": xyz(1.0, 2.0, 3.0),
        "quaternion": {"x": 0.0, "y": math.sin(half), "z": 0.0, "w": math.cos(half)},
        "scale": xyz(1.0, 2.0, 3.0),
    }
    placed = mesh_in_viewer(l_solid, info, auto_scaled=True)
    x, y, z = (l_solid.vertices * torch.tensor([1.0, 2.0, 3.0])).unbind(dim=1)
    expected = torch.stack([z, y, -x], dim=1) + torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(placed.vertices, expected, atol=1e-5, rtol=0)


def test_older_viewers_stand_every_model_on_their_floor(l_solid):
    moved = l_solid.transformed(torch.diag(torch.tensor([0.02, 0.02, 0.02, 1.0])))
    placed = mesh_in_viewer(moved, None, auto_scaled=True)
    low, high = placed.bounds
    assert float((high - low).max()) == pytest.approx(AUTO_SCALED_SIZE, abs=1e-4)
    assert float(low[1]) == pytest.approx(0.0, abs=1e-5)
    assert (low + high)[[0, 2]].abs().max() < 1e-4
    assert mesh_in_viewer(moved, None, auto_scaled=False) is moved


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({}, "no position"),
        (state((0, 0, math.nan)), "position has no number z"),
        ({"position": {"x": 1, "y": 2}}, "position has no number z"),
        (state((1, 1, 1), (1, 1, 1)), "no direction"),
        (state((0, 0, 1), quaternion={"x": 1}), "quaternion has no number y"),
    ],
)
def test_what_cannot_be_a_camera_is_named(info, message):
    with pytest.raises(InputError, match=message):
        camera_from_viewer(info, 64, 64)
