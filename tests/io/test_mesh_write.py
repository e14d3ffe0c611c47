"""Writing GLB, OBJ and PLY: content of the files, and atomic writes."""

from __future__ import annotations

import io
import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nova3d_core.errors import InputError
from nova3d_core.imaging.sampling import sample_texture
from nova3d_core.io.mesh.read import read_mesh
from nova3d_core.io.mesh.write import mesh_to_glb_bytes, write_glb, write_mesh
from nova3d_core.mesh import Mesh


@pytest.fixture
def textured(make_sphere) -> Mesh:
    """A sphere of 162 vertices with a noise texture (5 x 7) and asymmetric uv."""
    sphere = make_sphere(subdivisions=2)
    generator = torch.Generator().manual_seed(3)
    texture = torch.randint(0, 256, (5, 7, 3), generator=generator) / 255.0
    return replace(
        sphere, uv=torch.rand(len(sphere.vertices), 2, generator=generator), texture=texture
    )


@pytest.fixture
def vertex_coloured(make_sphere) -> Mesh:
    """A sphere with vertex colours over the whole range and no normals."""
    sphere = make_sphere(subdivisions=2)
    generator = torch.Generator().manual_seed(4)
    colours = torch.rand(len(sphere.vertices), 3, generator=generator) ** 4  # many dark ones
    return replace(sphere, normals=None, vertex_colours=colours)


def parsed_glb(content: bytes) -> tuple[dict, bytes]:
    """JSON header and binary chunk of a GLB, parsed after the specification."""
    magic, version, length, json_length, json_kind = struct.unpack_from("<4sII I4s", content)
    assert (magic, version, length, json_kind) == (b"glTF", 2, len(content), b"JSON")
    binary_length, binary_kind = struct.unpack_from("<I4s", content, 20 + json_length)
    assert binary_kind == b"BIN\0"
    assert json_length % 4 == binary_length % 4 == 0
    header = json.loads(content[20 : 20 + json_length])
    return header, content[28 + json_length : 28 + json_length + binary_length]


def attribute(header: dict, binary: bytes, name: str) -> tuple[dict, np.ndarray]:
    """An attribute's accessor and its float values (N, width)."""
    accessor = header["accessors"][header["meshes"][0]["primitives"][0]["attributes"][name]]
    assert accessor["componentType"] == 5126
    view = header["bufferViews"][accessor["bufferView"]]
    start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
    width = {"VEC2": 2, "VEC3": 3}[accessor["type"]]
    values = np.frombuffer(binary, "<f4", accessor["count"] * width, start)
    return accessor, values.reshape(-1, width)


def test_glb_round_trip(textured, tmp_path):
    path = write_glb(textured, tmp_path / "new folder" / "sphere.glb")
    reloaded = read_mesh(path)
    for name in ("vertices", "faces", "uv", "texture"):
        assert torch.equal(getattr(reloaded, name), getattr(textured, name)), name
    torch.testing.assert_close(reloaded.normals, textured.normals, atol=2e-7, rtol=0)
    assert reloaded.vertex_colours is None


