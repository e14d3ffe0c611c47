"""Output names: OBJ names that break references, and overlapping outputs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from nova3d_core.errors import InputError
from nova3d_core.io.files.ownership import reject_overlapping_outputs
from nova3d_core.io.mesh.read import read_mesh
from nova3d_core.io.mesh.write import check_can_write_mesh, mesh_output_files, write_mesh
from nova3d_core.mesh import Mesh

MESH_READERS = [
    "a b",
    "a  b",
    "a#b",
    "a #b",
    "#a",
    '"a"',
    "a.mtl b",
    "ä漢",
    "a\xa0b",
    "a%20b",
    "a.b.",
]
UNREADABLE = [" a", "a ", "a\nb", "a\rb", "a\\b", "a\\", "a:b", "-o a", "a\udcff", "a\u2028b"]


@pytest.fixture
def textured() -> Mesh:
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    faces = torch.tensor([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]])
    texture = torch.randint(0, 256, (8, 8, 3)) / 255.0
    return Mesh(vertices, faces, uv=vertices[:, :2], texture=texture)


@pytest.mark.parametrize("stem", MESH_READERS)
def test_obj_with_an_unusual_name_keeps_its_texture(textured, tmp_path, stem):
    path = tmp_path / f"{stem}.obj"
    check_can_write_mesh(path, False)
    read = read_mesh(write_mesh(textured, path))
    torch.testing.assert_close(read.texture, textured.texture, rtol=0, atol=1e-6)


@pytest.mark.skipif(os.name == "nt", reason="most of these are no names there")
@pytest.mark.parametrize("stem", UNREADABLE)
def test_obj_name_that_breaks_references_is_rejected_early(textured, tmp_path, stem):
    path = tmp_path / f"{stem}.obj"
    with pytest.raises(InputError, match="an OBJ cannot refer to files of this name"):
        check_can_write_mesh(path, False)
    with pytest.raises(InputError, match="an OBJ cannot refer to files of this name"):
        write_mesh(textured, path)
    assert list(tmp_path.iterdir()) == []
    write_mesh(textured, tmp_path / f"{stem}.glb")
    assert read_mesh(tmp_path / f"{stem}.glb").texture is not None


def test_name_with_nul_is_an_input_error(textured, tmp_path):
    for suffix in (".obj", ".glb", ".ply"):
        with pytest.raises(InputError, match="NUL"):
            write_mesh(textured, tmp_path / f"a\0b{suffix}")


@pytest.mark.parametrize(
    ("file", "folder"),
    [
        ("v", "v"),
        ("v/mesh.glb", "v"),
        ("v/a/mesh.glb", "./x/../v/"),
        ("mesh.glb", "mesh.glb/v"),
        ("mesh.obj", "mesh.png"),
        ("mesh.obj", "mesh.mtl/v"),
        ("link/mesh.glb", "v"),
        ("V/mesh.glb", "v"),
    ],
)
def test_overlapping_outputs_are_rejected(tmp_path, file, folder):
    (tmp_path / "v").mkdir()
    (tmp_path / "link").symlink_to("v")
    with pytest.raises(InputError, match=r"the outputs .*for --details"):
        reject_overlapping_outputs(
            mesh_output_files(tmp_path / file), (tmp_path / folder,), "--details"
        )


@pytest.mark.parametrize(
    ("file", "folder"), [("mesh.glb", "mesh"), ("v/mesh.glb", "v/views"), ("a/m.obj", "b/m.png")]
)
def test_sibling_outputs_are_accepted(tmp_path: Path, file, folder):
    reject_overlapping_outputs(mesh_output_files(tmp_path / file), (tmp_path / folder,))
