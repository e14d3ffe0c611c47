"""World up axis: all six axes, declared or guessed, and warnings for doubtful guesses."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from nova3d_core.conventions import UP_AXES, Y_UP_ROTATIONS
from nova3d_core.errors import InputError
from nova3d_core.io.mesh.read import read_mesh
from nova3d_core.io.mesh.write import write_mesh
from nova3d_core.io.views.transforms_json import read_views

AXES = {"X": 0, "Y": 1, "Z": 2}


def axis_vector(axis: str) -> torch.Tensor:
    vector = torch.zeros(3, dtype=torch.float64)
    vector[AXES[axis[1]]] = 1.0 if axis[0] == "+" else -1.0
    return vector


def orbit(up: torch.Tensor, elevations_deg: tuple[float, ...], count: int = 8) -> list:
    """OpenGL cameras on an orbit around the origin, without roll, in a world with up axis `up`."""
    up = up / up.norm()
    start = torch.linalg.cross(up, torch.tensor([0.3, 0.5, 0.8], dtype=torch.float64))
    start = start / start.norm()
    side = torch.linalg.cross(up, start)
    poses = []
    for index in range(count):
        azimuth = 2 * math.pi * index / count
        elevation = math.radians(elevations_deg[index % len(elevations_deg)])
        flat = math.cos(azimuth) * start + math.sin(azimuth) * side
        back = math.cos(elevation) * flat + math.sin(elevation) * up
        right = torch.linalg.cross(up, back)
        right = right / right.norm()
        pose = torch.eye(4, dtype=torch.float64)
        pose[:3, :4] = torch.stack([right, torch.linalg.cross(back, right), back, 3 * back], dim=1)
        poses.append(pose.tolist())
    return poses


def write_folder(folder: Path, poses: list, **keys) -> Path:
    folder.mkdir()
    frames = []
    for index, pose in enumerate(poses):
        Image.new("RGB", (8, 6), "white").save(folder / f"{index}.png")
        frames.append({"file_path": f"{index}.png", "transform_matrix": pose})
    content = {"fl_x": 10.0, **keys, "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder


def test_every_axis_has_a_rotation_to_y_up():
    assert set(UP_AXES) == set(Y_UP_ROTATIONS) == {"+X", "-X", "+Y", "-Y", "+Z", "-Z"}
    for axis, rows in Y_UP_ROTATIONS.items():
        rotation = torch.tensor(rows, dtype=torch.float64)
        assert (rotation @ axis_vector(axis)).tolist() == [0.0, 1.0, 0.0]
        assert torch.equal(rotation @ rotation.T, torch.eye(3, dtype=torch.float64))
        assert float(torch.linalg.det(rotation)) == pytest.approx(1.0)


@pytest.mark.parametrize("axis", UP_AXES)
@pytest.mark.parametrize("declared", [True, False])
def test_cameras_are_upright(tmp_path, caplog, axis, declared):
    caplog.set_level(logging.INFO)
    poses = orbit(axis_vector(axis), (20.0, 40.0))
    keys = {"world_up": axis} if declared else {}
    cameras = read_views(write_folder(tmp_path / "set", poses, **keys)).cameras
    expected = torch.tensor([20.0, 40.0]).repeat(4)
    assert torch.allclose(cameras.elevation_deg, expected, atol=1e-3)
    heights = 3 * torch.sin(torch.deg2rad(expected))
    assert torch.allclose(cameras.positions[:, 1], heights, atol=1e-5)
    # rotated, not reflected: the orbit is still counter-clockwise seen from above
    steps = cameras.azimuth_deg.diff() % 360
    assert torch.allclose(steps, torch.tensor(45.0), atol=1e-3)
    expected = f"{axis}, as declared by the file" if declared else f"taken as {axis}"
    assert f"world up is {expected}" in caplog.text
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_opencv_axes_give_a_front_view(tmp_path):
    """As in COLMAP and OpenCV, the first camera at the origin looks along +Z with -Y up."""
    first = [[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]]
    other = [[1, 0, 0, 1], [0, -1, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]]
    cameras = read_views(write_folder(tmp_path / "set", [first, other])).cameras
    assert torch.allclose(cameras.azimuth_deg[0] % 360, torch.tensor(0.0))
    assert torch.allclose(-cameras.rotation[0, 1], torch.tensor([0.0, 1.0, 0.0]))


@pytest.mark.parametrize(
    ("up", "elevations", "angle"),
    [
        ((0.0, 1.0, 1.2), (10.0,), "40 degrees off"),
        ((1.0, 1.0, 1.0), (10.0,), "55 degrees off"),
        ((0.0, 0.0, 1.0), (75.0,), "0 degrees off"),  # steep: the up vectors disagree
    ],
)
def test_world_up_without_matching_axis_is_a_warning(tmp_path, caplog, up, elevations, angle):
    poses = orbit(torch.tensor(up, dtype=torch.float64), elevations)
    read_views(write_folder(tmp_path / "set", poses))
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    message = record.getMessage()
    assert "no axis matches" in message and angle in message
    assert "add world_up to the file" in message


def test_declared_axes_give_no_warning(tmp_path, caplog):
    poses = orbit(torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64), (10.0,))
    read_views(write_folder(tmp_path / "set", poses, world_up="-X"))
    assert not caplog.records


@pytest.mark.parametrize("up", ["Y", "+y", "up", 5, ["+Y"], {"axis": "+Y"}, "x" * 5000])
def test_unknown_values_are_rejected(tmp_path, up):
    poses = orbit(axis_vector("+Y"), (10.0,))
    folder = write_folder(tmp_path / "set", poses, world_up=up)
    with pytest.raises(InputError, match="world_up is") as caught:
        read_views(folder)
    assert "+X" in str(caught.value) and "-Z" in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("axis", UP_AXES)
def test_meshes_rotate_the_same_way(tmp_path, l_solid, axis):
    rotation = torch.tensor(Y_UP_ROTATIONS[axis])
    path = write_mesh(l_solid, tmp_path / "l.glb")
    plain, rotated = read_mesh(path), read_mesh(path, axis)
    assert torch.allclose(rotated.vertices, plain.vertices @ rotation.T, atol=1e-6)
    assert torch.equal(rotated.faces, plain.faces)
