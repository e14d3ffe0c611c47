"""`overwrite` replaces output of earlier runs only, and never an input."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import InputError
from nova3d_core.io.files import renames
from nova3d_core.io.files.atomic import (
    atomic_file,
    atomic_files,
    atomic_folder,
    check_can_write_file,
    check_can_write_folder,
)
from nova3d_core.io.files.ownership import MANIFEST
from nova3d_core.io.mesh.read import read_mesh
from nova3d_core.io.mesh.write import check_can_write_mesh, write_mesh
from nova3d_core.io.views.transforms_json import FOLDER_CONTENT, write_views
from nova3d_core.mesh import Mesh
from nova3d_core.rendering.turntable import check_turntable_path, write_turntable
from nova3d_core.training.data.dataset_lock import open_dataset_dir
from nova3d_core.views import Views

SETTINGS = {"source": "test", "seed": 1}


def small_views(value: float = 1.0) -> Views:
    cameras = orbit_cameras(RigConfig(count=2, width_px=4, height_px=4))
    return Views(cameras, torch.full((2, 4, 4, 3), value))


@pytest.fixture
def textured() -> Mesh:
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    faces = torch.tensor([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]])
    return Mesh(vertices, faces, uv=vertices[:, :2], texture=torch.rand(8, 8, 3))


def file_hashes(folder: Path) -> dict[str, str]:
    """All files below a folder with their content."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def nerfstudio_folder(folder: Path) -> Path:
    """A nerfstudio folder of photographs and cameras, with the same names as ours."""
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "000.png").write_bytes(b"a photograph")
    (folder / "transforms.json").write_text(json.dumps({"frames": []}))
    return folder


def test_nerfstudio_folder_is_never_replaced(tmp_path):
    folder = nerfstudio_folder(tmp_path / "capture")
    before = file_hashes(tmp_path)
    with pytest.raises(InputError, match=r"capture is not replaced: it contains images/000\.png"):
        write_views(small_views(), folder, overwrite=True)
    with pytest.raises(InputError, match="is not replaced"):
        check_can_write_folder(folder, True, FOLDER_CONTENT)
    assert file_hashes(tmp_path) == before


@pytest.mark.parametrize("added", ["images/holiday.png", "images/raw/1.png", "notes.txt"])
def test_folder_with_user_files_is_not_replaced(tmp_path, added):
    folder = write_views(small_views(), tmp_path / "views")
    (folder / added).parent.mkdir(exist_ok=True)
    (folder / added).write_text("mine")
    before = file_hashes(tmp_path)
    with pytest.raises(InputError, match=added):
        write_views(small_views(0.5), folder, overwrite=True)
    assert file_hashes(tmp_path) == before


def test_folder_with_user_files_added_meanwhile_is_not_replaced(tmp_path):
    folder = write_views(small_views(), tmp_path / "views")
    with pytest.raises(InputError, match=r"late\.png"), atomic_folder(folder, True) as part:
        (part / "new").touch()
        (folder / "late.png").touch()
    assert (folder / "late.png").exists() and (folder / "transforms.json").exists()


def test_linked_images_are_foreign(tmp_path):
    folder = write_views(small_views(), tmp_path / "views")
    (folder / "images").rename(tmp_path / "photographs")
    (folder / "images").symlink_to(tmp_path / "photographs")
    with pytest.raises(InputError, match="it contains images"):
        write_views(small_views(0.5), folder, overwrite=True)
    assert len(os.listdir(tmp_path / "photographs")) == 2


def test_output_folder_of_another_kind_is_not_replaced(tmp_path):
    folder = write_views(small_views(), tmp_path / "views")
    with pytest.raises(InputError, match="is not replaced"):
        check_can_write_folder(folder, True, ("report.json",))
    check_can_write_folder(folder, True, FOLDER_CONTENT)


