"""Cameras of DA3_GEOMETRY: a geometry made by hand from known cameras gives these cameras."""

from __future__ import annotations

import pytest
import torch

from nova3d_core.cameras.cameras import Cameras, orbit_cameras
from nova3d_core.cameras.rigs import RigConfig

FLIP = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
"""From our world to that of the host's meshes of a geometry, and back."""


@pytest.fixture(scope="module")
def da3(pack):
    return pack("nodes.da3_geometry")


@pytest.fixture(scope="module")
def input_error(pack):
    return pack("nova3d_core.errors").InputError


def known_cameras(size=(640, 480)) -> Cameras:
    rig = RigConfig(count=5, elevation_deg=15.0, radius=2.0, width_px=size[0], height_px=size[1])
    return orbit_cameras(rig)


def geometry_of(cameras: Cameras, processed=(504, 378)) -> dict:
    """What Run Depth Anything 3 returns: intrinsics refer to the resized images."""
    extrinsics = cameras.world_to_camera[:, :3].clone()
    extrinsics[:, :, :3] = extrinsics[:, :, :3] @ FLIP
    scale = torch.tensor([processed[0] / cameras.width, processed[1] / cameras.height, 1.0])
    images = torch.zeros(len(cameras), cameras.height, cameras.width, 3)
    return {
        "depth": images[..., 0],
        "image": images,
        "mode": "multiview",
        "extrinsics": extrinsics[None],
        "intrinsics": (cameras.intrinsics * scale[:, None])[None],
    }


@pytest.mark.parametrize("processed", [(504, 378), (518, 392), (672, 504), (640, 480)])
def test_known_cameras_are_recovered(da3, processed):
    cameras = known_cameras()
    restored = da3.cameras_from_da3(geometry_of(cameras, processed), 640, 480)
    torch.testing.assert_close(restored.world_to_camera, cameras.world_to_camera, atol=1e-5, rtol=0)
    torch.testing.assert_close(restored.intrinsics, cameras.intrinsics, atol=1e-2, rtol=1e-5)
    half = da3.cameras_from_da3(geometry_of(cameras, processed), 320, 240)
    torch.testing.assert_close(half.intrinsics, cameras.resized(320, 240).intrinsics)


def test_points_project_where_the_model_sees_them(da3):
    """Unprojected depth, moved into the host's mesh world, lands on its own pixel."""
    cameras = known_cameras()
    geometry = geometry_of(cameras)
    pixel, depth = torch.tensor([100.0, 200.0, 1.0]), 1.7  # of the resized image
    for view in range(len(cameras)):
        pose = geometry["extrinsics"][0, view]
        in_camera = torch.linalg.inv(geometry["intrinsics"][0, view]) @ pixel * depth
        in_world = pose[:, :3].T @ (in_camera - pose[:, 3])
        ours = da3.cameras_from_da3(geometry, 504, 378)
        seen, seen_depth = ours.project((in_world * torch.tensor([1.0, -1.0, -1.0]))[None])
        torch.testing.assert_close(seen[view, 0], pixel[:2], atol=1e-2, rtol=0)
        assert float(seen_depth[view, 0]) == pytest.approx(depth, abs=1e-4)


def test_reference_view_looks_along_minus_z(da3):
    geometry = geometry_of(known_cameras())
    geometry["extrinsics"] = torch.eye(4)[None, None, :3].repeat(1, 5, 1, 1)
    geometry["extrinsics"][0, 1:, 0, 3] = 0.5
    camera = da3.cameras_from_da3(geometry, 640, 480)[0]
    torch.testing.assert_close(camera.view_directions[0], torch.tensor([0.0, 0.0, -1.0]))
    pixels, _ = camera.project(torch.tensor([[0.0, 0.1, -1.0]]))
    assert pixels[0, 0, 1] < 240.0  # +Y is up


def test_small_errors_of_rotations_are_removed(da3):
    cameras = known_cameras()
    geometry = geometry_of(cameras)
    geometry["extrinsics"][..., :3] *= 1.01
    restored = da3.cameras_from_da3(geometry, 640, 480)
    torch.testing.assert_close(restored.rotation, cameras.rotation, atol=1e-5, rtol=0)


def changed(**entries):
    def make():
        geometry = geometry_of(known_cameras())
        for key, change in entries.items():
            geometry[key] = change(geometry[key])
        return geometry

    return make


def mono():
    geometry = geometry_of(known_cameras())
    return {key: geometry[key] for key in ("depth", "image")} | {"mode": "mono"}


def placeholder():
    geometry = geometry_of(known_cameras())
    return geometry | {
        "extrinsics": torch.eye(4).repeat(1, 5, 1, 1),
        "intrinsics": torch.eye(3).repeat(1, 5, 1, 1),
    }


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (mono, r"no extrinsics \(mono mode\). Run Depth Anything 3 with mode multiview"),
        (placeholder, "no estimated poses"),
        (changed(extrinsics=lambda old: old * torch.nan), "extrinsics of view 0 are not finite"),
        (changed(extrinsics=lambda old: old * 2.0), "are not rotations"),
        (changed(extrinsics=lambda old: old[..., :3]), "extrinsics have shape"),
        (changed(intrinsics=lambda old: old[:, :3]), "5 extrinsics but 3 intrinsics"),
        (changed(extrinsics=lambda old: old[0, 0].tolist()), r"extrinsics have shape \(3, 4\)"),
        (changed(intrinsics=lambda old: "none"), "intrinsics are not an array of numbers"),
        (changed(depth=lambda old: old[..., None]), r"depth has shape \(5, 480, 640, 1\)"),
        (changed(depth=lambda old: None), r"depth has shape \(\)"),
    ],
)
def test_rejects_geometries_without_valid_poses(da3, input_error, make, message):
    with pytest.raises(input_error, match=message):
        da3.cameras_from_da3(make(), 640, 480)


def test_adapter_tells_the_kinds_of_cameras_apart(pack, input_error):
    adapters = pack("nodes.adapters")
    cameras = known_cameras()
    geometry = geometry_of(cameras)
    restored = adapters.cameras_from_socket(geometry, 640, 480)
    torch.testing.assert_close(restored.world_to_camera, cameras.world_to_camera, atol=1e-5, rtol=0)
    own = adapters.cameras_in_own_size(geometry)
    assert (own.width, own.height) == (640, 480)
    infos = pack("nodes.load3d").viewer_cameras(cameras)
    from_list = adapters.cameras_from_socket(infos, 640, 480)
    torch.testing.assert_close(from_list.intrinsics, cameras.intrinsics, atol=1e-2, rtol=0)
    assert len(adapters.cameras_from_socket(infos[2], 640, 480)) == 1
    assert adapters.cameras_in_own_size(infos).width == adapters.VIEWER_SIZE_PX
    with pytest.raises(input_error, match="cameras is str"):
        adapters.cameras_from_socket("none", 8, 8)
