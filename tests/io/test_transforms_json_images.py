"""Images of a folder of views: orientation, several sizes, inverted masks, memory."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.conventions import decode_normals, encode_normals
from nova3d_core.errors import InputError
from nova3d_core.io.images.images import write_image
from nova3d_core.io.views.transforms_json import read_views, write_views
from nova3d_core.rendering.views import render_views
from nova3d_core.views import Views

COUNT = 3


def disc_views(width: int, height: int, count: int = COUNT) -> Views:
    """Views of a noisy disc with masks and normals."""
    cameras = orbit_cameras(RigConfig(count=count, width_px=width, height_px=height))
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    far = ((x - width / 2) ** 2 + (y - height / 2) ** 2).sqrt()
    mask = (0.3 * min(width, height) - far + 0.5).clamp(0.0, 1.0).expand(count, height, width)
    colour = torch.rand(count, height, width, 3, generator=generator)
    colour = torch.where(mask[..., None] > 0, colour, 1.0)
    normals = torch.randn(count, height, width, 3, generator=generator)
    normals = torch.nn.functional.normalize(normals, dim=-1) * (mask[..., None] > 0)
    return Views(cameras, colour, mask.clone(), normals, "world")


def edit(folder: Path, **changes) -> dict:
    """Edits top-level keys of a transforms.json; None removes a key."""
    path = folder / "transforms.json"
    content = json.loads(path.read_text()) | changes
    content = {key: value for key, value in content.items() if value is not None}
    path.write_text(json.dumps(content))
    return content


def read_error(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_views(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


def save_as_jpeg(folder: Path, orientation: int | None) -> None:
    """Replaces all images by JPEGs, with or without an EXIF orientation."""
    for path in sorted(folder.glob("*/*.png")):
        exif = Image.Exif()
        if orientation is not None:
            exif[0x0112] = orientation
        with Image.open(path) as image:
            image.convert("RGB").save(path.with_suffix(".jpg"), quality=95, exif=exif)
        path.unlink()
    path = folder / "transforms.json"
    path.write_text(path.read_text().replace(".png", ".jpg"))


# EXIF


@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
@pytest.mark.parametrize("size", [(24, 24), (32, 24)])
def test_images_are_read_as_stored(tmp_path, size, orientation):
    untagged, tagged = tmp_path / "untagged", tmp_path / "tagged"
    for folder, tag in ((untagged, None), (tagged, orientation)):
        write_views(disc_views(*size), folder)
        save_as_jpeg(folder, tag)
    expected, views = read_views(untagged), read_views(tagged)
    assert torch.equal(views.colour, expected.colour)
    assert torch.equal(views.masks, expected.masks)
    assert torch.equal(views.normals, expected.normals)
    assert torch.equal(views.cameras.intrinsics, expected.cameras.intrinsics)


def test_size_swapped_by_exif_is_reported(tmp_path):
    """A converter wrote w and h of the upright images."""
    write_views(disc_views(32, 24), tmp_path / "v")
    save_as_jpeg(tmp_path / "v", 6)
    edit(tmp_path / "v", w=24, h=32)
    message = read_error(tmp_path / "v")
    assert "frame 0 (images/000.jpg): the image is stored with 32x24 px" in message
    assert "w and h are 24x32: the size after its EXIF orientation was applied" in message
    assert "orientation is 6" in message


def test_mask_rotated_by_exif_is_reported(tmp_path):
    folder = write_views(disc_views(32, 24), tmp_path / "v")
    write_image(folder / "masks" / "001.png", torch.ones(32, 24), overwrite=True)
    message = read_error(folder)
    assert "mask 001.png is 24x32 px, the colour image 32x24 px" in message
    assert "probably rotated by its EXIF orientation" in message


# Images of several sizes


def resize_view(folder: Path, view: int, size: tuple[int, int]) -> None:
    """Resizes the files of one frame and adds intrinsics of that size."""
    path = folder / "transforms.json"
    content = json.loads(path.read_text())
    for kind in ("images", "masks", "normals"):
        file = folder / kind / f"{view:03d}.png"
        if file.exists():
            with Image.open(file) as image:
                image.resize(size, Image.Resampling.BOX).save(file)
    lens = {key: content[key] for key in ("fl_x", "fl_y", "cx", "cy") if key in content}
    for key in lens:
        along_x = key in ("fl_x", "cx")
        lens[key] *= size[0] / content["w"] if along_x else size[1] / content["h"]
    content["frames"][view] |= {"w": size[0], "h": size[1], **lens}
    path.write_text(json.dumps(content))


def gradient_views(width: int, height: int) -> Views:
    """Smooth images, nearly preserved at half the size."""
    views = disc_views(width, height)
    y, x = torch.meshgrid(
        (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij"
    )
    colour = torch.stack([x, y, 1 - x], dim=-1).expand(COUNT, height, width, 3)
    return Views(views.cameras, torch.where(views.masks[..., None] > 0, colour, 1.0), views.masks)


def test_view_of_half_the_size_is_upscaled(tmp_path):
    reference = gradient_views(96, 72)
    folder = write_views(reference, tmp_path / "v")
    resize_view(folder, 1, (48, 36))
    views = read_views(folder)
    assert views.colour.shape == (COUNT, 72, 96, 3)
    torch.testing.assert_close(
        views.cameras.intrinsics, reference.cameras.intrinsics, atol=1e-4, rtol=1e-6
    )
    for view in (0, 2):
        assert (views.colour[view] - reference.colour[view]).abs().max() < 0.51 / 255
    inside = (
        torch.nn.functional.max_pool2d(1 - reference.masks, 7, 1, 3)[1] == 0
    )  # outside the image
    assert (views.colour[1] - reference.colour[1])[inside].abs().max() < 2 / 255
    here, there = views.masks[1] > 0.5, reference.masks[1] > 0.5
    assert (here & there).sum() / (here | there).sum() > 0.97
    assert (views.colour[1][views.masks[1] == 0] == 1.0).all()


@pytest.mark.parametrize("size", [(20, 40), (64, 16), (30, 31), (128, 64)])
@pytest.mark.parametrize("kind", ["perspective", "orthographic"])
def test_known_point_projects_to_its_pixel_in_all_sizes(tmp_path, size, kind):
    """Each image has one bright dot at the projection of a known point."""
    point = torch.tensor([[0.11, 0.07, 0.05]])
    sizes = [(64, 48), size, (64, 48)]
    frames, expected = [], []
    for view, (width, height) in enumerate(sizes):
        rig = RigConfig(count=3, width_px=width, height_px=height, kind=kind)
        cameras = orbit_cameras(rig)[view]
        pixel = cameras.project(point)[0][0, 0]
        # an exact ramp: its value is the sampled pixel position
        x = (torch.arange(width) + 0.5) / width
        y = (torch.arange(height) + 0.5) / height
        ramp = torch.zeros(height, width, 3)
        ramp[..., 0], ramp[..., 1] = x, y[:, None]
        write_image(tmp_path / f"{view}.png", ramp)
        expected.append(torch.stack([pixel[0] / width, pixel[1] / height]))
        lens = cameras.intrinsics[0]
        own = {"fl_x": float(lens[0, 0]), "fl_y": float(lens[1, 1])}
        if kind == "orthographic":
            own = {"ortho_scale": max(width, height) / float(lens[0, 0])}
        frames.append(
            {
                "file_path": f"{view}.png",
                "transform_matrix": cameras.camera_to_world_opengl[0].tolist(),
                **{"w": width, "h": height, "cx": float(lens[0, 2]), "cy": float(lens[1, 2])},
                **own,
            }
        )
    model = "ORTHOGRAPHIC" if kind == "orthographic" else "OPENCV"
    content = {"camera_model": model, "world_up": "+Y", "frames": frames}
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    views = read_views(tmp_path)
    height, width = views.colour.shape[1:3]
    assert (width, height) == (max(64, size[0]), max(48, size[1]))
    at = views.cameras.project(point)[0][:, 0]  # (V, 2)
    grid = (at / torch.tensor([width, height]) * 2 - 1)[:, None, None]
    sampled = torch.nn.functional.grid_sample(
        views.colour.movedim(-1, 1), grid, align_corners=False
    )[:, :2, 0, 0]
    for view, (w, h) in enumerate(sizes):
        tolerance = 1.0 / 255 + 0.02 / min(w, h)
        torch.testing.assert_close(sampled[view], expected[view], atol=tolerance, rtol=0)


def test_padding_is_white_without_mask_and_normals(tmp_path, caplog):
    folder = write_views(disc_views(32, 32), tmp_path / "v")
    path = folder / "transforms.json"
    content = json.loads(path.read_text())
    for kind in ("images", "masks", "normals"):
        file = folder / kind / "001.png"
        with Image.open(file) as image:
            image.crop((8, 0, 24, 32)).save(file)  # the sides of the disc are truncated
    lens = {key: content[key] for key in ("fl_x", "fl_y", "cy")}
    content["frames"][1] |= {"w": 16, "h": 32, "cx": content["cx"] - 8, **lens}
    path.write_text(json.dumps(content))
    whole = read_views(write_views(disc_views(32, 32), tmp_path / "whole"))
    with caplog.at_level(logging.INFO):
        views = read_views(folder)
    assert torch.equal(views.cameras.intrinsics, whole.cameras.intrinsics)
    assert torch.equal(views.colour[1, :, 8:24], whole.colour[1, :, 8:24])
    torch.testing.assert_close(views.normals[1, :, 8:24], whole.normals[1, :, 8:24])
    for outside in (slice(0, 8), slice(24, 32)):
        assert (views.colour[1, :, outside] == 1.0).all()
        assert (views.masks[1, :, outside] == 0.0).all()
        assert (views.normals[1, :, outside] == 0.0).all()
    assert "images of 2 sizes are resized to 32x32 px" in caplog.text
    assert "frame 1 (images/001.png): the object touches the border of its image" in caplog.text


@pytest.mark.parametrize(
    ("frame", "shared", "fragment"),
    [
        ({}, {"w": None, "h": None}, "both share cx"),
        ({"w": 12, "h": 9}, {}, "both share cx"),
        ({"w": 12, "h": 9, "cx": 6, "cy": 4.5}, {}, "both share fl_x"),
        ({"w": 12, "h": 9, "fl_x": 20}, {}, "both share cx"),
    ],
)
def test_intrinsics_of_other_sizes_are_not_guessed(tmp_path, frame, shared, fragment):
    folder = write_views(gradient_views(24, 18), tmp_path / "v")
    content = edit(folder, **shared)
    content["frames"][2] |= frame
    (folder / "transforms.json").write_text(json.dumps(content))
    for kind in ("images", "masks"):
        file = folder / kind / "002.png"
        with Image.open(file) as image:
            image.resize((12, 9)).save(file)
    message = read_error(folder)
    assert "frame 2 (images/002.png): the image is 12x9 px, the first one 24x18 px" in message
    assert fragment in message
    assert "Add w, h, fl_x, fl_y, cx and cy to such frames" in message


@pytest.mark.parametrize("shared", [{"w": "wide", "h": []}, {"w": float("nan"), "h": 0}])
def test_unused_top_level_size_is_ignored(tmp_path, shared):
    folder = write_views(gradient_views(24, 18), tmp_path / "v")
    resize_view(folder, 1, (12, 9))
    content = edit(folder)
    for frame in content["frames"]:
        frame.update({"w": 24, "h": 18} | frame)
    (folder / "transforms.json").write_text(json.dumps(content | shared))
    assert read_views(folder).colour.shape == (COUNT, 18, 24, 3)


def test_field_of_view_applies_to_all_sizes_of_one_aspect(tmp_path):
    folder = write_views(gradient_views(24, 18), tmp_path / "v")
    angle = 2 * np.arctan(0.5 * 24 / float(gradient_views(24, 18).cameras.intrinsics[0, 0, 0]))
    missing = dict.fromkeys(("w", "h", "fl_x", "fl_y", "cx", "cy"))
    edit(folder, **missing, camera_angle_x=angle)
    for kind in ("images", "masks"):
        file = folder / kind / "002.png"
        with Image.open(file) as image:
            image.resize((12, 9)).save(file)
    cameras = read_views(folder).cameras
    torch.testing.assert_close(cameras.intrinsics, gradient_views(24, 18).cameras.intrinsics)
    for kind in ("images", "masks"):
        file = folder / kind / "002.png"
        with Image.open(file) as image:
            image.resize((12, 24)).save(file)
    assert "both share camera_angle_x" in read_error(folder)


def test_one_huge_image_is_rejected(tmp_path):
    folder = write_views(disc_views(16, 16, count=12), tmp_path / "v")
    resize_view(folder, 3, (1024, 1024))
    message = read_error(folder)
    assert "resizing all to 1024x1024 px would take 12 times the memory" in message


# Inverted masks


@pytest.fixture(scope="module")
def rendered(l_solid) -> Views:
    cameras = orbit_cameras(RigConfig(count=6, width_px=48, height_px=48))
    return render_views(l_solid, cameras).views


def test_inverted_masks_are_rejected_by_name(rendered, tmp_path):
    folder = write_views(rendered, tmp_path / "v")
    for view in range(4):
        file = folder / "masks" / f"{view:03d}.png"
        write_image(file, 1.0 - rendered.masks[view], overwrite=True)
        if view < 3:  # half of the views: left to the check of silhouettes
            read_views(folder)
    message = read_error(folder)
    assert "transforms.json: the masks look inverted in 4 of 6 views" in message
    assert "Invert it" in message


def test_inverted_alpha_is_rejected(rendered, tmp_path):
    views = Views(rendered.cameras, rendered.colour)
    folder = write_views(views, tmp_path / "v")
    for view in range(6):
        rgba = torch.cat([rendered.colour[view], 1.0 - rendered.masks[view][..., None]], dim=-1)
        write_image(folder / "images" / f"{view:03d}.png", rgba, overwrite=True)
    assert "look inverted in 6 of 6 views" in read_error(folder)


# Memory


def old_formula(folder: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Reference: colour, masks and normals from whole arrays, with pillow and numpy only."""

    def levels(path: Path) -> torch.Tensor:
        with Image.open(path) as image:
            array = np.asarray(image.convert("RGB")).astype(np.float32) / 255.0
        return torch.from_numpy(array)

    colours, masks, normals = [], [], []
    for path in sorted((folder / "images").iterdir()):
        masks.append(levels(folder / "masks" / path.name).mean(dim=-1))
        seen = masks[-1][..., None] > 0
        colours.append(torch.where(seen, levels(path), 1.0))
        normals.append(decode_normals(levels(folder / "normals" / path.name)) * seen)
    return torch.stack(colours), torch.stack(masks), torch.stack(normals)


