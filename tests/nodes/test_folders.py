"""User-supplied names stay inside ComfyUI's folders; changes of files are detected."""

from __future__ import annotations

import os
import sys

import pytest


@pytest.fixture(scope="module")
def folders(pack):
    return pack("nodes.folders")


@pytest.mark.parametrize(
    "name",
    ["../x", "a/../../x", "/etc/x", "~/x", "C:\\x", "C:x", "\\\\host\\x", "..\\x", "a\\..\\..\\x",
     "x\0y", "//host/x"],
)  # fmt: skip
def test_rejects_paths_outside_the_folder_in_any_notation(pack, folders, name):
    with pytest.raises(pack("nova3d_core.errors").InputError, match="not inside ComfyUI's output"):
        folders.check_prefix(name)


@pytest.mark.parametrize("name", ["", "  ", "a/", "a\\"])
def test_rejects_a_prefix_without_a_file_name(pack, folders, name):
    with pytest.raises(pack("nova3d_core.errors").InputError, match="contains no file name"):
        folders.check_prefix(name)


@pytest.mark.parametrize("name", ["x", "a/b/c", "a..b", "%date:yyyy-MM-dd%/x", "ä ö", ".hidden"])
def test_accepts_relative_prefixes(folders, name):
    folders.check_prefix(name)


def test_validation_returns_true_or_the_error_message(folders):
    assert folders.validation_result(folders.check_prefix, "fine") is True
    assert folders.validation_result(folders.check_prefix, None) is True  # linked input
    assert "filename_prefix is '../x'" in folders.validation_result(folders.check_prefix, "../x")


def test_fingerprint_changes_with_every_change_in_a_folder(folders, tmp_path):
    folder = tmp_path / "views"
    (folder / "images").mkdir(parents=True)
    (folder / "transforms.json").write_text("{}")
    (folder / "images" / "0.png").write_bytes(b"abc")
    fingerprints = [folders.file_fingerprint(folder)]
    assert folders.file_fingerprint(folder) == fingerprints[0]
    (folder / "images" / "1.png").write_bytes(b"abc")
    fingerprints.append(folders.file_fingerprint(folder))
    (folder / "images" / "1.png").write_bytes(b"abcd")
    fingerprints.append(folders.file_fingerprint(folder))
    os.utime(folder / "images" / "0.png", ns=(1, 1))
    fingerprints.append(folders.file_fingerprint(folder))
    (folder / "images" / "0.png").unlink()
    fingerprints.append(folders.file_fingerprint(folder))
    assert len(set(fingerprints)) == len(fingerprints)


def test_examples_need_no_input_folder(pack, folders):
    views = pack("nova3d_core.io.views.transforms_json").read_views(
        folders.views_path("example: knight")
    )
    assert len(views) == 16 and views.normal_frame == "world" and views.masks is not None
    read_mesh = pack("nova3d_core.io.mesh.read").read_mesh
    reference = read_mesh(folders.mesh_path("example: knight")).normalised()
    fused = read_mesh(folders.mesh_path("example: knight, fused"))
    assert set(folders.EXAMPLE_MESHES) == {"example: knight", "example: knight, fused"}
    assert fused.texture is not None
    for corner in ("amin", "amax"):  # the fused mesh has the reference's bounding box
        gap = getattr(fused.vertices, corner)(0) - getattr(reference.vertices, corner)(0)
        assert float(gap.abs().max()) < 0.03
    size = sum(path.stat().st_size for path in folders.EXAMPLE_VIEWS["example: knight"].rglob("*"))
    assert size < 600_000


def test_lists_and_finds_files_in_the_input_folder(folders, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "folder_paths", _FolderPaths(tmp_path))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "transforms.json").write_text("{}")
    (tmp_path / "mine.glb").write_bytes(b"")
    assert folders.list_view_folders() == [*folders.EXAMPLE_VIEWS, "mine"]
    assert folders.list_mesh_files() == [*folders.EXAMPLE_MESHES, "mine.glb"]
    assert folders.views_path("mine") == tmp_path / "mine"
    assert folders.mesh_path("mine.glb") == tmp_path / "mine.glb"


def test_lists_folders_of_other_programs(folders, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "folder_paths", _FolderPaths(tmp_path))
    for name in (
        "scan/sparse/0/cameras.bin",
        "scan/images/deep/sparse/0/cameras.bin",
        "scan/dense/sparse/cameras.bin",
        "scan/dense/mesh.ply",
        "model/cameras.txt",
        "model/images.txt",
        "owl/rgb_000_front.png",
        "phone/keyframes/images/a.jpg",
        "photos/a.jpg",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    listed = folders.list_view_folders()
    assert listed == [*folders.EXAMPLE_VIEWS, "model", "owl", "scan", "scan/dense"]
    assert folders.list_mesh_files() == [*folders.EXAMPLE_MESHES, "scan/dense/mesh.ply"]


class _FolderPaths:
    """Stand-in for ComfyUI's `folder_paths` module."""

    def __init__(self, folder):
        self.get_input_directory = lambda: str(folder)
