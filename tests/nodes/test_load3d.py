"""Cameras and model transforms of the 3D viewer match three.js."""

from __future__ import annotations

import math

import pytest
import torch

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.conventions import orbit_position


@pytest.fixture(scope="module")
def load3d(pack):
    return pack("nodes.load3d")


def vector(*values: float) -> dict[str, float]:
    return dict(zip("xyz", values, strict=False))


def camera_info(position, target=(0.0, 0.0, 0.0), **more):
    return {
        "position": vector(*position),
        "target": vector(*target),
        "zoom": 1,
        "cameraType": "perspective",
        **more,
    }


@pytest.mark.parametrize(("azimuth", "elevation"), [(0, 0), (90, 0), (200, 35), (-30, -60)])
def test_viewer_on_an_orbit_equals_the_orbit_camera(load3d, azimuth, elevation):
    rig = RigConfig(count=1, azimuth_start_deg=azimuth, elevation_deg=elevation, radius=3.0)
    orbit = orbit_cameras(rig)
    position = orbit_position(math.radians(azimuth), math.radians(elevation), 3.0)
    camera = load3d.camera_from_viewer(camera_info(position), 256, 256)
    torch.testing.assert_close(camera.world_to_camera, orbit.world_to_camera, atol=1e-5, rtol=0)


def test_fov_is_vertical_and_zoom_multiplies_the_focal_length(load3d):
    camera = load3d.camera_from_viewer(camera_info((0, 0, 4), fov=50.0, zoom=2.0), 300, 200)
    top = 4.0 * math.tan(math.radians(25.0)) / 2.0
    pixels, depth = camera.project(torch.tensor([[0.0, top, 0.0], [0.0, 0.0, 0.0]]))
    torch.testing.assert_close(pixels[0, 0], torch.tensor([150.0, 0.0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(depth[0], torch.tensor([4.0, 4.0]))


def test_orthographic_camera_covers_the_frustum(load3d):
    frustum = {"left": -4.0, "right": 4.0, "top": 2.0, "bottom": -2.0}
    info = camera_info((0, 0, 9), cameraType="orthographic", frustum=frustum, zoom=2)
    camera = load3d.camera_from_viewer(info, 100, 100)
    assert camera.kind == "orthographic"
    pixels, _ = camera.project(torch.tensor([[0.0, 1.0, 5.0]]))
    torch.testing.assert_close(pixels[0, 0], torch.tensor([50.0, 0.0]), atol=1e-4, rtol=0)


def test_quaternion_includes_the_roll(load3d):
    half = math.radians(90.0) / 2
    roll = {"x": 0.0, "y": 0.0, "z": math.sin(half), "w": math.cos(half)}
    camera = load3d.camera_from_viewer(camera_info((0, 0, 4), quaternion=roll), 100, 100)
    pixels, _ = camera.project(torch.tensor([[1.0, 0.0, 0.0]]))
    # a camera rolled counter-clockwise sees the world rolled clockwise: +X points down
    assert pixels[0, 0, 0] == pytest.approx(50.0, abs=1e-3)
    assert pixels[0, 0, 1] > 60.0


def test_looks_straight_down(load3d):
    camera = load3d.camera_from_viewer(camera_info((0, 5, 0)), 64, 64)
    pixels, depth = camera.project(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
    torch.testing.assert_close(pixels[0, 0], torch.tensor([32.0, 32.0]), atol=1e-3, rtol=0)
    assert depth[0, 0] == pytest.approx(5.0)
    assert pixels[0, 1, 1] > 33.0  # the front is at the bottom of the image


def test_model_transform_is_scale_rotation_translation(load3d, l_solid):
    half = math.radians(90.0) / 2
    info = {
        "position": vector(1.0, 2.0, 3.0),
        "quaternion": {"x": 0.0, "y": math.sin(half), "z": 0.0, "w": math.cos(half)},
        "scale": vector(1.0, 2.0, 3.0),
    }
    displayed = load3d.mesh_in_viewer(l_solid, info, auto_scaled=True)
    x, y, z = (l_solid.vertices * torch.tensor([1.0, 2.0, 3.0])).unbind(dim=1)
    expected = torch.stack([z, y, -x], dim=1) + torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(displayed.vertices, expected, atol=1e-5, rtol=0)


def test_older_viewers_scale_models_and_place_them_on_the_floor(load3d, l_solid):
    moved = l_solid.transformed(torch.diag(torch.tensor([0.02, 0.02, 0.02, 1.0])))
    displayed = load3d.mesh_in_viewer(moved, None, auto_scaled=True)
    low, high = displayed.bounds
    assert float((high - low).max()) == pytest.approx(load3d.AUTO_SCALED_SIZE, abs=1e-4)
    assert float(low[1]) == pytest.approx(0.0, abs=1e-5)
    assert (low + high)[[0, 2]].abs().max() < 1e-4
    assert load3d.mesh_in_viewer(moved, None, auto_scaled=False) is moved


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({}, "no position"),
        (camera_info((0, 0, math.nan)), "position of the viewer's camera has no finite value z"),
        ({"position": {"x": 1, "y": 2}}, "position of the viewer's camera has no finite value z"),
        (camera_info((1, 1, 1), (1, 1, 1)), "no viewing direction"),
        (
            camera_info((0, 0, 1), quaternion={"x": 1}),
            "quaternion of the viewer's camera has no finite value y",
        ),
    ],
)
def test_rejects_invalid_camera_info(pack, load3d, info, message):
    with pytest.raises(pack("nova3d_core.errors").InputError, match=message):
        load3d.camera_from_viewer(info, 64, 64)
