"""Lens keys of a transforms.json: undistorted, rejected by name, or ignored."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nova3d_core.errors import InputError
from nova3d_core.io.views.transforms_json import read_views

WIDTH, HEIGHT = 200, 160
FX, FY, CX, CY = 160.0, 150.0, 96.0, 83.0
LENS = {"w": WIDTH, "h": HEIGHT, "fl_x": FX, "fl_y": FY, "cx": CX, "cy": CY}
DEPTH = 3.0
DOTS = torch.tensor(
    [[x, y, 0.0] for x in (-1.2, -0.5, 0.3, 1.1) for y in (-0.9, 0.1, 0.8)], dtype=torch.float64
)
"""World points; the camera of `POSE` sees all of them at depth 3."""
POSE = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, DEPTH], [0, 0, 0, 1]]
OTHER_POSE = [[1, 0, 0, 0.1], [0, 1, 0, 0], [0, 0, 1, DEPTH], [0, 0, 0, 1]]


def bend(keys: dict, x: float, y: float) -> tuple[float, float]:
    """Distorts the ray (x, y, 1) by OpenCV's documented formulas."""
    k1, k2, k3, k4, p1, p2 = (keys.get(key, 0.0) for key in ("k1", "k2", "k3", "k4", "p1", "p2"))
    r2 = x * x + y * y
    if keys.get("is_fisheye") or "FISHEYE" in keys.get("camera_model", ""):
        r = math.sqrt(r2)
        t = math.atan(r)
        ratio = t * (1 + k1 * t**2 + k2 * t**4 + k3 * t**6 + k4 * t**8) / r
        return x * ratio, y * ratio
    ratio = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
    return (
        x * ratio + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
        y * ratio + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
    )


def photograph(keys: dict) -> Image.Image:
    """White with a dark round dot at the distorted position of each of `DOTS`."""
    u, v = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    image = np.ones((HEIGHT, WIDTH))
    for x, y, _ in DOTS.tolist():
        a, b = bend(keys, x / DEPTH, -y / DEPTH)  # OpenGL's y grows upward
        distance = np.hypot(u - (FX * a + CX), v - (FY * b + CY))
        image = np.minimum(image, np.clip(distance - 3.0, 0.0, 1.0))
    return Image.fromarray((image * 255).round().astype(np.uint8)).convert("RGB")


