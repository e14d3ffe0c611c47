"""Which program left a folder is told from its names; those that cannot be read are named."""

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


def message_of(folder) -> str:
    with pytest.raises(InputError) as caught:
        read_views(folder)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    assert str(folder) in message
    return message


def test_polycam_is_named_with_what_to_do(tmp_path):
    for name in ("corrected_cameras", "corrected_images"):
        (tmp_path / "keyframes" / name).mkdir(parents=True)
    message = message_of(tmp_path)
    assert "an export of Polycam" in message
    assert "ns-process-data polycam --data FOLDER --output-dir VIEWS" in message


def test_record3d_is_named_with_what_to_do(tmp_path):
    (tmp_path / "rgbd").mkdir()
    (tmp_path / "metadata").write_text("{}")
    message = message_of(tmp_path)
    assert "an export of Record3D" in message
    assert "ns-process-data record3d --data FOLDER" in message


def test_a_packed_recording_is_named_too(tmp_path):
    (tmp_path / "room.r3d").write_bytes(b"PK")
    assert "unpack a .zip or .r3d first" in message_of(tmp_path / "room.r3d")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "transforms.json")
    assert "has no transforms.json" in message_of(tmp_path)


def test_a_folder_that_may_not_be_looked_into(tmp_path, monkeypatch):
    (tmp_path / "sparse").mkdir()
    whole = Path.iterdir

    def iterdir(path: Path):
        if path.name == "sparse":
            raise PermissionError(13, "Permission denied")
        return whole(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert "cannot be read: Permission denied" in message_of(tmp_path)


def test_other_folders_are_told_what_is_read(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"")
    message = message_of(tmp_path)
    for word in ("transforms.json", "COLMAP", "sparse/0", "Wonder3D"):
        assert word in message
    assert "does not exist" in message_of(tmp_path / "nowhere")


def test_many_other_names_make_no_long_message(tmp_path):
    for index in range(300):
        (tmp_path / f"transforms_{index:0150d}.json").write_text("{}")
    assert "has no transforms.json" in message_of(tmp_path)
