"""Round trips of views through a folder, for any rig."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from nova3d_core.cameras.cameras import Cameras, orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.conventions import NORMAL_FRAMES
from nova3d_core.errors import Cancelled, InputError
from nova3d_core.io.views import transforms_json
from nova3d_core.io.views.transforms_json import read_views, write_views
from nova3d_core.progress import Progress
from nova3d_core.views import Views


def random_cameras(
    generator: torch.Generator, count: int, width: int, height: int, kind: str, shared_lens: bool
) -> Cameras:
    """Cameras with random positions, rotations (also upside down) and intrinsics."""
    rotation, _ = torch.linalg.qr(
        torch.randn(count, 3, 3, generator=generator, dtype=torch.float64)
    )
    rotation = rotation * torch.linalg.det(rotation)[:, None, None]
    poses = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    poses[:, :3, :3] = rotation
    poses[:, :3, 3] = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    intrinsics = torch.zeros(count, 3, 3)
    intrinsics[:, 0, 0] = 5 + 40 * torch.rand(count, generator=generator)
    intrinsics[:, 1, 1] = 5 + 40 * torch.rand(count, generator=generator)
    intrinsics[:, :2, 2] = 10 * torch.rand(count, 2, generator=generator)
    intrinsics[:, 2, 2] = 1.0
    if shared_lens:
        intrinsics = intrinsics[:1].expand(count, 3, 3).clone()
    return Cameras(poses.float(), intrinsics, width, height, kind)


def random_views(
    seed: int = 0,
    kind: str = "perspective",
    shared_lens: bool = True,
    size: tuple[int, int] = (8, 6),
    normal_frame: str = "world",
) -> Views:
    """Five views of noise on white, with soft masks, and normals on the object."""
    generator = torch.Generator().manual_seed(seed)
    width, height = size
    cameras = random_cameras(generator, 5, width, height, kind, shared_lens)
    masks = torch.rand(5, height, width, generator=generator)
    masks[:, 0] = 0.0
    masks[:, -1] = 1.0
    shape = (5, height, width, 3)
    colour = torch.rand(shape, generator=generator)
    normals = torch.nn.functional.normalize(torch.randn(shape, generator=generator), dim=-1)
    seen = masks[..., None] > 0.5 / 255
    colour, normals = torch.where(seen, colour, 1.0), torch.where(seen, normals, 0.0)
    return Views(cameras, colour, masks, normals, normal_frame)


def written(folder: Path) -> dict:
    return json.loads((folder / "transforms.json").read_text())


@pytest.mark.parametrize("kind", ["perspective", "orthographic"])
@pytest.mark.parametrize("shared_lens", [True, False])
@pytest.mark.parametrize("size", [(8, 6), (5, 9), (7, 7)])
@pytest.mark.parametrize("seed", [0, 1])
def test_round_trip_of_random_rigs(tmp_path, kind, shared_lens, size, seed):
    views = random_views(seed, kind, shared_lens, size)
    back = read_views(write_views(views, tmp_path / "views"))
    assert (back.cameras.kind, back.cameras.width, back.cameras.height) == (kind, *size)
    assert float((back.cameras.world_to_camera - views.cameras.world_to_camera).abs().max()) < 1e-6
    lens, lens_before = back.cameras.intrinsics, views.cameras.intrinsics
    assert torch.allclose(lens, lens_before, atol=0.0, rtol=1e-6)
    assert float((back.colour - views.colour).abs().max()) <= 0.5 / 255 + 1e-6
    assert float((back.masks - views.masks).abs().max()) <= 0.5 / 255 + 1e-6
    assert float((back.normals - views.normals).norm(dim=-1).max()) < 1 / 100
    assert torch.equal(back.normals == 0, views.normals == 0)
    assert back.normal_frame == "world"


@pytest.mark.parametrize("frame", NORMAL_FRAMES)
def test_normals_keep_their_frame(tmp_path, frame):
    views = random_views(normal_frame=frame)
    back = read_views(write_views(views, tmp_path / "views"))
    assert back.normal_frame == frame
    assert float((back.normals - views.normals).norm(dim=-1).max()) < 1 / 100
    in_world = back.with_world_normals().normals - views.with_world_normals().normals
    assert float(in_world.norm(dim=-1).max()) < 1 / 100


def test_second_round_trip_is_identical(tmp_path):
    once = read_views(write_views(random_views(), tmp_path / "one"))
    twice = read_views(write_views(once, tmp_path / "two"))
    for name in ("one", "two"):
        assert sorted(os.listdir(tmp_path / name)) == [
            ".nova3d.json",
            "images",
            "masks",
            "normals",
            "transforms.json",
        ]
    for kind in ("images", "masks"):
        for image in os.listdir(tmp_path / "one" / kind):
            one, two = (tmp_path / name / kind / image for name in ("one", "two"))
            assert one.read_bytes() == two.read_bytes()
    assert torch.allclose(
        once.cameras.world_to_camera, twice.cameras.world_to_camera, rtol=0.0, atol=1e-6
    )


def test_round_trip_without_masks_and_normals(tmp_path):
    views = random_views()
    bare = Views(views.cameras, views.colour)
    back = read_views(write_views(bare, tmp_path / "views"))
    assert (back.masks, back.normals, back.normal_frame) == (None, None, None)
    assert sorted(os.listdir(tmp_path / "views")) == [".nova3d.json", "images", "transforms.json"]
    assert "normal_frame" not in written(tmp_path / "views")


def test_default_rig_has_readable_angles(tmp_path):
    cameras = orbit_cameras(RigConfig(elevation_deg=10.0, width_px=8, height_px=8))
    content = written(write_views(Views(cameras, torch.ones(16, 8, 8, 3)), tmp_path / "views"))
    assert content["camera_model"] == "OPENCV"
    assert content["world_up"] == "+Y"
    assert (content["w"], content["h"], content["cx"], content["cy"]) == (8, 8, 4.0, 4.0)
    assert content["fl_x"] == content["fl_y"] == pytest.approx(8 * 1.3889)
    frames = content["frames"]
    assert [frame["azimuth_deg"] for frame in frames] == [22.5 * view for view in range(16)]
    assert {frame["elevation_deg"] for frame in frames} == {10.0}
    assert [frame["file_path"] for frame in frames] == [f"images/{i:03d}.png" for i in range(16)]
    front = torch.tensor(frames[0]["transform_matrix"])
    height = 2.2 * torch.sin(torch.deg2rad(torch.tensor(10.0)))
    depth = 2.2 * torch.cos(torch.deg2rad(torch.tensor(10.0)))
    assert torch.allclose(front[:3, 3], torch.stack([torch.zeros(()), height, depth]), atol=1e-6)


@pytest.mark.parametrize("shared_lens", [True, False])
def test_independent_reader_projects_to_the_same_pixels(tmp_path, shared_lens):
    views = random_views(2, "perspective", shared_lens)
    content = written(write_views(views, tmp_path / "views"))
    points = torch.randn(20, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    pixels, depths = views.cameras.project(points.float())
    for view, frame in enumerate(content["frames"]):
        lens = content if shared_lens else frame
        inverse = torch.linalg.inv(torch.tensor(frame["transform_matrix"], dtype=torch.float64))
        x, y, z = (points @ inverse[:3, :3].T + inverse[:3, 3]).T  # OpenGL: looks along -z, y up
        u = lens["cx"] - lens["fl_x"] * x / z
        v = lens["cy"] + lens["fl_y"] * y / z
        near = depths[view].abs() > 0.2
        assert torch.allclose(torch.stack([u, v], 1)[near].float(), pixels[view][near], atol=1e-2)
        assert torch.allclose(-z.float(), depths[view], atol=1e-5)


def test_file_names_sort_in_view_order(tmp_path, monkeypatch):
    monkeypatch.setattr(transforms_json, "encode_image", lambda *_, **__: b"")
    monkeypatch.setattr(transforms_json, "_pose", lambda *_: {})
    poses = torch.eye(4).repeat(1001, 1, 1)
    poses[:, 0, 3] = torch.arange(1001)
    cameras = Cameras(poses, torch.eye(3).repeat(1001, 1, 1), 1, 1)
    content = written(write_views(Views(cameras, torch.ones(1001, 1, 1, 3)), tmp_path / "views"))
    names = [frame["file_path"] for frame in content["frames"]]
    assert names[::500] == ["images/0000.png", "images/0500.png", "images/1000.png"]
    assert names == sorted(names)


def test_extra_keys_are_written_and_ignored(tmp_path):
    extra = {"source": "owl.png", "seed": 7, "steps": [1, 2]}
    folder = write_views(random_views(), tmp_path / "views", extra=extra)
    assert {key: written(folder)[key] for key in extra} == extra
    assert len(read_views(folder)) == 5


@pytest.mark.parametrize(
    ("extra", "fragment"),
    [
        ({"k1": 0.1}, "'k1'"),
        ({"frames": []}, "'frames'"),
        ({"ortho_scale": 2.0}, "'ortho_scale'"),
        ({"report": torch.ones(1)}, "JSON"),
        ({"loss": float("nan")}, "JSON"),
    ],
)
def test_invalid_extra_keys_are_rejected(tmp_path, extra, fragment):
    with pytest.raises(InputError, match=fragment):
        write_views(random_views(), tmp_path / "views", extra=extra)
    assert list(tmp_path.iterdir()) == []


def test_existing_folder_is_kept_without_overwrite(tmp_path):
    folder = write_views(random_views(0), tmp_path / "views")
    before = (folder / "transforms.json").read_bytes()
    with pytest.raises(InputError, match="already exists"):
        write_views(random_views(1), folder)
    assert (folder / "transforms.json").read_bytes() == before
    bare = Views(random_views(1).cameras, random_views(1).colour)
    write_views(bare, folder, overwrite=True)
    assert (folder / "transforms.json").read_bytes() != before
    assert sorted(os.listdir(folder)) == [".nova3d.json", "images", "transforms.json"]
    assert os.listdir(tmp_path) == ["views"]


def test_overwrite_keeps_folders_that_are_not_views(tmp_path):
    folder = write_views(random_views(), tmp_path / "views")
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"not replaced: it contains thesis\.tex"):
        write_views(random_views(), folder, overwrite=True)
    assert (folder / "thesis.tex").read_text() == "years of work"


def test_progress_reports_each_view(tmp_path):
    events = []
    progress = Progress(events.append)
    folder = write_views(random_views(), tmp_path / "views", progress=progress)
    read_views(folder, progress)
    seen = [(event.stage, event.step, event.total) for event in events]
    assert seen == [
        (stage, step, 5) for stage in ("writing views", "reading views") for step in range(6)
    ]


def test_cancelled_run_stops_and_leaves_no_files(tmp_path):
    steps = []
    progress = Progress(lambda event: steps.append(event.step), lambda: len(steps) == 3)
    with pytest.raises(Cancelled, match="writing views"):
        write_views(random_views(), tmp_path / "new" / "views", progress=progress)
    assert steps == [0, 1, 2]
    assert list(tmp_path.iterdir()) == []
    folder = write_views(random_views(), tmp_path / "views")
    steps.clear()
    with pytest.raises(Cancelled, match="reading views"):
        read_views(folder, progress)
    assert steps == [0, 1, 2]