def folder_with(folder: Path, top: dict | None = None, frame: dict | None = None) -> Path:
    """Two frames of one photograph, with keys at the top level or in the first frame."""
    top, frame = top or {}, frame or {}
    folder.mkdir(exist_ok=True)
    photograph({**top, **frame}).save(folder / "a.png")
    photograph(top).save(folder / "b.png")
    frames = [
        {"file_path": "a.png", "transform_matrix": POSE, **frame},
        {"file_path": "b.png", "transform_matrix": OTHER_POSE},
    ]
    content = {**LENS, "world_up": "+Y", **top, "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder


def with_keys(folder: Path, keys: dict, shared: bool = True) -> Path:
    """The same photographs with more keys, at the top level or in the first frame."""
    content = json.loads((folder / "transforms.json").read_text())
    (content if shared else content["frames"][0]).update(keys)
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder


def dot_centres(image: torch.Tensor, near: torch.Tensor) -> torch.Tensor:
    """(N, 2) centroids of dark pixels within 7 px of each expected position (N, 2)."""
    dark = 1.0 - image.mean(dim=-1)
    v, u = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    positions = []
    for x, y in near.tolist():
        weight = dark * (((u - x).square() + (v - y).square()) < 49)
        positions.append(torch.stack([(weight * u).sum(), (weight * v).sum()]) / weight.sum())
    return torch.stack(positions)


def read_error(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_views(folder)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    return message


UNDERSTOOD = {
    "SIMPLE_RADIAL": {"camera_model": "SIMPLE_RADIAL", "k1": -0.15},
    "RADIAL": {"camera_model": "RADIAL", "k1": -0.2, "k2": 0.05},
    "OPENCV": {"camera_model": "OPENCV", "k1": -0.2, "k2": 0.06, "p1": 0.01, "p2": -0.008},
    "k3": {"camera_model": "OPENCV", "k1": -0.2, "k2": 0.06, "k3": -0.01, "p1": 0.0, "p2": 0.0},
    "instant-ngp": {"k1": 0.1, "k2": 0.01, "p1": 0.002, "p2": 0.001, "is_fisheye": False},
    "OPENCV_FISHEYE": {"camera_model": "OPENCV_FISHEYE", "k1": 0.02, "k2": -0.01, "k3": 0.003},
    "equidistant": {"camera_model": "OPENCV_FISHEYE"},
    "is_fisheye": {"is_fisheye": True, "k1": 0.03, "k2": -0.01, "k3": 0.002, "k4": -0.001},
}


@pytest.mark.parametrize("shared", [True, False], ids=["top", "frame"])
@pytest.mark.parametrize("name", UNDERSTOOD)
def test_undistorted_points_match_the_pinhole_projection(tmp_path, name, shared):
    keys = UNDERSTOOD[name]
    folder = folder_with(tmp_path / "set", **{"top" if shared else "frame": keys})
    views = read_views(folder)
    assert views.cameras.intrinsics[0].tolist() == [[FX, 0, CX], [0, FY, CY], [0, 0, 1]]
    expected, _ = views.cameras.project(DOTS.float())
    centres = dot_centres(views.colour[0], expected[0])
    assert float((centres - expected[0]).norm(dim=-1).max()) < 0.1
    stored = torch.from_numpy(np.array(Image.open(folder / "a.png")) / 255.0)
    bent = torch.tensor([bend(keys, x / DEPTH, -y / DEPTH) for x, y, _ in DOTS.tolist()])
    positions = bent * torch.tensor([FX, FY]) + torch.tensor([CX, CY])
    assert float((dot_centres(stored, positions) - expected[0]).norm(dim=-1).max()) > 1.0
    if not shared:  # the frame without distortion is unchanged
        untouched = torch.from_numpy(np.array(Image.open(folder / "b.png"))).float() / 255
        assert torch.equal(views.colour[1], untouched)


def test_masks_and_normals_are_undistorted(tmp_path):
    keys = UNDERSTOOD["OPENCV"]
    folder = folder_with(tmp_path / "set", keys)
    content = json.loads((folder / "transforms.json").read_text())
    dark = 255 - np.array(photograph(keys).convert("L"))
    Image.fromarray(dark).save(folder / "mask.png")
    normal = np.where(dark[..., None] > 0, np.array([128, 204, 230], dtype=np.uint8), 128)
    Image.fromarray(normal.astype(np.uint8)).save(folder / "normal.png")
    for frame in content["frames"]:
        frame |= {"mask_path": "mask.png", "normal_path": "normal.png"}
    (folder / "transforms.json").write_text(json.dumps({**content, "normal_frame": "camera"}))
    views = read_views(folder)
    expected = views.cameras.project(DOTS.float())[0][0]
    mask = views.masks[0]
    centres = dot_centres(1.0 - mask[..., None], expected)
    assert float((centres - expected).norm(dim=-1).max()) < 0.1
    direction = torch.nn.functional.normalize(torch.tensor([0.5, 76.5, 102.5]), dim=0)
    inside = mask > 0.5
    assert float((views.normals[0][inside] - direction).abs().max()) < 0.01
    assert torch.equal(views.normals[0][mask == 0], torch.zeros(int((mask == 0).sum()), 3))


HARMLESS = [
    {"camera_model": "SIMPLE_RADIAL", "k1": 0.0},
    {"camera_model": "SIMPLE_RADIAL", "k1": 9e-7},
    {"camera_model": "OPENCV", "k1": -9e-7, "k2": 9e-7, "p1": 0, "p2": -9e-7, "k3": 0, "k4": 0},
    {"k5": 0.0, "k6": 0, "s1": 0.0, "is_fisheye": False, "distortion_params": [0, 0, 0, 0, 0, 0]},
    {"rolling_shutter": [0.0, 0.0, 0.0, 0.0], "lens": "pinhole", "equirectangular": False},
    {"aabb_scale": 16, "scale": 0.33, "offset": [0.5, 0.5, 0.5], "aabb": [[0, 0, 0], [1, 1, 1]]},
    {"applied_transform": [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0]], "applied_scale": 2.0},
    {"ply_file_path": "sparse_pc.ply", "orientation_override": "none", "n_frames": 99},
    {"colmap_im_id": 7, "sharpness": 31.2, "depth_file_path": "d.png", "rotation": 0.01},
    {
        "camera_type": "perspective",
        "undistort_image": True,
        "projection": "pinhole",
        "type": "scene",
    },
    {"camera": "phone", "camera_name": "front", "model": "Canon", "is_undistorted": "yes"},
    {"fovx": 64.0, "fovy": 56.1, "fisheye_crop_radius": 300.0, "up": [0, 0, 1], "my_note": "hi"},
]


@pytest.mark.parametrize("shared", [True, False], ids=["top", "frame"])
@pytest.mark.parametrize("keys", HARMLESS, ids=[next(iter(keys)) for keys in HARMLESS])
def test_keys_without_effect_are_ignored(tmp_path, keys, shared):
    folder = folder_with(tmp_path / "set")
    original = read_views(folder)
    views = read_views(with_keys(folder, keys, shared))
    assert torch.equal(views.cameras.world_to_camera, original.cameras.world_to_camera)
    assert torch.equal(views.cameras.intrinsics, original.cameras.intrinsics)
    assert torch.equal(views.colour, original.colour)


REFUSED = [
    ("k5", 0.01),
    ("k6", -0.2),
    ("k4", 0.01),  # OpenCV's rational model and nerfstudio's polynomial differ
    ("s1", 0.001),
    ("tau_x", 0.01),
    ("k", 0.1),
    ("distortion_params", [0.1, 0.01, 0.0, 0.0]),
    ("distortion", "brown"),
    ("is_fisheye", True),  # without coefficients
    ("is_fisheye", "yes"),
    ("lens", "ftheta"),
    ("lens_type", 3),
    ("ftheta_p0", 0.9),
    ("latlong", True),
    ("equirectangular", 1),
    ("orthographic", True),
    ("rolling_shutter", [0.0, 0.0, 1.0, 0.0]),
    ("rolling_shutter_time", 0.02),
    ("skew", 1.5),
    ("camera_type", "fisheye"),  # nerfstudio's name in its camera paths
    ("camera_type", "equirectangular"),
    ("camera_type", "orthographic"),
    ("projection", "Fish-Eye"),
    ("proj_type", "spherical"),
    ("model", "omnidirectional"),
    ("camera_model", "FISHEYE624"),
    ("camera_model", "OMNIDIRECTIONALSTEREO_L"),
    ("camera_model", ["OPENCV"] * 500),
    ("k1", "0.1"),
    ("k1", 1e30),
    ("distortion_" + "x" * 5000, 1),
]


@pytest.mark.parametrize("shared", [True, False], ids=["top", "frame"])
@pytest.mark.parametrize(("key", "value"), REFUSED, ids=[key[:20] for key, _ in REFUSED])
def test_unsupported_distortion_is_rejected_by_name(tmp_path, key, value, shared):
    message = read_error(with_keys(folder_with(tmp_path / "set"), {key: value}, shared))
    assert "frame 0 (a.png)" in message
    assert key[:12] in message


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"camera_model": "OPENCV_FISHEYE", "k1": 0.1, "p1": 0.01}, "p1 is 0.01"),
        ({"is_fisheye": True, "k1": 0.1, "p2": 0.01}, "p2 is 0.01"),
        ({"camera_model": "ORTHOGRAPHIC", "ortho_scale": 1, "k1": 0.1}, "k1 is 0.1"),
        ({"camera_model": "OPENCV", "k1": -1.5}, "folds back within the field of view"),
        ({"camera_model": "OPENCV_FISHEYE", "k1": -1.5}, "folds back within the field of view"),
        ({"camera_model": "OPENCV", "p1": 3.0}, "folds back within the field of view"),
    ],
)
def test_contradictory_lenses_are_rejected(tmp_path, keys, named):
    assert named in read_error(with_keys(folder_with(tmp_path / "set"), keys))


