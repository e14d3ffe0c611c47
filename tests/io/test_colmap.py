"""COLMAP models, written here after its documentation, read as views."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation

from nova3d_core.errors import InputError
from nova3d_core.io.views.transforms_json import read_views

NUMBERS = {
    "SIMPLE_PINHOLE": 0, "PINHOLE": 1, "SIMPLE_RADIAL": 2, "RADIAL": 3, "OPENCV": 4,
    "OPENCV_FISHEYE": 5, "FULL_OPENCV": 6, "FOV": 7, "SIMPLE_RADIAL_FISHEYE": 8,
    "RADIAL_FISHEYE": 9, "THIN_PRISM_FISHEYE": 10, "SIMPLE_FISHEYE": 14,
}  # fmt: skip
"""Of src/colmap/sensor/models.h."""
SIZE = (24, 18)


@dataclass
class Shot:
    """One image of a model, with its world-to-camera pose (OpenCV axes)."""

    name: str
    rotation: np.ndarray
    translation: np.ndarray
    camera: int = 1
    points: tuple[tuple[float, float, int], ...] = ()


def shots(count: int = 4) -> list[Shot]:
    """Upright cameras on a ring in a world with -Y up, looking at the origin."""
    found = []
    for index in range(count):
        rotation = Rotation.from_euler("YX", [360 * index / count, -15], degrees=True)
        world_to_camera = rotation.inv().as_matrix()
        centre = rotation.as_matrix() @ np.array([0.0, 0.0, -3.0])
        points = tuple((1.5 * i, 2.5 * i, i if i % 2 else -1) for i in range(index))
        name = f"ring/photo_{index}.png"
        found.append(Shot(name, world_to_camera, -world_to_camera @ centre, 1, points))
    return found


CAMERAS = {1: ("SIMPLE_RADIAL", *SIZE, (30.0, 11.0, 9.5, 0.0))}


def quaternion(shot: Shot) -> list[float]:
    x, y, z, w = Rotation.from_matrix(shot.rotation).as_quat()
    return [w, x, y, z]


def write_text(model: Path, cameras: dict, images: list[Shot]) -> None:
    model.mkdir(parents=True, exist_ok=True)
    lines = ["# Camera list with one line of data per camera:", "#   CAMERA_ID, MODEL, ..."]
    for number, (name, width, height, parameters) in cameras.items():
        lines.append(f"{number} {name} {width} {height} {' '.join(map(repr, parameters))}")
    (model / "cameras.txt").write_text("\n".join(lines) + "\n")
    lines = ["# Image list with two lines of data per image:", f"# Number of images: {len(images)}"]
    for number, shot in enumerate(images, 7):
        pose = " ".join(repr(float(v)) for v in (*quaternion(shot), *shot.translation))
        lines.append(f"{number} {pose} {shot.camera} {shot.name}")
        lines.append(" ".join(f"{x} {y} {point}" for x, y, point in shot.points))
    (model / "images.txt").write_text("\n".join(lines) + "\n")


def binary_cameras(cameras: dict) -> bytes:
    content = struct.pack("<Q", len(cameras))
    for number, (name, width, height, parameters) in cameras.items():
        content += struct.pack("<IiQQ", number, NUMBERS[name], width, height)
        content += struct.pack(f"<{len(parameters)}d", *parameters)
    return content


def binary_images(images: list[Shot]) -> bytes:
    content = struct.pack("<Q", len(images))
    for number, shot in enumerate(images, 7):
        content += struct.pack("<I7d", number, *quaternion(shot), *shot.translation)
        content += struct.pack("<I", shot.camera) + shot.name.encode() + b"\0"
        content += struct.pack("<Q", len(shot.points))
        for x, y, point in shot.points:
            content += struct.pack("<ddQ", x, y, point % 2**64)
    return content


def write_binary(model: Path, cameras: dict, images: list[Shot]) -> None:
    model.mkdir(parents=True, exist_ok=True)
    (model / "cameras.bin").write_bytes(binary_cameras(cameras))
    (model / "images.bin").write_bytes(binary_images(images))


WRITERS = {"text": write_text, "binary": write_binary}


def save_photo(path: Path, size: tuple[int, int] = SIZE) -> None:
    """Saves noise on white, seeded by the name."""
    pixels = np.full((size[1], size[0], 3), 255, dtype=np.uint8)
    noise = np.random.default_rng(len(path.name) + ord(path.stem[-1])).integers(0, 200, (6, 8, 3))
    pixels[6:12, 8:16] = noise
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def workspace(
    folder: Path,
    form: str = "binary",
    model: str = "sparse/0",
    cameras: dict | None = None,
    images: list[Shot] | None = None,
) -> Path:
    """A COLMAP workspace."""
    images, cameras = images or shots(), cameras or CAMERAS
    WRITERS[form](folder / model, cameras, images)
    for shot in images:
        save_photo(folder / "images" / shot.name, cameras[shot.camera][1:3])
    return folder


def read_error(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_views(folder)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    return message


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("model", ["sparse/0", "sparse", "."])
def test_cameras_project_like_colmap(tmp_path, form, model):
    views = read_views(workspace(tmp_path / "set", form, model))
    assert (len(views), views.cameras.width, views.cameras.height) == (4, *SIZE)
    points = np.random.default_rng(0).normal(size=(20, 3)) * 0.4
    # from -Y up to +Y up: x, -y, -z
    pixels, depths = views.cameras.project(torch.from_numpy(points * [1, -1, -1]).float())
    for view, shot in enumerate(shots()):
        x, y, z = shot.rotation @ points.T + shot.translation[:, None]
        expected = np.stack([30.0 * x / z + 11.0, 30.0 * y / z + 9.5], axis=1)
        assert np.abs(pixels[view].numpy() - expected).max() < 1e-3
        assert np.abs(depths[view].numpy() - z).max() < 1e-5
    assert torch.allclose(views.cameras.elevation_deg, torch.tensor(15.0), atol=1e-3)


def test_text_and_binary_models_are_equal(tmp_path):
    cameras = {1: CAMERAS[1], 9: ("PINHOLE", *SIZE, (31.0, 29.0, 12.5, 8.0))}
    images = [replace(shot, camera=1 + 8 * (i % 2)) for i, shot in enumerate(shots(5))]
    mixed = [images[i] for i in (3, 0, 4, 1, 2)]  # COLMAP does not sort images
    text = read_views(workspace(tmp_path / "text", "text", "sparse", cameras, images))
    binary = read_views(workspace(tmp_path / "binary", "binary", "sparse/0", cameras, mixed))
    assert torch.equal(text.colour, binary.colour)
    assert torch.equal(text.cameras.world_to_camera, binary.cameras.world_to_camera)
    assert torch.equal(text.cameras.intrinsics, binary.cameras.intrinsics)
    assert text.cameras.intrinsics[:, 0, 0].tolist() == [30.0, 31.0, 30.0, 31.0, 30.0]
    for view, shot in enumerate(images):
        photo = np.array(Image.open(tmp_path / "text" / "images" / shot.name)) / 255
        assert np.abs(text.colour[view].numpy() - photo).max() < 1e-6


def test_binary_model_takes_precedence_as_in_colmap(tmp_path):
    folder = workspace(tmp_path / "set", "binary")
    write_text(folder / "sparse" / "0", CAMERAS, shots(2))
    assert len(read_views(folder)) == 4


def test_model_folder_can_be_read_directly(tmp_path):
    folder = workspace(tmp_path / "set", "binary")
    whole, own = read_views(folder), read_views(folder / "sparse" / "0")
    assert torch.equal(whole.colour, own.colour)


def test_one_of_several_models_is_read_with_a_warning(tmp_path, caplog):
    folder = workspace(tmp_path / "set")
    write_binary(folder / "sparse" / "1", CAMERAS, shots(2))
    assert len(read_views(folder)) == 4
    assert "has 2 models: only 0 is read" in caplog.text


@pytest.mark.parametrize("name", ["{}.png", "{stem}.png", "{}"])
def test_masks_next_to_the_images(tmp_path, name):
    folder = workspace(tmp_path / "set")
    assert read_views(folder).masks is None
    expected = []
    for index, shot in enumerate(shots()):
        mask = np.zeros((SIZE[1], SIZE[0]), dtype=np.uint8)
        mask[5:12, 6 : 10 + index] = 255
        path = folder / "masks" / name.format(shot.name, stem=shot.name[:-4])
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path)
        expected.append(mask / 255)
    assert np.array_equal(read_views(folder).masks.numpy(), np.array(expected, dtype=np.float32))
    path.unlink()
    assert "photo_3.png" in read_error(folder)


EQUAL = {
    "SIMPLE_PINHOLE": ((30.0, 12.0, 9.0), {}),
    "PINHOLE": ((30.0, 28.0, 12.0, 9.0), {}),
    "SIMPLE_RADIAL": ((30.0, 12.0, 9.0, -0.2), {"k1": -0.2}),
    "RADIAL": ((30.0, 12.0, 9.0, -0.2, 0.05), {"k1": -0.2, "k2": 0.05}),
    "OPENCV": (
        (30.0, 28.0, 12.0, 9.0, -0.2, 0.05, 0.01, -0.02),
        {"k1": -0.2, "k2": 0.05, "p1": 0.01, "p2": -0.02},
    ),
    "OPENCV_FISHEYE": (
        (30.0, 28.0, 12.0, 9.0, 0.02, 0.01, -0.01, 0.001),
        {"k1": 0.02, "k2": 0.01, "k3": -0.01, "k4": 0.001},
    ),
    "SIMPLE_RADIAL_FISHEYE": ((30.0, 12.0, 9.0, 0.03), {"k1": 0.03}),
    "RADIAL_FISHEYE": ((30.0, 12.0, 9.0, 0.03, -0.01), {"k1": 0.03, "k2": -0.01}),
    "SIMPLE_FISHEYE": ((30.0, 12.0, 9.0), {}),
    "FULL_OPENCV": (
        (30.0, 28.0, 12.0, 9.0, -0.2, 0.05, 0.01, -0.02, 0.004, 0.0, 0.0, 0.0),
        {"k1": -0.2, "k2": 0.05, "p1": 0.01, "p2": -0.02, "k3": 0.004},
    ),
}


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("model", EQUAL)
def test_distortion_equals_that_of_a_transforms_json(tmp_path, form, model):
    parameters, coefficients = EQUAL[model]
    cameras = {1: (model, *SIZE, parameters)}
    views = read_views(workspace(tmp_path / "set", form, cameras=cameras))
    own_y = not model.startswith(("SIMPLE", "RADIAL"))
    content = {
        "camera_model": "OPENCV_FISHEYE" if "FISHEYE" in model else "OPENCV",
        "fl_x": 30.0,
        "fl_y": 28.0 if own_y else 30.0,
        "cx": 12.0,
        "cy": 9.0,
        **coefficients,
        "frames": [],
    }
    for shot in shots():
        pose = np.eye(4)
        pose[:3, :3] = shot.rotation.T @ np.diag([1, -1, -1])
        pose[:3, 3] = -shot.rotation.T @ shot.translation
        frame = {"file_path": f"images/{shot.name}", "transform_matrix": pose.tolist()}
        content["frames"].append(frame)
    path = tmp_path / "set" / "other.json"
    path.write_text(json.dumps(content))
    same = read_views(path)
    assert torch.equal(views.cameras.intrinsics, same.cameras.intrinsics)
    assert torch.allclose(views.cameras.world_to_camera, same.cameras.world_to_camera, atol=1e-6)
    assert torch.equal(views.colour, same.colour)


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize(
    ("model", "parameters", "fragment"),
    [
        ("FOV", (30.0, 30.0, 12.0, 9.0, 0.9), "camera_model is 'FOV'"),
        ("THIN_PRISM_FISHEYE", (30.0, 30.0, 12.0, 9.0, *[0.0] * 8), "'THIN_PRISM_FISHEYE'"),
        ("FULL_OPENCV", (30.0, 28.0, 12.0, 9.0, *[0.0] * 5, 0.1, 0.0, 0.0), "k4 is 0.1"),
        ("FULL_OPENCV", (30.0, 28.0, 12.0, 9.0, *[0.0] * 7, 0.1), "'k6' is 0.1"),
        ("RADIAL", (30.0, 12.0, 9.0, -2.0, 0.0), "folds back"),
        ("SIMPLE_PINHOLE", (math.nan, 12.0, 9.0), "fl_x is nan"),
        ("SIMPLE_PINHOLE", (0.0, 12.0, 9.0), "fl_x is 0"),
    ],
)
def test_unsupported_camera_models_are_rejected_by_name(
    tmp_path, form, model, parameters, fragment
):
    folder = workspace(tmp_path / "set", form, cameras={1: (model, *SIZE, parameters)})
    message = read_error(folder)
    assert fragment in message and "photo_0.png" in message


def test_unsupported_camera_without_images_is_ignored(tmp_path):
    cameras = {2: ("FOV", 9, 9, (1.0, 1.0, 1.0, 1.0, 1.0)), **CAMERAS}
    assert len(read_views(workspace(tmp_path / "set", cameras=cameras))) == 4


def test_quaternions_are_normalised(tmp_path):
    folder = workspace(tmp_path / "set", "text")
    expected = read_views(folder).cameras.world_to_camera
    path = folder / "sparse" / "0" / "images.txt"
    lines = path.read_text().splitlines()
    words = lines[2].split()
    words[1:5] = [repr(-2.0 * float(word)) for word in words[1:5]]
    path.write_text("\n".join([*lines[:2], " ".join(words), *lines[3:]]))
    assert torch.allclose(read_views(folder).cameras.world_to_camera, expected, atol=1e-6)


def test_names_with_spaces_and_crlf_line_ends(tmp_path):
    images = [replace(shot, name=f"my photo {i}.png") for i, shot in enumerate(shots())]
    folder = workspace(tmp_path / "set", "text", images=images)
    for path in (folder / "sparse" / "0").iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert len(read_views(folder)) == 4


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize(
    "name", ["../secret.png", "/etc/secret.png", "C:\\secret.png", "a/../../secret.png", "link.png"]
)
def test_image_names_outside_the_folder_are_rejected(tmp_path, form, name):
    folder = workspace(tmp_path / "set", form)
    save_photo(tmp_path / "secret.png")
    save_photo(tmp_path / "set" / "secret.png")
    (folder / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    images = [*shots(), replace(shots()[0], name=name, translation=np.ones(3))]
    WRITERS[form](folder / "sparse" / "0", CAMERAS, images)
    assert "points outside the folder" in read_error(folder)


def test_missing_image(tmp_path):
    folder = workspace(tmp_path / "set")
    (folder / "images" / "ring" / "photo_2.png").unlink()
    assert "photo_2.png" in read_error(folder)
    (folder / "images" / "ring").rename(folder / "images" / "other")
    message = read_error(folder)
    assert "there is no image 'ring/photo_0.png'" in message and "next to sparse" in message


def test_missing_camera_and_duplicate_image(tmp_path):
    folder = workspace(tmp_path / "set")
    images = [replace(shots()[0], camera=44), *shots()[1:]]
    write_binary(folder / "sparse" / "0", CAMERAS, images)
    assert "has camera 44, which the model does not have" in read_error(folder)
    write_binary(folder / "sparse" / "0", CAMERAS, [*shots(), shots()[1]])
    assert "'ring/photo_1.png' twice" in read_error(folder)


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin"])
def test_truncated_binary_files_are_errors(tmp_path, name):
    folder = workspace(tmp_path / "set")
    path = folder / "sparse" / "0" / name
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        message = read_error(folder)
        assert name in message


@pytest.mark.parametrize(
    ("name", "content", "fragment"),
    [
        ("cameras.bin", struct.pack("<Q", 2**63), "declares 9223372036854775808 entries"),
        ("images.bin", struct.pack("<Q", 2**40), "declares 1099511627776 entries"),
        ("images.bin", struct.pack("<Q", 0), "has no images"),
        ("cameras.bin", struct.pack("<QIiQQ", 1, 1, 99, 8, 6), "unknown model 99"),
        ("cameras.bin", struct.pack("<QIiQQ", 1, 1, -1, 8, 6), "unknown model -1"),
        ("images.bin", struct.pack("<QI7dI", 1, 1, *[0.5] * 7, 1) + b"x" * 9000, "has no end"),
        (
            "images.bin",
            struct.pack("<QI7dI", 1, 1, *[0.5] * 7, 1) + b"x.png\0" + struct.pack("<Q", 2**61),
            "declares 2305843009213693952 entries",
        ),
    ],
)
def test_counts_in_binary_files_are_checked_against_the_size(tmp_path, name, content, fragment):
    folder = workspace(tmp_path / "set")
    (folder / "sparse" / "0" / name).write_bytes(content)
    assert fragment in read_error(folder)


@pytest.mark.parametrize(
    ("name", "content", "fragment"),
    [
        ("cameras.txt", "1 PINHOLE 24 18 30 30 12", "has 3 parameters, expected 4 (fx fy cx cy)"),
        ("cameras.txt", "1 PINHOLE 24.5 18 30 30 12 9", "line 1: "),
        ("cameras.txt", "1 PINHOLE 24 18 30 thirty 12 9", "line 1: "),
        ("cameras.txt", "1 HOLE 24 18 30 30 12 9", "is not a supported camera"),
        ("cameras.txt", "1 PINHOLE", "is not a supported camera"),
        ("cameras.txt", "", "has camera 1, which the model does not have"),
        ("images.txt", "# nothing\n\n", "has no images"),
        ("images.txt", "1 1 0 0 0 0 0 3 1", "line 1: '1 1 0 0 0 0 0 3 1' is not an image"),
        ("images.txt", "1 1 0 0 0 0 0 x 1 ring/photo_0.png\n", "line 1: "),
        ("images.txt", "1 0 0 0 0 0 0 3 1 ring/photo_0.png\n", "expected a unit quaternion"),
        ("images.txt", "1 nan 0 0 0 0 0 3 1 ring/photo_0.png\n", "expected a unit quaternion"),
        ("images.txt", "1 1 0 0 0 0 0 1e999 1 ring/photo_0.png\n", "expected a finite number"),
        ("images.txt", "1 1 0 0 0 0 0 3 1 " + "x" * 9000, "not a usable path"),
    ],
)
def test_errors_in_text_files_name_the_line(tmp_path, name, content, fragment):
    folder = workspace(tmp_path / "set", "text")
    (folder / "sparse" / "0" / name).write_text(content)
    assert fragment in read_error(folder)


def test_missing_point_lines_do_not_skip_images(tmp_path):
    folder = workspace(tmp_path / "set", "text")
    path = folder / "sparse" / "0" / "images.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], *lines[2::2]]))
    assert "line 4: expected the points of image 'ring/photo_0.png'" in read_error(folder)


def test_wrong_image_count_is_a_warning(tmp_path, caplog):
    folder = workspace(tmp_path / "set", "text")
    path = folder / "sparse" / "0" / "images.txt"
    path.write_text("\n".join(path.read_text().splitlines()[:6]))
    assert len(read_views(folder)) == 2
    assert "declares 4 images but has 2" in caplog.text


def test_sparse_folder_without_a_model(tmp_path):
    (tmp_path / "sparse").mkdir()
    assert "without a COLMAP model" in read_error(tmp_path)


def test_tilted_model_gets_a_hint(tmp_path, caplog):
    tilt = Rotation.from_euler("xz", [50, 40], degrees=True).as_matrix()
    images = [replace(shot, rotation=shot.rotation @ tilt) for shot in shots()]
    read_views(workspace(tmp_path / "set", images=images))
    assert "no axis matches" in caplog.text and "model_orientation_aligner" in caplog.text


def test_transforms_json_takes_precedence_over_its_colmap_model(tmp_path):
    folder = workspace(tmp_path / "set")
    pose = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 3], [0, 0, 0, 1]]
    frame = {"file_path": "images/ring/photo_0.png", "transform_matrix": pose}
    (folder / "transforms.json").write_text(json.dumps({"fl_x": 30.0, "frames": [frame]}))
    assert len(read_views(folder)) == 1


def test_cameras_of_several_sizes(tmp_path):
    large = (48, 36)
    cameras = {
        1: ("PINHOLE", *SIZE, (30.0, 30.0, 12.0, 9.0)),
        2: ("PINHOLE", *large, (60.0, 60.0, 24.0, 18.0)),
    }
    images = [replace(shot, camera=1 + i % 2) for i, shot in enumerate(shots())]
    views = read_views(workspace(tmp_path / "set", cameras=cameras, images=images))
    assert (views.cameras.width, views.cameras.height) == large
    assert torch.equal(views.cameras.intrinsics[0], views.cameras.intrinsics[1])


def try_read(folder: Path) -> tuple[bool, str]:
    """Whether a folder is read with finite cameras, and the error message if not."""
    try:
        cameras = read_views(folder).cameras
    except InputError as error:
        return False, str(error)
    return bool(torch.isfinite(cameras.world_to_camera).all()), ""


def test_mutated_files_are_read_or_rejected(tmp_path):
    random = np.random.default_rng(5)
    for form in WRITERS:
        folder = workspace(tmp_path / form, form)
        for path in sorted((folder / "sparse" / "0").iterdir()):
            whole = path.read_bytes()
            for _ in range(40):
                content = bytearray(whole)
                for position in random.integers(0, len(content), random.integers(1, 4)):
                    content[position] = random.integers(0, 256)
                path.write_bytes(content)
                is_read, message = try_read(folder)
                assert is_read or (len(message) < 500 and "\n" not in message)
            path.write_bytes(whole)