@pytest.mark.parametrize("manifest", ["{", "[]", '{"generator": "other", "files": ["a"]}', None])
def test_foreign_manifest_is_ignored(tmp_path, manifest):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").touch()
    if manifest is not None:
        (tmp_path / "out" / MANIFEST).write_text(manifest)
    with pytest.raises(InputError, match="it contains a,"):
        check_can_write_folder(tmp_path / "out", True)


@pytest.mark.parametrize("name", ["toy.obj", "toy.mtl", "toy.png"])
def test_user_file_next_to_an_obj_blocks_all_three(tmp_path, textured, name):
    (tmp_path / name).write_text("mine")
    for check in (
        lambda: check_can_write_mesh(tmp_path / "toy.obj", True),
        lambda: write_mesh(textured, tmp_path / "toy.obj", overwrite=True),
    ):
        with pytest.raises(InputError, match=f"{name} is not replaced"):
            check()
    assert os.listdir(tmp_path) == [name]
    assert (tmp_path / name).read_text() == "mine"
    with pytest.raises(InputError, match=f"{name} already exists"):
        check_can_write_mesh(tmp_path / "toy.obj", False)


@pytest.mark.parametrize("suffix", [".obj", ".glb", ".ply"])
def test_own_mesh_is_replaced(tmp_path, textured, suffix):
    path = write_mesh(textured, tmp_path / f"toy{suffix}")
    before = file_hashes(tmp_path)
    darker = replace(textured, texture=textured.texture * 0.5)
    check_can_write_mesh(path, True)
    write_mesh(darker, path, overwrite=True)
    assert file_hashes(tmp_path).keys() == before.keys()
    assert file_hashes(tmp_path) != before


@pytest.mark.parametrize("suffix", [".webp", ".gif"])
def test_own_turntable_is_replaced_but_user_image_is_not(tmp_path, suffix):
    path = write_turntable(torch.rand(2, 8, 8, 3), tmp_path / f"turn{suffix}")
    write_turntable(torch.rand(3, 8, 8, 3), path, overwrite=True)
    path.write_bytes(b"RIFF photograph")
    with pytest.raises(InputError, match="is not replaced"):
        check_turntable_path(path, True)


@pytest.mark.parametrize("failing_call", [1, 2, 3])
@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("failure", [OSError(5, "broken"), KeyboardInterrupt()], ids=repr)
def test_obj_mtl_and_image_are_written_atomically(
    tmp_path, textured, monkeypatch, failing_call, earlier, failure
):
    if earlier:
        write_mesh(textured, tmp_path / "toy.obj")
    before, count = file_hashes(tmp_path), iter(range(1, 9))

    def failing_rename(real_rename):
        def rename(source, target):
            if next(count) == failing_call:
                raise failure
            real_rename(source, target)

        return rename

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", failing_rename(os.replace))
        patched.setattr(renames, "move_file", failing_rename(renames.move_file))
        with pytest.raises((InputError, KeyboardInterrupt)):
            other = replace(textured, texture=1.0 - textured.texture)
            write_mesh(other, tmp_path / "toy.obj", overwrite=earlier)
    assert file_hashes(tmp_path) == before


def test_obj_export_without_its_texture_fails(tmp_path, textured, monkeypatch):
    from trimesh.visual.material import SimpleMaterial

    def interrupted(*_, **__):
        raise KeyboardInterrupt  # trimesh suppresses it

    monkeypatch.setattr(SimpleMaterial, "to_obj", interrupted)
    with pytest.raises(Exception, match="could not be exported"):
        write_mesh(textured, tmp_path / "toy.obj")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("suffix", [".mtl", ".png"])