def test_consistent_camera_type_is_accepted(tmp_path):
    folder = folder_with(tmp_path / "set", {"camera_model": "OPENCV_FISHEYE", "k1": 0.05})
    original = read_views(folder)
    views = read_views(with_keys(folder, {"camera_type": "fisheye"}))
    assert torch.equal(views.colour, original.colour)


@pytest.mark.parametrize("key", ["transform_matrix_start", "transform_matrix_end"])
def test_rolling_shutter_is_rejected(tmp_path, key):
    still = read_views(folder_with(tmp_path / "still", frame={key: POSE}))
    assert float(still.cameras.positions[0, 2]) == DEPTH
    assert key in read_error(folder_with(tmp_path / "set", frame={key: OTHER_POSE}))


def test_instant_ngp_field_of_view_in_degrees(tmp_path):
    folder = folder_with(tmp_path / "set")
    content = json.loads((folder / "transforms.json").read_text())
    del content["fl_x"], content["fl_y"]
    (folder / "transforms.json").write_text(json.dumps({**content, "x_fov": 90.0}))
    lens = read_views(folder).cameras.intrinsics[0]
    assert float(lens[0, 0]) == pytest.approx(WIDTH / 2) and lens[0, 0] == lens[1, 1]
    (folder / "transforms.json").write_text(json.dumps({**content, "x_fov": 181.0}))
    assert "x_fov is 181" in read_error(folder)