def test_glb_header(textured):
    textured = replace(textured, uv=0.15 + 0.7 * textured.uv)  # half a texel from all borders
    header, binary = parsed_glb(mesh_to_glb_bytes(textured, extras={"prompt": "a ball"}))
    assert header["asset"]["generator"] == "NOVA3D for ComfyUI"
    assert header["asset"]["extras"] == {"prompt": "a ball"}
    assert [len(header[kind]) for kind in ("meshes", "materials", "textures", "images")] == [1] * 4

    accessor, positions = attribute(header, binary, "POSITION")
    assert np.array_equal(positions, textured.vertices.numpy())
    assert np.array_equal(np.float32(accessor["min"]), positions.min(axis=0))
    assert np.array_equal(np.float32(accessor["max"]), positions.max(axis=0))
    assert np.array_equal(attribute(header, binary, "TEXCOORD_0")[1], textured.uv.numpy())
    normals = attribute(header, binary, "NORMAL")[1]
    assert np.abs(np.linalg.norm(normals, axis=1) - 1).max() < 1e-6

    surface = header["materials"][0]["pbrMetallicRoughness"]
    assert (surface["metallicFactor"], surface["roughnessFactor"]) == (0.0, 1.0)
    described = header["textures"][surface["baseColorTexture"]["index"]]
    primitive = header["meshes"][0]["primitives"][0]
    views = [header["bufferViews"][a["bufferView"]] for a in header["accessors"]]
    assert views[primitive["indices"]]["target"] == 34963
    assert {views[a]["target"] for a in primitive["attributes"].values()} == {34962}
    sampler = header["samplers"][described["sampler"]]
    assert sampler == {"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}
    image = header["images"][described["source"]]
    view = header["bufferViews"][image["bufferView"]]
    content = binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
    assert image["mimeType"] == "image/png"
    image = np.asarray(Image.open(io.BytesIO(content)))
    assert np.array_equal(image, (textured.texture * 255).round().byte().numpy())


def test_glb_vertex_colours_are_linear_floats(vertex_coloured, tmp_path):
    colours = vertex_coloured.vertex_colours.clone()
    colours[0] = torch.tensor([0.5, 1.0, 1.0 / 255.0])
    mesh = replace(vertex_coloured, vertex_colours=colours)
    header, binary = parsed_glb(mesh_to_glb_bytes(mesh))
    linear = attribute(header, binary, "COLOR_0")[1]
    assert linear[0] == pytest.approx([0.2140411, 1.0, 1.0 / 255.0 / 12.92], rel=1e-5)
    reloaded = read_mesh(write_glb(mesh, tmp_path / "vertex_coloured.glb"))
    torch.testing.assert_close(reloaded.vertex_colours, colours, atol=1e-6, rtol=0)
    assert reloaded.texture is None


def test_mesh_without_normals_is_written_with_smooth_ones(vertex_coloured, tmp_path):
    lonely = torch.cat([vertex_coloured.vertices, torch.zeros(1, 3)])  # an unused vertex
    colours = torch.cat([vertex_coloured.vertex_colours, torch.zeros(1, 3)])
    mesh = replace(vertex_coloured, vertices=lonely, vertex_colours=colours)
    normals = read_mesh(write_glb(mesh, tmp_path / "smooth.glb")).normals
    outwards = vertex_coloured.vertices / vertex_coloured.vertices.norm(dim=1, keepdim=True)
    assert float((normals[:-1] * outwards).sum(dim=1).min()) > 0.999
    assert float(normals[-1].norm()) == pytest.approx(1.0)


@pytest.mark.parametrize("scale", [2.0, 1.0])
def test_glb_wrap_mode_depends_on_uv(textured, scale):
    header, _ = parsed_glb(mesh_to_glb_bytes(replace(textured, uv=textured.uv * scale)))
    assert (header["samplers"][0]["wrapS"], header["samplers"][0]["wrapT"]) == (10497, 10497)


def test_obj_round_trip(textured, tmp_path):
    path = write_mesh(textured, tmp_path / "my ball.obj")
    names = {"my ball.obj", "my ball.mtl", "my ball.png"}
    assert {file.name for file in tmp_path.iterdir()} == names
    reloaded = read_mesh(path)
    assert torch.equal(reloaded.faces, textured.faces)
    assert torch.equal(reloaded.texture, textured.texture)
    for name in ("vertices", "uv", "normals"):
        torch.testing.assert_close(
            getattr(reloaded, name), getattr(textured, name), atol=1e-7, rtol=1e-6
        )


def test_obj_without_texture_keeps_vertex_colours(vertex_coloured, tmp_path):
    reloaded = read_mesh(write_mesh(vertex_coloured, tmp_path / "vertex_coloured.obj"))
    assert [file.name for file in tmp_path.iterdir()] == ["vertex_coloured.obj"]
    torch.testing.assert_close(
        reloaded.vertex_colours, vertex_coloured.vertex_colours, atol=0.5 / 255 + 1e-6, rtol=0
    )
    assert reloaded.normals is None


def test_ply_vertex_colours_to_half_a_level(vertex_coloured, tmp_path):
    reloaded = read_mesh(write_mesh(vertex_coloured, tmp_path / "vertex_coloured.ply"))
    assert torch.equal(reloaded.vertices, vertex_coloured.vertices)
    assert torch.equal(reloaded.faces, vertex_coloured.faces)
    torch.testing.assert_close(
        reloaded.vertex_colours, vertex_coloured.vertex_colours, atol=0.5 / 255 + 1e-6, rtol=0
    )


def test_ply_samples_the_texture_at_vertices(textured, tmp_path):
    reloaded = read_mesh(write_mesh(textured, tmp_path / "sampled.ply"))
    expected = sample_texture(textured.texture, textured.uv)
    torch.testing.assert_close(reloaded.vertex_colours, expected, atol=0.5 / 255 + 1e-6, rtol=0)
    torch.testing.assert_close(reloaded.normals, textured.normals, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["mesh.glb", "mesh.obj", "mesh.ply"])
def test_existing_file_is_replaced_only_with_overwrite(textured, tmp_path, name):
    path = tmp_path / name
    path.write_text("mine")
    with pytest.raises(InputError, match="already exists"):
        write_mesh(textured, path)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert path.read_text() == "mine"
    with pytest.raises(InputError, match="NOVA3D did not write"):
        write_mesh(textured, path, overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert path.read_text() == "mine"
    path.unlink()
    write_mesh(textured, path)
    write_mesh(replace(textured, faces=textured.faces[:-1]), path, overwrite=True)
    assert len(read_mesh(path).faces) == len(textured.faces) - 1


def test_obj_is_rejected_if_its_mtl_exists(textured, tmp_path):
    (tmp_path / "mesh.mtl").write_text("mine")
    with pytest.raises(InputError, match=r"mesh\.mtl already exists"):
        write_mesh(textured, tmp_path / "mesh.obj")
    assert [file.name for file in tmp_path.iterdir()] == ["mesh.mtl"]


@pytest.mark.parametrize("name", ["mesh.glb", "mesh.obj", "mesh.ply"])
def test_uncreatable_folder_is_one_line(textured, tmp_path, name):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match="could not be written"):
        write_mesh(textured, tmp_path / "file" / name)


@pytest.mark.parametrize(
    ("name", "write"),
    [("mesh.glb", 1), ("mesh.ply", 1), ("mesh.obj", 1), ("mesh.obj", 2), ("mesh.obj", 3)],
)
def test_interrupt_while_writing_leaves_no_files(textured, tmp_path, monkeypatch, name, write):
    """The n-th file is interrupted half-way; a GLB has one file, an OBJ three."""
    original, count = Path.write_bytes, iter(range(1, 9))

    def interrupted(path: Path, content: bytes) -> int:
        if next(count) < write:
            return original(path, content)
        original(path, content[: len(content) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_mesh(textured, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_unknown_suffix_error_lists_the_supported_ones(textured, tmp_path):
    with pytest.raises(InputError, match=r"\.fbx.*Use one of \.glb, \.obj, \.ply"):
        write_mesh(textured, tmp_path / "mesh.fbx")
    with pytest.raises(InputError, match=r"ends in \.glb"):
        write_glb(textured, tmp_path / "mesh.gltf")
