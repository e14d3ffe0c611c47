"""Detection of the layout of a folder, and errors for unsupported ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nova3d_core.errors import InputError
from nova3d_core.io.views.layouts import detect_layout
from nova3d_core.io.views.transforms_json import read_views


@pytest.mark.parametrize(
    ("folders", "files", "layout"),
    [
        (["images"], ["transforms.json"], "transforms"),
        (["images", "sparse"], ["transforms.json"], "transforms"),
        (["images", "sparse"], [], "colmap"),
        (["images"], ["cameras.txt", "images.txt", "points3D.txt"], "colmap"),
        (["images"], ["cameras.bin", "images.bin"], "colmap"),
        (["images"], ["cameras.bin", "images.txt"], None),
        (["normals"], ["rgb_000_front.png"], "wonder3d"),
        ([], ["rgb_000_above.png", "xrgb_000_front.png", "rgb_front.png"], None),
        (["keyframes"], ["mesh_info.json"], "polycam"),
        (["corrected_cameras", "corrected_images"], [], "polycam"),
        (["rgbd"], ["metadata"], "record3d"),
        (["EXR_RGBD"], ["metadata"], "record3d"),
        ([], ["metadata"], None),
        (["images"], ["transforms_train.json"], None),
        ([], [], None),
    ],
)
def test_layouts(folders, files, layout):
    assert detect_layout(folders, files) == layout


def read_error(folder) -> str:
    with pytest.raises(InputError) as caught:
        read_views(folder)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    assert str(folder) in message
    return message


def test_polycam_error_has_a_hint(tmp_path):
    for name in ("corrected_cameras", "corrected_images"):
        (tmp_path / "keyframes" / name).mkdir(parents=True)
    message = read_error(tmp_path)
    assert "an export of Polycam" in message
    assert "ns-process-data polycam --data FOLDER --output-dir VIEWS" in message


def test_record3d_error_has_a_hint(tmp_path):
    (tmp_path / "rgbd").mkdir()
    (tmp_path / "metadata").write_text("{}")
    message = read_error(tmp_path)
    assert "an export of Record3D" in message
    assert "ns-process-data record3d --data FOLDER" in message


def test_packed_record3d_error_has_a_hint(tmp_path):
    (tmp_path / "room.r3d").write_bytes(b"PK")
    assert "unpack a .zip or .r3d first" in read_error(tmp_path / "room.r3d")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "transforms.json")
    assert "has no transforms.json" in read_error(tmp_path)


def test_unreadable_folder(tmp_path, monkeypatch):
    (tmp_path / "sparse").mkdir()
    whole = Path.iterdir

    def iterdir(path: Path):
        if path.name == "sparse":
            raise PermissionError(13, "Permission denied")
        return whole(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert "cannot be read: Permission denied" in read_error(tmp_path)


def test_unknown_folder_error_lists_supported_layouts(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"")
    message = read_error(tmp_path)
    for word in ("transforms.json", "COLMAP", "sparse/0", "Wonder3D"):
        assert word in message
    assert "does not exist" in read_error(tmp_path / "nowhere")


def test_many_names_are_shortened_in_errors(tmp_path):
    for index in range(300):
        (tmp_path / f"transforms_{index:0150d}.json").write_text("{}")
    assert "has no transforms.json" in read_error(tmp_path)


def test_a_mesh_instead_of_a_folder_is_named(tmp_path):
    path = tmp_path / "object.glb"
    path.write_bytes(b"glTF\x02\x00\x00\x00\xe4")
    assert "object.glb is a file, expected a folder of views" in read_error(path)
