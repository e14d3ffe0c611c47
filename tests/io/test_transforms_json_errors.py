"""Every error in a folder of views gives one line naming the field and the remedy."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import InputError
from nova3d_core.io.images.images import write_image
from nova3d_core.io.views.transforms_json import read_views, write_views
from nova3d_core.views import Views

SIZE = 6


@pytest.fixture
def folder(tmp_path) -> Path:
    """A valid folder of three views with masks and normals."""
    cameras = orbit_cameras(RigConfig(count=3, width_px=SIZE, height_px=SIZE))
    masks = torch.zeros(3, SIZE, SIZE)
    masks[:, 2:4, 2:4] = 1.0
    normals = torch.zeros(3, SIZE, SIZE, 3)
    normals[:, 2:4, 2:4, 2] = 1.0
    colour = 1.0 - 0.5 * masks[..., None].expand(3, SIZE, SIZE, 3)
    return write_views(Views(cameras, colour, masks, normals, "world"), tmp_path / "views")


def edit(folder: Path, change: Callable[[dict], object]) -> None:
    """Edits the transforms.json of a folder."""
    path = folder / "transforms.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def read_error(folder: Path) -> str:
    """The error line of reading a folder."""
    with pytest.raises(InputError) as caught:
        read_views(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


def test_unmodified_folder_is_valid(folder):
    assert len(read_views(folder)) == 3


def test_missing_folder(tmp_path):
    assert "does not exist" in read_error(tmp_path / "nowhere")


def test_missing_json(folder):
    (folder / "transforms.json").unlink()
    assert "has no transforms.json" in read_error(folder)


def test_json_of_another_name_is_suggested(folder):
    (folder / "transforms.json").rename(folder / "transforms_train.json")
    assert "It has transforms_train.json: pass the path of that file." in read_error(folder)


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b'{\n"frames": [,]}', "not valid JSON: Expecting value at line 2, column 12"),
        (b"", "not valid JSON"),
        (b"\xff\xfe\x00{", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[1, 2]", "expected an object"),
        (b"null", "expected an object"),
    ],
)
def test_invalid_json(folder, content, fragment):
    (folder / "transforms.json").write_bytes(content)
    assert fragment in read_error(folder)


@pytest.mark.parametrize("frames", [None, [], {}, "three"])
def test_no_frames(folder, frames):
    edit(folder, lambda content: content.update(frames=frames))
    assert "has no frames" in read_error(folder)


def test_frame_that_is_not_an_object(folder):
    edit(folder, lambda content: content["frames"].insert(1, 7))
    assert "frame 1 is 7" in read_error(folder)


def test_frame_without_image(folder):
    edit(folder, lambda content: content["frames"][2].pop("file_path"))
    assert "frame 2 has no file_path" in read_error(folder)


@pytest.mark.parametrize("kind", ["images", "masks", "normals"])
def test_missing_image_file(folder, kind):
    (folder / kind / "001.png").unlink()
    message = read_error(folder)
    assert "frame 1" in message
    assert f"image {folder / kind / '001.png'} does not exist" in message


@pytest.mark.parametrize("kind", ["images", "masks", "normals"])
def test_truncated_image(folder, kind):
    path = folder / kind / "001.png"
    path.write_bytes(path.read_bytes()[:45])
    message = read_error(folder)
    assert str(path) in message
    assert "damaged or truncated" in message


@pytest.mark.parametrize(
    ("kind", "fragment"),
    [
        ("images", "the image is 7x6 px, but w is 6"),
        ("masks", "mask 001.png is 7x6 px, the colour image 6x6 px"),
        ("normals", "normal image 001.png is 7x6 px, the colour image 6x6 px"),
    ],
)
def test_image_of_another_size(folder, kind, fragment):
    write_image(folder / kind / "001.png", torch.ones(SIZE, SIZE + 1), overwrite=True)
    message = read_error(folder)
    assert "frame 1 (images/001.png)" in message
    assert fragment in message


def test_images_of_two_sizes_without_declared_size(folder):
    edit(folder, lambda content: [content.pop(key) for key in ("w", "h")])
    write_image(folder / "images" / "002.png", torch.ones(4, 5, 3), overwrite=True)
    message = read_error(folder)
    assert "frame 2 (images/002.png): the image is 5x4 px, the first one 6x6 px" in message


@pytest.mark.parametrize("brightest", [0.0, 1 / 255])
def test_empty_mask(folder, brightest):
    write_image(folder / "masks" / "001.png", torch.full((SIZE, SIZE), brightest), overwrite=True)
    message = read_error(folder)
    assert "frame 1 (images/001.png): the mask is empty" in message
    assert f"{brightest * 255:.0f} of 255" in message


def test_full_mask(folder):
    write_image(folder / "masks" / "001.png", torch.ones(SIZE, SIZE), overwrite=True)
    message = read_error(folder)
    assert "frame 1 (images/001.png): the mask is full" in message
    assert "visible background" in message


def test_masks_for_some_frames_only(folder):
    edit(folder, lambda content: content["frames"][1].pop("mask_path"))
    message = read_error(folder)
    assert "frame 1 (images/001.png) has no mask (no mask_path, no transparent pixels)" in message
    assert "1 of 3" in message


def test_normals_for_some_frames_only(folder):
    edit(folder, lambda content: content["frames"][2].pop("normal_path"))
    assert "frame 2 (images/002.png) has no normal_path" in read_error(folder)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", '"one"', "true", "null", "[]"])
def test_matrix_with_non_numbers(folder, number):
    path = folder / "transforms.json"
    edit(folder, lambda content: content["frames"][1]["transform_matrix"][2].__setitem__(3, 4321))
    path.write_text(path.read_text().replace("4321", number))
    message = read_error(folder)
    assert "frame 1 (images/001.png): transform_matrix[2][3]" in message
    assert "expected a finite number" in message


@pytest.mark.parametrize(
    "rows", [None, 5, [], [[1, 0, 0]] * 3, [[1, 0, 0, 0]] * 2, [[1, 0, 0, 0]] * 5, [1, 2, 3, 4]]
)
def test_matrix_of_wrong_shape(folder, rows):
    edit(folder, lambda content: content["frames"][1].update(transform_matrix=rows))
    message = read_error(folder)
    assert "frame 1 (images/001.png): transform_matrix" in message
    assert "expected 4 rows of 4 numbers" in message


@pytest.mark.parametrize(
    ("rows", "fragment"),
    [
        ([[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 1]], "not orthonormal"),
        ([[1, 0.1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]], "not orthonormal"),
        ([[-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]], "mirrors"),
        ([[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], "not orthonormal"),
        ([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, -2, 1]], "last row"),
    ],
)
def test_non_rigid_matrix(folder, rows, fragment):
    edit(folder, lambda content: content["frames"][1].update(transform_matrix=rows))
    message = read_error(folder)
    assert "frame 1 (images/001.png): transform_matrix is not rigid" in message
    assert fragment in message


def test_duplicate_matrices(folder):
    def repeat(content: dict) -> None:
        matrices = [frame["transform_matrix"] for frame in content["frames"]]
        content["frames"][2]["transform_matrix"] = [
            [number + 1e-8 for number in row] for row in matrices[0]
        ]

    edit(folder, repeat)
    message = read_error(folder)
    assert "frame 2 (images/002.png) has the same transform_matrix as images/000.png" in message


@pytest.mark.parametrize("model", ["FISHEYE624", "FOV", "EQUIRECTANGULAR", 3])
def test_unknown_camera_model(folder, model):
    edit(folder, lambda content: content["frames"][1].update(camera_model=model))
    message = read_error(folder)
    assert "frame 1" in message
    assert str(model) in message
    assert "PINHOLE, SIMPLE_PINHOLE, PERSPECTIVE, SIMPLE_RADIAL" in message
    assert "OPENCV_FISHEYE" in message and "ORTHOGRAPHIC" in message


@pytest.mark.parametrize("shared", [True, False])
def test_ambiguous_distortion(folder, shared):
    edit(folder, lambda content: (content if shared else content["frames"][2]).update(k4=1e-3))
    message = read_error(folder)
    assert f"frame {0 if shared else 2} " in message
    assert "k4 is 0.001, which is undefined for the camera model OPENCV" in message
    assert "Undistort" in message


def test_mixed_perspective_and_orthographic_frames(folder):
    edit(
        folder,
        lambda content: content["frames"][1].update(camera_model="ORTHOGRAPHIC", ortho_scale=1),
    )
    assert "mixes perspective and orthographic" in read_error(folder)


def test_missing_focal_length(folder):
    edit(folder, lambda content: [content.pop(key) for key in ("fl_x", "fl_y")])
    message = read_error(folder)
    assert "frame 0 (images/000.png) has no focal length" in message
    assert "camera_angle_x" in message


def test_missing_orthographic_scale(folder):
    edit(folder, lambda content: content.update(camera_model="ORTHOGRAPHIC"))
    assert "has no ortho_scale" in read_error(folder)


@pytest.mark.parametrize(
    ("key", "value", "fragment"),
    [
        ("fl_x", 0, "expected a number above 0"),
        ("fl_x", -5.0, "expected a number above 0"),
        ("fl_y", "wide", "expected a finite number"),
        ("fl_x", 10**400, "expected a finite number"),
        ("cx", float("nan"), "expected a finite number"),
        ("w", 6.5, "the image is 6x6 px, but w is 6.5"),
        ("h", 12, "the image is 6x6 px, but h is 12"),
        ("h", -6, "expected a number above 0"),
    ],
)
def test_impossible_intrinsics(folder, key, value, fragment):
    edit(folder, lambda content: content.update({key: value}))
    message = read_error(folder)
    assert f"frame 0 (images/000.png): {key}" in message or fragment.startswith("the image")
    assert fragment in message


@pytest.mark.parametrize("angle", [0.0, 3.2, 39.6])
def test_field_of_view_not_in_radians(folder, angle):
    def replace_focal(content: dict) -> None:
        del content["fl_x"], content["fl_y"]
        content["camera_angle_x"] = angle

    edit(folder, replace_focal)
    assert f"camera_angle_x is {angle:g}" in read_error(folder)


def test_normals_without_normal_frame(folder):
    edit(folder, lambda content: content.pop("normal_frame"))
    message = read_error(folder)
    assert "no normal_frame" in message
    assert "world, camera or front_view" in message


@pytest.mark.parametrize("frame", ["tangent", "WORLD", 3, ["world"]])
def test_unknown_normal_frame(folder, frame):
    edit(folder, lambda content: content.update(normal_frame=frame))
    message = read_error(folder)
    assert "normal_frame is" in message
    assert "world, camera, front_view" in message


@pytest.mark.parametrize("up", ["z", "Y", 1, ["+Y"]])
def test_unknown_world_up(folder, up):
    edit(folder, lambda content: content.update(world_up=up))
    assert "world_up is" in read_error(folder)


@pytest.mark.parametrize("key", ["file_path", "mask_path", "normal_path"])
@pytest.mark.parametrize(
    "path",
    [
        "../secret.png",
        "images/../../secret.png",
        "images\\..\\..\\secret.png",
        "{outside}/secret.png",
        "C:\\secret.png",
        "c:secret.png",
        "\\\\server\\share\\secret.png",
        "link.png",
        "linked_folder/secret.png",
        "link",
    ],
)
def test_path_outside_the_folder(folder, tmp_path, key, path):
    write_image(tmp_path / "secret.png", torch.ones(SIZE, SIZE, 3))
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "linked_folder").symlink_to(tmp_path)
    path = path.format(outside=tmp_path)
    edit(folder, lambda content: content["frames"][1].update({key: path}))
    message = read_error(folder)
    assert "frame 1" in message
    assert f"{key} points outside the folder: {path!r}" in message


@pytest.mark.parametrize("path", ["a\0b.png", "x" * 5000, "\ud800.png", "loop/a.png", 5, ["a"]])
def test_path_that_is_not_a_string(folder, path):
    (folder / "loop").symlink_to("loop")
    edit(folder, lambda content: content["frames"][1].update(file_path=path))
    assert "frame 1: file_path" in read_error(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipe_is_rejected_without_blocking(folder):
    (folder / "images" / "001.png").unlink()
    os.mkfifo(folder / "images" / "001.png")
    assert "does not exist" in read_error(folder)
