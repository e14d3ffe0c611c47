"""Folders as other programs write them, typed by hand: positions and pixels are known numbers.

Two cameras in a world with +Z up, four units from the origin: A looks along +Y, B along -X. In
our world A stands on +Z (azimuth 0) and B on +X (azimuth 90).
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from PIL import Image

from nova3d_core.io.views.transforms_json import read_views

A_Z_UP = [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, -1.0, -4.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
B_Z_UP = [[0.0, 0.0, 1.0, 4.0], [1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
A_Y_UP = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 4.0], [0.0, 0.0, 0.0, 1.0]]
B_Y_UP = [[0.0, 0.0, 1.0, 4.0], [0.0, 1.0, 0.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
BLENDER_ANGLE = 0.6911112070083618
"""Radians; the field of view of the NeRF sets, 1111.111 px focal length at 800 px."""


def save(path: Path, colour: tuple[int, ...], size=(8, 6), dot: tuple[int, ...] | None = None):
    """Saves an image of one colour with a dot at column 2, row 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    modes = {1: "L", 3: "RGB", 4: "RGBA"}
    image = Image.new(modes[len(colour)], size, colour if len(colour) > 1 else colour[0])
    if dot is not None:
        image.putpixel((2, 1), dot if len(dot) > 1 else dot[0])
    image.save(path)


def write_json(folder: Path, content: dict, name: str = "transforms.json") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(content))
    return folder


def write_frames(*poses, names=("a.png", "b.png")) -> list[dict]:
    return [
        {"file_path": name, "transform_matrix": pose}
        for name, pose in zip(names, poses, strict=True)
    ]


def opaque_folder(folder: Path, size=(8, 6), **content) -> Path:
    """A folder with the images a.png and b.png."""
    for name in ("a.png", "b.png"):
        save(folder / name, (255, 255, 255), size)
    return write_json(folder, content)


def test_blender_z_up_world_with_a_field_of_view(tmp_path):
    for name in ("train/r_0.png", "train/r_1.png"):
        save(tmp_path / name, (0, 0, 0, 0), (800, 800), (255, 0, 0, 255))
    frames = write_frames(A_Z_UP, B_Z_UP, names=("./train/r_0", "./train/r_1"))
    for frame in frames:
        frame["rotation"] = 0.0125
    views = read_views(write_json(tmp_path, {"camera_angle_x": BLENDER_ANGLE, "frames": frames}))
    cameras = views.cameras
    assert (cameras.kind, cameras.width, cameras.height) == ("perspective", 800, 800)
    positions = torch.tensor([[0.0, 0.0, 4.0], [4.0, 0.0, 0.0]])
    assert torch.allclose(cameras.positions, positions, atol=1e-6)
    assert cameras.azimuth_deg.tolist() == pytest.approx([0.0, 90.0], abs=1e-4)
    assert cameras.elevation_deg.tolist() == pytest.approx([0.0, 0.0], abs=1e-4)
    # One unit to the right, up, and towards A in our world; 1111.111 / 4 = 277.778 px per unit.
    points = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    pixels, depths = cameras.project(points)
    seen_by_a = torch.tensor([[677.7778, 400.0], [400.0, 122.2222], [400.0, 400.0]])
    seen_by_b = torch.tensor([[400.0, 400.0], [400.0, 122.2222], [122.2222, 400.0]])
    assert torch.allclose(pixels, torch.stack([seen_by_a, seen_by_b]), atol=1e-2)
    expected_depths = torch.tensor([[4.0, 4.0, 3.0], [3.0, 4.0, 4.0]])
    assert torch.allclose(depths, expected_depths, atol=1e-5)


