"""Axes of a written transforms.json, checked by an independent formula."""

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


def project_to_pixel(
    point: tuple[float, float, float], document: dict, frame: dict
) -> tuple[int, int]:
    """Column and row of a world point: an OpenGL camera looks along -Z, +Y is up."""
    to_camera = np.linalg.inv(np.array(frame["transform_matrix"]))
    x, y, z = (to_camera @ [*point, 1.0])[:3]
    assert z < 0, "the object lies in front of the camera"
    column = document["cx"] + document["fl_x"] * x / -z
    row = document["cy"] - document["fl_y"] * y / -z
    return int(column), int(row)


def test_red_side_matches_the_transform_matrix(l_folder):
    document = json.loads((l_folder / "transforms.json").read_text())
    seen = {}
    for frame in document["frames"]:
        column, row = project_to_pixel(RED_POINT, document, frame)
        image = np.asarray(Image.open(l_folder / frame["file_path"]))
        seen[round(frame["azimuth_deg"])] = image[row, column].tolist() == [255, 0, 0]
    # the side faces +X: visible around azimuth 90, hidden around 270, grazing at 0 and 180
    assert [seen[azimuth] for azimuth in (45, 90, 135)] == [True] * 3
    assert [seen[azimuth] for azimuth in (225, 270, 315)] == [False] * 3


def test_masks_and_normals_match_the_image_pixels(l_folder):
    document = json.loads((l_folder / "transforms.json").read_text())
    front = document["frames"][0]
    column, row = project_to_pixel(FOOT_TIP, document, front)
    assert np.asarray(Image.open(l_folder / front["mask_path"]))[row, column] == 255
    normal = np.asarray(Image.open(l_folder / front["normal_path"]))[row, column] / 255 * 2 - 1
    assert document["normal_frame"] == "world"
    np.testing.assert_allclose(normal, [0.0, 0.0, 1.0], atol=0.01)


def test_written_world_is_y_up(l_folder):
    document = json.loads((l_folder / "transforms.json").read_text())
    assert document["world_up"] == "+Y"
    for frame in document["frames"]:
        matrix = np.array(frame["transform_matrix"])
        assert matrix[1, 1] > 0.9  # the camera's up vector is close to +Y
        position = matrix[:3, 3]
        azimuth = np.degrees(np.arctan2(position[0], position[2])) % 360
        assert azimuth == pytest.approx(frame["azimuth_deg"] % 360, abs=1e-3)
        assert np.degrees(np.arcsin(position[1] / 2.2)) == pytest.approx(12.0, abs=1e-3)