@pytest.mark.parametrize("dangling", [False, True])
def test_symlink_next_to_an_obj_is_rejected(tmp_path, textured, suffix, dangling):
    (tmp_path / f"toy{suffix}").symlink_to(tmp_path / "photograph")
    if not dangling:
        (tmp_path / "photograph").write_text("mine")
    before = sorted(os.listdir(tmp_path)), file_hashes(tmp_path)
    for check in (
        lambda: check_can_write_mesh(tmp_path / "toy.obj", True),
        lambda: write_mesh(textured, tmp_path / "toy.obj", overwrite=True),
    ):
        with pytest.raises(InputError, match="is a symbolic link"):
            check()
    assert (sorted(os.listdir(tmp_path)), file_hashes(tmp_path)) == before


def test_obj_symlink_is_followed_for_all_files(tmp_path, textured):
    (tmp_path / "big_disk").mkdir()
    (tmp_path / "toy.obj").symlink_to(tmp_path / "big_disk" / "real.obj")
    check_can_write_mesh(tmp_path / "toy.obj", False)
    write_mesh(textured, tmp_path / "toy.obj")
    assert sorted(os.listdir(tmp_path / "big_disk")) == ["real.mtl", "real.obj", "real.png"]
    assert read_mesh(tmp_path / "big_disk" / "real.obj").texture is not None


def path_aliases(folder: Path) -> list[Path]:
    """Other paths of the same folder."""
    (folder.parent / "link").symlink_to(folder)
    (folder.parent / "above").symlink_to(folder.parent)
    relative = Path(os.path.relpath(folder))
    return [
        folder,
        folder / ".." / folder.name,
        folder.parent / "link",
        folder.parent / "above" / folder.name,
        relative,
    ]


def test_input_is_never_replaced_however_it_is_spelled(tmp_path):
    views = write_views(small_views(), tmp_path / "views")
    before = file_hashes(views)
    for path in path_aliases(views):
        with pytest.raises(InputError, match="is not replaced: it is the input"):
            check_can_write_folder(path, True, FOLDER_CONTENT, (views,))
        with pytest.raises(InputError, match="is not replaced: it contains the input"):
            check_can_write_folder(path, True, FOLDER_CONTENT, (views / "transforms.json",))
    assert file_hashes(views) == before


def test_mesh_whose_texture_file_is_the_input_image_is_rejected(tmp_path, textured):
    write_mesh(textured, tmp_path / "toy.obj")  # toy.png was written by NOVA3D
    (tmp_path / "link.png").symlink_to(tmp_path / "toy.png")
    for image in (tmp_path / "toy.png", tmp_path / "link.png"):
        with pytest.raises(InputError, match=r"toy\.png is not replaced: it is the input"):
            check_can_write_mesh(tmp_path / "toy.obj", True, (image, None))
    check_can_write_mesh(tmp_path / "toy.obj", True, (tmp_path / "other.png",))


@pytest.mark.parametrize("taken_first", [False, True])
def test_one_of_two_concurrent_writers_wins(tmp_path, taken_first):
    """Both start before the file exists; with `taken_first`, another program finishes first."""
    with pytest.raises(InputError, match="already exists"), atomic_file(tmp_path / "out") as part:
        part.write_text("late")
        if taken_first:
            (tmp_path / "out").write_text("early")
        else:
            with atomic_file(tmp_path / "out") as other:
                other.write_text("early")
    assert (tmp_path / "out").read_text() == "early"
    assert os.listdir(tmp_path) == ["out"]


def test_one_of_two_concurrent_folder_writers_wins(tmp_path):
    with pytest.raises(InputError, match="already exists"), atomic_folder(tmp_path / "out") as part:
        (part / "late").touch()
        with atomic_folder(tmp_path / "out") as other:
            (other / "early").touch()
    assert sorted(os.listdir(tmp_path / "out")) == [MANIFEST, "early"]
    assert os.listdir(tmp_path) == ["out"]


def test_files_are_rolled_back_if_the_last_name_is_taken(tmp_path):
    names = ("a.png", "a.mtl", "a.obj")
    with pytest.raises(InputError), atomic_files(tmp_path, names) as parts:
        for part in parts:
            part.touch()
        (tmp_path / "a.obj").write_text("early")
    assert os.listdir(tmp_path) == ["a.obj"]
    assert (tmp_path / "a.obj").read_text() == "early"