def test_alpha_becomes_the_mask(tmp_path):
    for name in ("a.png", "b.png"):
        save(tmp_path / name, (0, 0, 0, 0), dot=(255, 0, 51, 153))
    save(tmp_path / "b.png", (0, 0, 0, 0), dot=(0, 0, 0, 255))
    frames = write_frames(A_Z_UP, B_Z_UP)
    views = read_views(write_json(tmp_path, {"fl_x": 10, "frames": frames}))
    expected = torch.zeros(6, 8)
    expected[1, 2] = 0.6
    assert torch.allclose(views.masks[0], expected)
    assert torch.allclose(views.colour[0, 1, 2], torch.tensor([1.0, 0.4, 0.52]))
    assert float(views.masks[1, 1, 2]) == 1.0
    assert torch.equal(views.colour[1, 1, 2], torch.zeros(3))
    elsewhere = views.colour[:, expected == 0]
    assert torch.equal(elsewhere, torch.ones_like(elsewhere))


def test_nerfstudio_top_level_intrinsics(tmp_path):
    folder = opaque_folder(
        tmp_path / "set",
        camera_model="OPENCV",
        w=8,
        h=6,
        fl_x=10.0,
        fl_y=12.0,
        cx=3.5,
        cy=2.5,
        k1=0.0,
        p2=0,
        applied_transform=[[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]],
        frames=write_frames(A_Z_UP, B_Z_UP),
    )
    views = read_views(folder)
    lens = torch.tensor([[10.0, 0.0, 3.5], [0.0, 12.0, 2.5], [0.0, 0.0, 1.0]])
    assert torch.equal(views.cameras.intrinsics, lens.expand(2, 3, 3))
    assert views.masks is None
    # (1, 0, 1) of the file is (1, 1, 0) with +Y up: A projects it to 3.5 + 10/4, 2.5 - 12/4.
    pixels, _ = views.cameras.project(torch.tensor([[1.0, 1.0, 0.0]]))
    assert torch.allclose(pixels[0, 0], torch.tensor([6.0, -0.5]), atol=1e-5)


def test_frame_intrinsics_take_precedence(tmp_path):
    frames = write_frames(A_Z_UP, B_Z_UP)
    frames[1] |= {"fl_x": 20.0, "cx": 1.0, "w": 8, "h": 6, "camera_model": "PINHOLE"}
    folder = opaque_folder(
        tmp_path / "set", fl_x=10.0, fl_y=11.0, camera_model="OPENCV", frames=frames
    )
    first, second = read_views(folder).cameras.intrinsics
    assert (first[0, 0], first[1, 1], first[0, 2], first[1, 2]) == (10.0, 11.0, 4.0, 3.0)
    assert (second[0, 0], second[1, 1], second[0, 2], second[1, 2]) == (20.0, 20.0, 1.0, 3.0)


def test_focal_length_takes_precedence_over_field_of_view(tmp_path):
    folder = opaque_folder(
        tmp_path / "set",
        camera_angle_x=BLENDER_ANGLE,
        camera_angle_y=0.5,
        fl_x=10.0,
        frames=write_frames(A_Z_UP, B_Z_UP),
    )
    lens = read_views(folder).cameras.intrinsics[0]
    assert float(lens[0, 0]) == 10.0
    assert float(lens[1, 1]) == pytest.approx(3.0 / 0.25534192, rel=1e-6)  # tan(0.25)


@pytest.mark.parametrize("poses", [(A_Z_UP, B_Z_UP), (A_Y_UP, B_Y_UP)], ids=["+Z", "+Y"])
def test_world_up_is_guessed_from_the_cameras(tmp_path, caplog, poses):
    caplog.set_level(logging.INFO)
    folder = opaque_folder(tmp_path / "set", fl_x=10.0, frames=write_frames(*poses))
    cameras = read_views(folder).cameras
    positions = torch.tensor([[0.0, 0.0, 4.0], [4.0, 0.0, 0.0]])
    assert torch.allclose(cameras.positions, positions, atol=1e-6)
    assert torch.allclose(-cameras.rotation[:, 1], torch.tensor([0.0, 1.0, 0.0]), atol=1e-6)
    up = "+Z" if poses[0] is A_Z_UP else "+Y"
    assert f"world up is taken as {up}" in caplog.text


