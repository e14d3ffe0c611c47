"""Containment: a mesh opens no file outside its folder, whatever the path notation."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nova3d_core.errors import InputError
from nova3d_core.io.mesh.primitives import load_relative_texture
from nova3d_core.io.mesh.read import read_mesh

FAULTS = Path(__file__).parents[1] / "data" / "faults"
TRIANGLE = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], "<f4").tobytes()

_recordings: list[list[Path]] = []


def _record_opened(event: str, arguments: tuple) -> None:
    if not _recordings or event not in ("open", "os.listdir", "os.scandir"):
        return
    if isinstance(arguments[0], str | bytes | Path):
        _recordings[-1].append(Path(arguments[0] if arguments[0] else ".").resolve())


# audit hooks cannot be removed: this one is inactive unless enabled
sys.addaudithook(_record_opened)


@contextmanager
def opened_files() -> Iterator[list[Path]]:
    """Records the files and folders that Python opens in the block."""
    _recordings.append([])
    try:
        yield _recordings[-1]
    finally:
        _recordings.pop()


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    """A mesh folder, and one next to it with a buffer and a texture that must not be opened."""
    inside, outside = tmp_path / "mesh", tmp_path / "secret"
    inside.mkdir()
    outside.mkdir()
    (outside / "data.bin").write_bytes(TRIANGLE)
    Image.new("RGB", (2, 2), "red").save(outside / "data.png")
    return inside, outside


def header(buffer: str, image: str | None = None) -> dict:
    """A triangle with URIs for its buffer and optionally its texture."""
    model = {
        "asset": {"version": "2.0"},
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
        "accessors": [{"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"}],
        "bufferViews": [{"buffer": 0, "byteLength": 36}],
        "buffers": [{"uri": buffer, "byteLength": 36}],
    }
    if image is not None:
        model["images"] = [{"uri": image}]
        model["textures"] = [{"source": 0}]
        model["materials"] = [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}]
        model["meshes"][0]["primitives"][0]["material"] = 0
    return model


OUTSIDE = [
    "../secret/data.{}",
    "%2e%2e/secret/data.{}",
    "..%2Fsecret%2Fdata.{}",
    "..%5Csecret%5Cdata.{}",
    "..\\secret\\data.{}",
    "sub/../../secret/data.{}",
    "{outside}/data.{}",
    "file://{outside}/data.{}",
    "FILE:{outside}/data.{}",
    "http://localhost/data.{}",
    "C:/secret/data.{}",
    "C:data.{}",
    "\\\\host\\share\\data.{}",
    "//host/share/data.{}",
    "link/data.{}",
    "linked.{}",
]


@pytest.mark.parametrize("kind", ["bin", "png"])
@pytest.mark.parametrize("uri", OUTSIDE)
def test_gltf_opens_no_files_outside_its_folder(folders, uri, kind):
    inside, outside = folders
    (inside / "link").symlink_to(outside)
    (inside / "linked.bin").symlink_to(outside / "data.bin")
    (inside / "linked.png").symlink_to(outside / "data.png")
    (inside / "own.bin").write_bytes(TRIANGLE)
    uri = uri.replace("{outside}", str(outside)).format(kind)
    model = header(uri) if kind == "bin" else header("own.bin", uri)
    path = inside / "model.gltf"
    path.write_text(json.dumps(model))
    with opened_files() as opened, pytest.raises(InputError, match=r"model\.gltf") as caught:
        read_mesh(path)
    assert path.resolve() in opened  # the hook works
    assert not [each for each in opened if each.is_relative_to(outside)]
    assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)


def test_shared_example_is_rejected_by_name(tmp_path):
    shutil.copy(FAULTS / "buffer_outside.gltf", tmp_path)
    (tmp_path.parent / "outside.bin").write_bytes(TRIANGLE)
    with opened_files() as opened, pytest.raises(InputError, match=r"points outside.*outside\.bin"):
        read_mesh(tmp_path / "buffer_outside.gltf")
    assert (tmp_path.parent / "outside.bin").resolve() not in opened


@pytest.mark.parametrize(
    "uri", ["a%20b.bin", "a b.bin", "./a%20b.bin", "sub/%C3%A9.bin", "100%.bin"]
)
def test_encoded_paths_inside_the_folder_are_read(tmp_path, uri):
    (tmp_path / "sub").mkdir()
    for name in ("a b.bin", "sub/é.bin", "100%.bin"):
        (tmp_path / name).write_bytes(TRIANGLE)
    (tmp_path / "model.gltf").write_text(json.dumps(header(uri)))
    assert read_mesh(tmp_path / "model.gltf").vertices[1].tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "name",
    [
        "../secret/data.png",
        "..\\secret\\data.png",
        "{outside}/data.png",
        "C:\\secret\\data.png",
        "\\\\host\\share\\data.png",
        "link/data.png",
        "LINK/data.png",
    ],
)
def test_absolute_path_is_looked_up_by_base_name_inside(folders, name):
    inside, outside = folders
    (inside / "link").symlink_to(outside)
    name = name.replace("{outside}", str(outside))
    with opened_files() as opened, pytest.raises(InputError, match=r"model\.mtl"):
        load_relative_texture(inside, name, "model.mtl")
    assert inside.resolve() in opened
    assert not [each for each in opened if each.is_relative_to(outside)]
    Image.new("RGB", (1, 1), (0, 0, 255)).save(inside / "Data.PNG")
    with opened_files() as opened:
        texture = load_relative_texture(inside, name, "model.mtl")
    assert torch.from_numpy(texture).flatten().tolist() == [0.0, 0.0, 1.0]
    assert not [each for each in opened if each.is_relative_to(outside)]


def test_letter_case_of_path_components_is_ignored(tmp_path):
    (tmp_path / "Textures").mkdir()
    Image.new("RGB", (1, 1), (0, 255, 0)).save(tmp_path / "Textures" / "Wood.PNG")
    texture = load_relative_texture(tmp_path, "textures\\wood.png", "model.mtl")
    assert texture.flatten().tolist() == [0.0, 1.0, 0.0]