@pytest.mark.parametrize("missing", ["flags", "links", "both"])
def test_no_replace_without_file_system_support(tmp_path, monkeypatch, missing):
    def unsupported(*_, **__):
        raise PermissionError(1, "not supported")

    if missing in ("flags", "both"):
        monkeypatch.setattr(renames, "_rename_with", lambda *_: False)
    if missing in ("links", "both"):
        monkeypatch.setattr(os, "link", unsupported)
    (tmp_path / "part").write_text("new")
    (tmp_path / "taken").write_text("old")
    with pytest.raises(FileExistsError):
        renames.move_file(tmp_path / "part", tmp_path / "taken")
    renames.move_file(tmp_path / "part", tmp_path / "free")
    assert (tmp_path / "free").read_text() == "new"
    assert (tmp_path / "taken").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["free", "taken"]


@pytest.mark.parametrize(
    "check", [check_can_write_file, check_can_write_folder, check_can_write_mesh]
)
@pytest.mark.parametrize("subfolder", ["", "new/folder"])
def test_too_long_names_are_rejected_early(tmp_path, check, subfolder):
    fits = tmp_path / subfolder / ("n" * 251 + ".obj")
    check(fits, False)
    for name in ("n" * 252 + ".obj", "\u00e4" * 126 + ".obj", "n" * 5000 + "/a.obj"):
        with pytest.raises(InputError, match="the name is too long") as caught:
            check(tmp_path / subfolder / name, False)
        assert len(str(caught.value)) < 500


def test_longest_name_can_be_written(tmp_path):
    with atomic_file(tmp_path / ("n" * 255)) as part:
        part.write_text("text")
    with atomic_folder(tmp_path / ("f" * 255)) as part:
        (part / "inner").touch()
    assert sorted(map(len, os.listdir(tmp_path))) == [255, 255]


def test_path_without_room_for_a_temporary_name_is_rejected(tmp_path):
    deep = tmp_path
    while len(os.fsencode(deep)) < 4070:
        deep = deep / ("d" * min(200, 4090 - len(os.fsencode(deep))))
    with pytest.raises(InputError, match="too long"):
        check_can_write_file(deep / "a", False)


@pytest.mark.parametrize("name", ["toy.obj", "toy.mtl", "toy.png"])
def test_folder_at_a_file_path_is_rejected_early(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=f"{name} is a folder"):
        check_can_write_mesh(tmp_path / "toy.obj", True)


def test_foreign_dataset_is_not_replaced(tmp_path):
    (tmp_path / "dataset.json").write_text(json.dumps({"source": "another"}))
    (tmp_path / "shard-000000.tar").write_text("theirs")
    with pytest.raises(InputError, match="no training dataset"):
        open_dataset_dir(tmp_path, SETTINGS, overwrite=True)
    assert (tmp_path / "shard-000000.tar").read_text() == "theirs"


def test_recreating_a_dataset_deletes_only_its_shards(tmp_path):
    open_dataset_dir(tmp_path, SETTINGS, overwrite=False)
    for name in ("shard-000000.tar", "shard-mine.tar", "shard-000000.tar.bak"):
        (tmp_path / name).touch()
    open_dataset_dir(tmp_path, {**SETTINGS, "seed": 2}, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == [
        "dataset.json", "shard-000000.tar.bak", "shard-mine.tar",
    ]  # fmt: skip


def test_folder_at_a_shard_path_is_rejected_early(tmp_path):
    open_dataset_dir(tmp_path, SETTINGS, overwrite=False)
    (tmp_path / "shard-000001.tar").mkdir()
    with pytest.raises(InputError, match=r"shard-000001\.tar is a folder"):
        open_dataset_dir(tmp_path, SETTINGS, overwrite=False)