def test_declared_world_up_takes_precedence(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    frames = write_frames(A_Z_UP, B_Z_UP)
    folder = opaque_folder(tmp_path / "set", fl_x=10.0, world_up="+Y", frames=frames)
    cameras = read_views(folder).cameras
    assert torch.allclose(cameras.positions, torch.tensor([[0.0, -4.0, 0.0], [4.0, 0.0, 0.0]]))
    assert "world up is +Y, as declared by the file" in caplog.text


def test_ambiguous_world_up_is_a_warning(tmp_path, caplog):
    half = 0.7071067811865476
    tilted = [[1.0, 0.0, 0.0, 0.0], [0.0, half, half, 0.0], [0.0, half, -half, 0.0]]
    tilted[0][0] = -1.0
    folder = opaque_folder(
        tmp_path / "set",
        fl_x=10.0,
        frames=write_frames(tilted, [[*row[:3], 1.0] for row in tilted]),
    )
    read_views(folder)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "add world_up to the file" in caplog.text


def test_matrices_of_3_rows(tmp_path):
    frames = write_frames(A_Z_UP[:3], B_Z_UP[:3])
    short = read_views(opaque_folder(tmp_path / "short", fl_x=10.0, frames=frames))
    frames = write_frames(A_Z_UP, B_Z_UP)
    full = read_views(opaque_folder(tmp_path / "full", fl_x=10.0, frames=frames))
    assert torch.equal(short.cameras.world_to_camera, full.cameras.world_to_camera)


def test_rounded_matrices_keep_the_exact_position(tmp_path):
    third = [[0.6667, -0.3333, 0.6667, 2.0], [0.6667, 0.6667, -0.3333, -1.0]]
    third.append([-0.3333, 0.6667, 0.6667, 2.0])
    folder = opaque_folder(
        tmp_path / "set", fl_x=10.0, world_up="+Y", frames=write_frames(third, A_Y_UP)
    )
    cameras = read_views(folder).cameras
    assert torch.allclose(cameras.positions[0], torch.tensor([2.0, -1.0, 2.0]), atol=1e-6)
    unit = cameras.rotation[0] @ cameras.rotation[0].T
    assert torch.allclose(unit, torch.eye(3), atol=1e-6)


def test_frames_keep_their_order(tmp_path):
    save(tmp_path / "z.png", (10, 0, 0))
    save(tmp_path / "a.png", (20, 0, 0))
    frames = write_frames(B_Y_UP, A_Y_UP, names=("z.png", "a.png"))
    views = read_views(write_json(tmp_path, {"fl_x": 10.0, "frames": frames}))
    assert (views.colour[:, 0, 0, 0] * 255).round().tolist() == [10.0, 20.0]
    assert torch.allclose(views.cameras.azimuth_deg, torch.tensor([90.0, 0.0]), atol=1e-4)


def test_world_normals_rotate_with_the_world_but_camera_normals_do_not(tmp_path):
    for name in ("a.png", "b.png"):
        save(tmp_path / name, (200, 200, 200))
        mask = Image.new("L", (8, 6), 0)
        mask.paste(255, (3, 2, 6, 5))
        (tmp_path / "mask").mkdir(exist_ok=True)
        mask.save(tmp_path / "mask" / name)
        save(tmp_path / "normal" / name, (128, 128, 255))  # +Z of its frame
    frames = write_frames(A_Z_UP, B_Z_UP)
    for frame in frames:
        name = frame["file_path"]
        frame |= {"normal_path": f"normal/{name}", "mask_path": f"mask/{name}"}
    expected = {
        "world": [(0.0, 1.0, 0.0), (0.0, 1.0, 0.0)],  # up is kept
        "camera": [(0.0, 0.0, 1.0), (1.0, 0.0, 0.0)],  # towards each camera
        "front_view": [(0.0, 0.0, 1.0), (0.0, 0.0, 1.0)],  # towards camera A
    }
    for frame_name, directions in expected.items():
        content = {"fl_x": 10.0, "normal_frame": frame_name, "frames": frames}
        views = read_views(write_json(tmp_path, content))
        assert views.normal_frame == frame_name
        in_world = views.with_world_normals().normals[:, 4, 4]
        assert torch.allclose(in_world, torch.tensor(directions), atol=0.01), frame_name
        assert torch.equal(views.normals[:, 1, 2], torch.zeros(2, 3))
        assert torch.equal(views.colour[:, 1, 2], torch.ones(2, 3))  # white outside the mask
        assert torch.equal(views.masks[:, 1, 2], torch.zeros(2))


def test_mask_file_takes_precedence_over_alpha(tmp_path):
    for name in ("a.png", "b.png"):
        save(tmp_path / name, (0, 0, 0, 255), dot=(0, 0, 0, 0))
        save(tmp_path / "mask" / name, (0,), dot=(255,))
    frames = write_frames(A_Z_UP, B_Z_UP)
    for frame in frames:
        frame["mask_path"] = f"mask/{frame['file_path']}"
    views = read_views(write_json(tmp_path, {"fl_x": 10.0, "frames": frames}))
    expected = torch.zeros(2, 6, 8)
    expected[:, 1, 2] = 1.0
    assert torch.equal(views.masks, expected)
    assert torch.equal(views.colour, torch.ones(2, 6, 8, 3))


def test_opaque_alpha_is_not_a_mask(tmp_path):
    for name in ("a.png", "b.png"):
        save(tmp_path / name, (255, 255, 255, 255), dot=(0, 0, 0, 255))
    frames = write_frames(A_Z_UP, B_Z_UP)
    views = read_views(write_json(tmp_path, {"fl_x": 10.0, "frames": frames}))
    assert views.masks is None
    assert torch.equal(views.colour[:, 1, 2], torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("size", "points_px"),
    [((8, 4), [(6.0, 1.0), (4.0, 1.0)]), ((4, 8), [(4.0, 3.0), (2.0, 3.0)])],
)
def test_ortho_scale_is_the_longer_side(tmp_path, size, points_px):
    folder = opaque_folder(
        tmp_path / "set",
        size,
        camera_model="ORTHOGRAPHIC",
        ortho_scale=2.0,
        frames=write_frames(A_Y_UP, B_Y_UP),
    )
    cameras = read_views(folder).cameras
    assert cameras.kind == "orthographic"
    # 8 px over 2 units: 4 px per unit at any depth.
    pixels, _ = cameras.project(torch.tensor([[0.5, 0.25, 0.0], [0.5, 0.25, -3.0]]))
    assert torch.allclose(pixels[0], torch.tensor([points_px[0]] * 2), atol=1e-5)
    assert torch.allclose(pixels[1, 0], torch.tensor(points_px[1]), atol=1e-5)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".webp"])
