"""Cameras and model transforms of the 3D viewer match three.js."""

from __future__ import annotations

import json
import math
import subprocess
from dataclasses import replace

import pytest
import torch

from nova3d_core.cameras.cameras import Cameras, cameras_from_orbit, orbit_cameras
from nova3d_core.cameras.orbits import ORBIT_PRESETS, preset_orbit
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


def orthographic(**entries):
    """An orthographic camera with a rotation of its own."""
    upright = {"x": 0.0, "y": 0.0, "z": 0.0, "w": 1.0}
    return camera_info((0, 0, 1), cameraType="orthographic", quaternion=upright, **entries)


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


def splat_pixels(info, points: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """(N, 2) pixels of points (N, 3) as the host's RenderSplat projects them."""
    eye, target = (
        torch.tensor([info[key][axis] for axis in "xyz"]) for key in ("position", "target")
    )
    x, y, z, w = (info["quaternion"][axis] for axis in "xyzw")
    turn = torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    right, down, forward = turn[:, 0], -turn[:, 1], -turn[:, 2]
    offset = points - eye
    focal = min(width, height) / 2 / math.tan(math.radians(info["fov"]) / 2) * info["zoom"]
    if info["cameraType"] == "orthographic":
        scale = torch.full((len(points),), focal / float((target - eye).norm()))
    else:
        scale = focal / (offset @ forward)
    return torch.stack(
        [width / 2 + scale * (offset @ right), height / 2 + scale * (offset @ down)], dim=1
    )


@pytest.mark.parametrize("size", [(200, 200), (300, 200), (200, 300)])
def test_orthographic_camera_without_frustum_is_that_of_render_splat(load3d, size):
    created = camera_info(  # by CreateCameraInfo: yaw 0, distance 4
        (0, 0, 4), cameraType="orthographic", fov=35.0, zoom=1.5,
        quaternion={"x": 0.0, "y": 0.0, "z": 0.0, "w": 1.0},
    )  # fmt: skip
    points = torch.tensor([[0.3, 0.5, 0.7], [-0.2, 0.1, -0.4]])
    pixels, _ = load3d.camera_from_viewer(created, *size).project(points)
    expected = splat_pixels(created, points, *size)
    torch.testing.assert_close(pixels[0], expected, atol=1e-3, rtol=0)


def test_orthographic_camera_of_an_older_viewer_shows_ten_units(load3d):
    camera = load3d.camera_from_viewer(camera_info((0, 0, 9), cameraType="orthographic"), 100, 100)
    assert float(camera.intrinsics[0, 0, 0]) == pytest.approx(100 / load3d.DEFAULT_FRUSTUM_HEIGHT)


def test_cameras_of_viewers_and_of_nodes_are_told_apart(load3d):
    older, created = camera_info((0, 0, 3)), camera_info((0, 0, 3), fov=35.0)
    newer = camera_info((0, 0, 3), fov=35.0, near=0.1, far=1000.0)
    ours = load3d.viewer_cameras(orbit_cameras(RigConfig(count=2)))
    assert [load3d.is_from_viewer(each) for each in (older, newer)] == [True, True]
    assert not any(load3d.is_from_viewer(each) for each in (created, *ours))


def random_cameras(kind: str, size: tuple[int, int], count: int = 12) -> Cameras:
    """Cameras that look at the same region from everywhere, with any roll."""
    generator = torch.Generator().manual_seed(3)
    rotation = torch.linalg.qr(torch.randn(count, 3, 3, generator=generator).double())[0]
    rotation[torch.linalg.det(rotation) < 0] *= -1.0
    pose = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    pose[:, :3, :3] = rotation
    pose[:, :3, 3] = torch.randn(count, 3, generator=generator) * 0.1 + torch.tensor([0.0, 0, 3])
    focal = torch.rand(count, generator=generator) * 100 + 100
    lens = torch.eye(3).repeat(count, 1, 1)
    lens[:, 0, 0] = lens[:, 1, 1] = focal
    lens[:, 0, 2], lens[:, 1, 2] = size[0] / 2, size[1] / 2
    return Cameras(pose.float(), lens, *size, kind)


@pytest.mark.parametrize("kind", ["perspective", "orthographic"])
@pytest.mark.parametrize("size", [(128, 128), (160, 96), (96, 160)])
def test_cameras_survive_a_round_trip(load3d, kind, size):
    cameras = random_cameras(kind, size)
    infos = json.loads(json.dumps(load3d.viewer_cameras(cameras)))  # as the page and API see them
    restored = load3d.cameras_from_viewer(infos, *size)
    assert restored.kind == kind
    torch.testing.assert_close(restored.world_to_camera, cameras.world_to_camera, atol=1e-5, rtol=0)
    torch.testing.assert_close(restored.intrinsics, cameras.intrinsics, atol=0, rtol=1e-5)


@pytest.mark.parametrize("preset", list(ORBIT_PRESETS))
def test_presets_survive_a_round_trip(load3d, preset):
    cameras = cameras_from_orbit(preset_orbit(preset, 64, 64))
    restored = load3d.cameras_from_viewer(load3d.viewer_cameras(cameras), 64, 64)
    torch.testing.assert_close(restored.world_to_camera, cameras.world_to_camera, atol=1e-5, rtol=0)
    torch.testing.assert_close(restored.intrinsics, cameras.intrinsics, atol=0, rtol=1e-5)


def test_targets_of_an_orbit_are_its_centre(load3d):
    for info in load3d.viewer_cameras(orbit_cameras(RigConfig(count=5, elevation_deg=20.0))):
        assert max(abs(value) for value in info["target"].values()) < 1e-5
        assert info["fov"] == pytest.approx(39.6, abs=0.01)


@pytest.mark.parametrize("kind", ["perspective", "orthographic"])
@pytest.mark.parametrize("size", [(128, 128), (160, 96)])
def test_render_splat_shows_our_cameras_as_we_do(load3d, kind, size):
    cameras = random_cameras(kind, size)
    points = torch.randn(20, 3, generator=torch.Generator().manual_seed(1)) * 0.2
    pixels, _ = cameras.project(points)
    for view, info in enumerate(load3d.viewer_cameras(cameras)):
        expected = splat_pixels(info, points, *size)
        torch.testing.assert_close(pixels[view], expected, atol=2e-2, rtol=0)


def test_far_cameras_keep_their_precision(load3d):
    near = orbit_cameras(RigConfig(count=6))
    origin = (4_000_000.25, -120.5, 5_000_000.75)
    infos = load3d.viewer_cameras(replace(near, origin=origin))
    restored = load3d.cameras_from_viewer(infos, 256, 256)
    origins = torch.tensor([restored.origin, origin], dtype=torch.float64)
    offset = origins[0] - origins[1]
    torch.testing.assert_close(restored.rotation, near.rotation, atol=1e-5, rtol=0)
    positions = restored.positions + offset.float()
    torch.testing.assert_close(positions, near.positions, atol=1e-5, rtol=0)


def test_lost_intrinsics_are_a_warning(load3d, caplog):
    cameras = orbit_cameras(RigConfig(count=2))
    shifted = cameras.intrinsics.clone()
    shifted[1, 0, 2] += 3.0
    shifted[0, 0, 0] *= 1.02
    load3d.viewer_cameras(cameras)
    assert not caplog.messages
    load3d.viewer_cameras(replace(cameras, intrinsics=shifted))
    (message,) = caplog.messages
    assert "3.0 px off the centre" in message
    assert "2.0% off square" in message


@pytest.mark.parametrize(
    ("infos", "message"),
    [
        ([], "the list of cameras is empty"),
        ([camera_info((0, 0, 1)), camera_info((0, 0, 1), cameraType="orthographic", fov=30)],
         "camera 0 of the list is perspective, but camera 1 is not"),
        ([camera_info((0, 0, 1)), {}], "camera 1 of the list: the viewer's camera has no position"),
        ([camera_info((0, 0, 1)), 7], "camera 1 of the list: a camera is int"),
        ([camera_info((0, 0, 1), fov=200)], "fov is 200 degrees"),
        ([camera_info((0, 0, 1), fov="wide")], "camera's fov is 'wide', expected a finite number"),
        ([camera_info((0, 0, 1), zoom=math.nan)], "camera's zoom is nan"),
        ([camera_info((0, 0, 1)) | {"zoom": -1}], "camera's zoom is -1, expected more than 0"),
        ([orthographic(frustum={"top": math.nan, "bottom": -1})], "frustum's top is nan"),
        ([orthographic(frustum={"top": -1, "bottom": 1})], "its top is below its bottom"),
        ([orthographic(frustum=[1, 2])], "frustum is not a mapping"),
        ([orthographic(target=(0, 0, 1), fov=30)], "orthographic camera is at its own target"),
    ],
)  # fmt: skip
def test_rejects_invalid_camera_lists(pack, load3d, infos, message):
    with pytest.raises(pack("nova3d_core.errors").InputError, match=message):
        load3d.cameras_from_viewer(infos, 64, 64)


def test_render_splat_draws_points_where_our_cameras_see_them(load3d, checkout):
    """The host's own rasteriser draws a point where our camera sees it."""
    if not (checkout.path / "comfy_extras" / "nodes_gaussian_splat.py").is_file():
        pytest.skip("this ComfyUI has no splats")
    result = subprocess.run(
        [str(checkout.python), "-c", RENDER_SPLAT],
        cwd=checkout.path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    measured = json.loads(result.stdout.splitlines()[-1])
    for info, point, (column, row) in measured:
        camera = load3d.camera_from_viewer(info, 240, 180)
        pixels, _ = camera.project(torch.tensor([point]))
        assert pixels[0, 0].tolist() == pytest.approx([column, row], abs=0.6)


RENDER_SPLAT = """
import json, sys
sys.argv = ["main.py", "--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
import torch
from comfy_extras import nodes_gaussian_splat as splats
measured = []
for kind in ("orthographic", "perspective"):
    for zoom, position in ((1.0, [2.0, 1.5, 3.0]), (1.7, [-3.0, 0.5, 2.0])):
        info = splats._lookat_camera_info(position, [0.1, 0.2, 0.0], 35.0, "cpu", zoom, kind, 10.0)
        for point in ([0.3, 0.4, 0.2], [-0.2, 0.1, 0.3]):
            world = torch.tensor([point]) * torch.tensor([1.0, -1.0, -1.0])  # splats are y down
            _, mask = splats._render_gaussian(
                world, torch.ones(1, 3), torch.ones(1, 1), torch.full((1, 3), 0.02),
                torch.tensor([[1.0, 0.0, 0.0, 0.0]]), 240, 180, 1.0, [0.0, 0.0, 0.0], info)
            weight = mask.float() / mask.float().sum()
            rows, columns = torch.arange(180) + 0.5, torch.arange(240) + 0.5
            centre = [float((weight.sum(0) * columns).sum()), float((weight.sum(1) * rows).sum())]
            measured.append([info, point, centre])
print(json.dumps(measured))
"""
