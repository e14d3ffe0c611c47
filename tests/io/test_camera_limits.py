"""Camera positions and intrinsics out of range are rejected by all readers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import InputError
from nova3d_core.io.images.images import write_image
from nova3d_core.io.views.transforms_json import read_views, write_views
from nova3d_core.views import Views


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    cameras = orbit_cameras(RigConfig(count=2, width_px=8, height_px=8))
    masks = torch.zeros(2, 8, 8)
    masks[:, 2:6, 2:6] = 1.0
    return write_views(Views(cameras, torch.rand(2, 8, 8, 3), masks), tmp_path / "views")


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("fl_x", 1e38, "focal length or principal point is 1e+38 px"),
        ("cx", -1e30, "focal length or principal point is 1e+30 px"),
        ("camera_angle_x", 1e-12, "focal length or principal point is 8e+12 px"),
    ],
)
def test_transforms_json_intrinsics_out_of_range(folder, key, value, what):
    path = folder / "transforms.json"
    content = json.loads(path.read_text())
    if key == "camera_angle_x":
        del content["fl_x"], content["fl_y"]
    content[key] = value
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=what.replace("+", r"\+")):
        read_views(folder)


def test_transforms_json_position_out_of_range(folder):
    path = folder / "transforms.json"
    content = json.loads(path.read_text())
    content["frames"][1]["transform_matrix"][2][3] = 1e38
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"frame 1 .* puts the camera at 1e\+38, expected at most"):
        read_views(folder)


@pytest.mark.parametrize(
    ("focal", "depth", "what"),
    [("14", "18446744073709551616", "puts the camera at"), ("1e19", "2", "focal length")],
)
def test_colmap_cameras_out_of_range(tmp_path, focal, depth, what):
    model = tmp_path / "sparse" / "0"
    model.mkdir(parents=True)
    (tmp_path / "images").mkdir()
    for name in ("0.png", "1.png"):
        write_image(tmp_path / "images" / name, torch.rand(8, 12, 3))
    (model / "cameras.txt").write_text(f"1 SIMPLE_PINHOLE 12 8 {focal} 6 4\n")
    (model / "images.txt").write_text(
        f"1 1 0 0 0 0 0 {depth} 1 0.png\n\n2 1 0 0 0 0.5 0 {depth} 1 1.png\n\n"
    )
    with pytest.raises(InputError, match=what):
        read_views(tmp_path)
