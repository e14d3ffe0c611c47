"""The axes in a written transforms.json, read by a formula of its own rather than by our reader."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.io.views.transforms_json import write_views
from nova3d_core.rendering.views import render_views

RED_POINT = (-0.1, 0.15, -0.05)  # the middle of the L-solid's red side, which faces +X
FOOT_TIP = (0.35, -0.35, 0.3)  # near the end of the foot, on its front


@pytest.fixture(scope="module")
def l_folder(l_solid, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("l") / "views"
    rig = RigConfig(count=8, elevation_deg=12.0, width_px=160, height_px=120)
    return write_views(render_views(l_solid, orbit_cameras(rig)).views, folder)


def pixel_of(point: tuple[float, float, float], document: dict, frame: dict) -> tuple[int, int]:
    """Column and row of a world point: an OpenGL camera looks along its -Z, y grows upward."""
    to_camera = np.linalg.inv(np.array(frame["transform_matrix"]))
    x, y, z = (to_camera @ [*point, 1.0])[:3]
    assert z < 0, "the object lies in front of the camera"
    column = document["cx"] + document["fl_x"] * x / -z
    row = document["cy"] - document["fl_y"] * y / -z
    return int(column), int(row)


def test_the_red_side_is_where_the_files_matrix_says(l_folder):
    document = json.loads((l_folder / "transforms.json").read_text())
    seen = {}
    for frame in document["frames"]:
        column, row = pixel_of(RED_POINT, document, frame)
        image = np.asarray(Image.open(l_folder / frame["file_path"]))
        seen[round(frame["azimuth_deg"])] = image[row, column].tolist() == [255, 0, 0]
    # the side faces +X: seen from around azimuth 90, hidden from around 270; 0 and 180 graze it
    assert [seen[azimuth] for azimuth in (45, 90, 135)] == [True] * 3
    assert [seen[azimuth] for azimuth in (225, 270, 315)] == [False] * 3


def test_masks_and_normals_share_the_images_pixels(l_folder):
    document = json.loads((l_folder / "transforms.json").read_text())
    front = document["frames"][0]
    column, row = pixel_of(FOOT_TIP, document, front)
    assert np.asarray(Image.open(l_folder / front["mask_path"]))[row, column] == 255
    normal = np.asarray(Image.open(l_folder / front["normal_path"]))[row, column] / 255 * 2 - 1
    assert document["normal_frame"] == "world"
    np.testing.assert_allclose(normal, [0.0, 0.0, 1.0], atol=0.01)


def test_the_written_world_is_y_up(l_folder):
    document = json.loads((l_folder / "transforms.json").read_text())
    assert document["world_up"] == "+Y"
    for frame in document["frames"]:
        matrix = np.array(frame["transform_matrix"])
        assert matrix[1, 1] > 0.9  # the camera's up has a large share of +Y
        position = matrix[:3, 3]
        azimuth = np.degrees(np.arctan2(position[0], position[2])) % 360
        assert azimuth == pytest.approx(frame["azimuth_deg"] % 360, abs=1e-3)
        assert np.degrees(np.arcsin(position[1] / 2.2)) == pytest.approx(12.0, abs=1e-3)