def test_missing_suffix_is_found(tmp_path, suffix):
    save(tmp_path / f"view_0.5{suffix}", (255, 255, 255))
    frames = write_frames(A_Y_UP, names=("view_0.5",))
    assert len(read_views(write_json(tmp_path, {"fl_x": 10.0, "frames": frames}))) == 1


def test_backslashes_and_byte_order_mark(tmp_path):
    save(tmp_path / "images" / "a.png", (255, 255, 255))
    frames = write_frames(A_Y_UP, names=("images\\a.png",))
    text = "\ufeff" + json.dumps({"fl_x": 10.0, "frames": frames})
    (tmp_path / "transforms.json").write_text(text, encoding="utf-8")
    assert len(read_views(str(tmp_path))) == 1


def test_json_of_another_name_can_be_read(tmp_path):
    save(tmp_path / "a.png", (255, 255, 255))
    content = {"fl_x": 10.0, "frames": write_frames(A_Y_UP, names=("a.png",))}
    write_json(tmp_path, content, "transforms_train.json")
    assert len(read_views(tmp_path / "transforms_train.json")) == 1


def test_symlinks_inside_the_folder_and_to_it_are_followed(tmp_path):
    folder = opaque_folder(tmp_path / "set", fl_x=10.0, frames=write_frames(A_Y_UP, B_Y_UP))
    (folder / "b.png").unlink()
    (folder / "b.png").symlink_to("a.png")
    (tmp_path / "link").symlink_to(folder)
    assert len(read_views(tmp_path / "link")) == 2