@pytest.mark.parametrize("size", [(33, 300), (1030, 270)])
@pytest.mark.parametrize("up", ["+Y", "+Z"])
def test_chunked_reading_equals_whole_arrays_bit_for_bit(tmp_path, size, up):
    folder = write_views(disc_views(*size), tmp_path / "v")
    edit(folder, world_up=up)
    views = read_views(folder)
    colour, masks, normals = old_formula(folder)
    if up == "+Z":
        x, y, z = normals.unbind(dim=-1)
        normals = torch.stack([x, z, -y], dim=-1)
    assert torch.equal(views.colour, colour)
    assert torch.equal(views.masks, masks)
    assert torch.equal(views.normals, normals)


def test_encoded_normals_survive_the_round_trip(tmp_path):
    views = disc_views(40, 30)
    read = read_views(write_views(views, tmp_path / "v"))
    levels = (encode_normals(views.normals) * 255).round() / 255
    again = (encode_normals(read.normals) * 255).round() / 255
    assert (levels - again).abs().max() <= 1.01 / 255


PEAK = """
import json, sys
from pathlib import Path
from nova3d_core.io.views.transforms_json import read_views, write_views
def size(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))
def peak(work):
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = size("VmRSS")
    result = work()
    return result, size("VmHWM") - before
write_views(read_views(sys.argv[1]), sys.argv[1] + "-again")
views, reading = peak(lambda: read_views(sys.argv[2]))
_, writing = peak(lambda: write_views(views, sys.argv[2] + "-again"))
tensors = [views.colour, views.masks, views.normals]
print(json.dumps([reading, writing, sum(4 * each.numel() for each in tensors if each is not None)]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize("with_normals", [True, False])
def test_peak_memory_is_at_most_1_5_times_the_result(tmp_path, with_normals):
    for name, side, count in (("small", 64, 3), ("large", 256, 32)):
        views = disc_views(side, side, count)
        if not with_normals:
            views = Views(views.cameras, views.colour, views.masks)
        write_views(views, tmp_path / name)
    command = [sys.executable, "-c", PEAK, str(tmp_path / "small"), str(tmp_path / "large")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    reading, writing, result = json.loads(done.stdout)
    assert result == 32 * 256 * 256 * 4 * (7 if with_normals else 4)
    assert reading < 1.5 * result
    assert writing < 0.25 * result  # one view at a time


def test_out_of_memory_is_one_line(tmp_path, monkeypatch):
    folder = write_views(disc_views(24, 18), tmp_path / "v")

    def full(*shape):
        raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 5 bytes.")

    monkeypatch.setattr("nova3d_core.io.views.frame_images.torch.zeros", full)
    message = read_error(folder)
    assert "3 images of 24x18 px take 0.0 GiB and do not fit into memory" in message
