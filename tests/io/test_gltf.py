"""Hand-made glTF files: each feature of the format, with the result of its specification."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
import torch

from nova3d_core.errors import InputError
from nova3d_core.imaging.sampling import sample_texture
from nova3d_core.io.mesh.read import read_mesh

from .gltf_builder import (
    BLUE,
    CORNERS,
    GREEN,
    QUADRANTS,
    RED,
    TRIANGLES,
    UV,
    YELLOW,
    Gltf,
    png,
)


def colours_at_corners(mesh) -> torch.Tensor:
    return sample_texture(mesh.texture, mesh.uv)


def test_uv_origin_is_top_left(tmp_path):
    model = Gltf(TEXCOORD_0=UV)
    model.add_material()
    mesh = model.read(tmp_path)
    assert torch.equal(mesh.vertices, torch.from_numpy(CORNERS))
    assert torch.equal(mesh.uv, torch.from_numpy(UV))
    assert torch.equal(mesh.texture, torch.from_numpy(QUADRANTS / np.float32(255)))
    assert torch.equal(colours_at_corners(mesh), torch.stack([BLUE, YELLOW, GREEN, RED]))
    assert mesh.normals is None


@pytest.mark.parametrize("dtype", ["<u1", "<u2"])
def test_integer_uv_are_normalised(tmp_path, dtype):
    max_value = np.iinfo(dtype).max
    corners = np.array(
        [[0, max_value], [max_value, max_value], [max_value, 0], [0, 0]], dtype=dtype
    )
    model = Gltf(TEXCOORD_0=corners)
    model.add_material()
    assert model.read(tmp_path).uv.tolist() == [[0, 1], [1, 1], [1, 0], [0, 0]]


def test_base_colour_factor_is_linear(tmp_path):
    model = Gltf()
    model.add_material(texture=False, baseColorFactor=[0.2140411, 1.0, 0.0, 0.5])
    mesh = model.read(tmp_path)
    expected = torch.tensor([0.5, 1.0, 0.0]).expand(4, 3)
    torch.testing.assert_close(mesh.vertex_colours, expected, atol=1e-6, rtol=0)
    assert mesh.texture is None


def test_base_colour_factor_multiplies_the_texture_in_linear_light(tmp_path):
    model = Gltf(TEXCOORD_0=UV)
    model.add_material(baseColorFactor=[0.2140411, 0.2140411, 1.0, 1.0])
    expected = torch.stack([BLUE, YELLOW * 0.5, GREEN * 0.5, RED * 0.5])
    found = colours_at_corners(model.read(tmp_path))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", ["<u1", "<u2", "<f4"])
def test_vertex_colours_are_linear_in_every_component_type(tmp_path, dtype):
    max_value = 1.0 if dtype == "<f4" else np.iinfo(dtype).max
    linear = np.array([[0, 0.2140411, 1, 1]] * 4) * max_value
    stored = linear.round().astype(dtype) if dtype != "<f4" else linear.astype(dtype)
    mesh = Gltf(COLOR_0=stored).read(tmp_path)
    expected = torch.tensor([0.0, 0.5, 1.0]).expand(4, 3)
    torch.testing.assert_close(
        mesh.vertex_colours, expected, atol=3e-3 if dtype == "<u1" else 2e-5, rtol=0
    )


def test_base_colour_factor_multiplies_vertex_colours(tmp_path):
    model = Gltf(COLOR_0=np.full((4, 3), 0.5, dtype="<f4"))
    model.add_material(texture=False, baseColorFactor=[0.4280822, 0.4280822, 0.4280822, 1.0])
    found = model.read(tmp_path).vertex_colours
    torch.testing.assert_close(found, torch.full((4, 3), 0.5), atol=1e-6, rtol=0)


def test_nodes_transform_their_children(tmp_path):
    model = Gltf(NORMAL=np.array([[0, 0, 1]] * 4, dtype="<f4"))
    half = np.sqrt(0.5)
    model.header["nodes"] = [
        {"translation": [10, 0, 0], "rotation": [0, half, 0, half], "children": [1]},
        {"scale": [2, 3, 4], "mesh": 0},
    ]
    mesh = model.read(tmp_path)
    # 90 degrees about +Y map x to -z and z to x
    expected = torch.tensor([[10.0, 0, 0], [10, 0, -2], [10, 3, -2], [10, 3, 0]])
    torch.testing.assert_close(mesh.vertices, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(mesh.normals, torch.tensor([1.0, 0, 0]).expand(4, 3))
    torch.testing.assert_close(mesh.face_normals, torch.tensor([1.0, 0, 0]).expand(2, 3))


def test_reflection_keeps_faces_outwards(tmp_path):
    model = Gltf(NORMAL=np.array([[0, 0, 1]] * 4, dtype="<f4"))
    model.header["nodes"][0]["matrix"] = [-1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 5, 6, 7, 1]
    mesh = model.read(tmp_path)
    assert mesh.vertices[1].tolist() == [4, 6, 7]
    assert torch.equal(mesh.face_normals, torch.tensor([[0.0, 0, 1]] * 2))
    assert torch.equal(mesh.normals, torch.tensor([[0.0, 0, 1]] * 4))


def test_mesh_used_twice_appears_twice_and_other_scenes_are_ignored(tmp_path):
    model = Gltf()
    model.header |= {
        "scene": 1,
        "scenes": [{"nodes": [0]}, {"nodes": [1, 2]}],
        "nodes": [{"mesh": 0}, {"mesh": 0, "translation": [5, 0, 0]}, {"mesh": 0}],
    }
    mesh = model.read(tmp_path)
    assert len(mesh.faces) == 4
    assert torch.equal(mesh.vertices[:4] - mesh.vertices[4:], torch.tensor([[5.0, 0, 0]] * 4))


@pytest.mark.parametrize(
    ("mode", "order"), [(5, [0, 1, 3, 2]), (6, [0, 1, 2, 3]), (4, [0, 1, 2, 0, 2, 3])]
)
def test_strips_and_fans_keep_their_orientation(tmp_path, mode, order):
    model = Gltf()
    model.header["meshes"][0]["primitives"] = []
    model.add_primitive(np.array(order, dtype="<u1"))["mode"] = mode
    mesh = model.read(tmp_path)
    assert torch.equal(mesh.face_normals, torch.tensor([[0.0, 0, 1]] * 2))
    assert float(mesh.face_areas.sum()) == 1.0


def test_non_indexed_triangles_and_lines(tmp_path):
    model = Gltf()
    model.header["meshes"][0]["primitives"] = []
    model.add_primitive(None, POSITION=CORNERS[:3])
    model.add_primitive(TRIANGLES)["mode"] = 1
    assert model.read(tmp_path).faces.tolist() == [[0, 1, 2]]


def test_interleaved_attributes_use_byte_stride(tmp_path):
    model = Gltf(TEXCOORD_0=UV)
    model.add_material()
    rows = np.concatenate([CORNERS, UV], axis=1).astype("<f4")
    view = model.view(rows.tobytes())
    model.header["bufferViews"][view]["byteStride"] = 20
    model.header["accessors"][0] |= {"bufferView": view}
    model.header["accessors"][1] |= {"bufferView": view, "byteOffset": 12}
    mesh = model.read(tmp_path)
    assert torch.equal(mesh.vertices, torch.from_numpy(CORNERS))
    assert torch.equal(mesh.uv, torch.from_numpy(UV))


def test_sparse_values_replace_stored_ones(tmp_path):
    model = Gltf()
    model.header["accessors"][0]["sparse"] = {
        "count": 1,
        "indices": {
            "bufferView": model.view(np.array([2], "<u2").tobytes()),
            "componentType": 5123,
        },
        "values": {"bufferView": model.view(np.array([7, 8, 9], "<f4").tobytes())},
    }
    vertices = model.read(tmp_path).vertices
    assert vertices[2].tolist() == [7, 8, 9]
    assert torch.equal(vertices[[0, 1, 3]], torch.from_numpy(CORNERS[[0, 1, 3]]))


def test_texture_transform_scales_rotates_and_translates(tmp_path):
    """The specification's own example: the lower left quarter, rotated by 90 degrees."""
    model = Gltf(TEXCOORD_0=UV, TEXCOORD_1=np.array([[0, 0], [1, 0], [1, 1], [0, 1]], "<f4"))
    transform = {"offset": [0, 1], "rotation": np.pi / 2, "scale": [0.5, 0.5], "texCoord": 1}
    material = model.add_material()
    info = material["pbrMetallicRoughness"]["baseColorTexture"]
    info["extensions"] = {"KHR_texture_transform": transform}
    expected = torch.tensor([[0, 1], [0, 0.5], [0.5, 0.5], [0.5, 1]])
    torch.testing.assert_close(model.read(tmp_path).uv, expected, atol=1e-6, rtol=0)


def test_uv_set_of_the_texture_is_used(tmp_path):
    model = Gltf(TEXCOORD_0=UV * 0, TEXCOORD_1=UV)
    model.add_material()["pbrMetallicRoughness"]["baseColorTexture"]["texCoord"] = 1
    assert torch.equal(model.read(tmp_path).uv, torch.from_numpy(UV))


def test_specular_glossiness_materials_give_their_diffuse_colour(tmp_path):
    model = Gltf()
    model.add_material(texture=False)["extensions"] = {
        "KHR_materials_pbrSpecularGlossiness": {"diffuseFactor": [0, 1, 0, 1]}
    }
    assert torch.equal(model.read(tmp_path).vertex_colours, GREEN.expand(4, 3))


def test_skinned_mesh_follows_its_joints(tmp_path):
    """The mesh node's own transform is ignored; two corners follow each joint."""
    weights = np.array([[1, 0, 0, 0]] * 4, dtype="<f4")
    model = Gltf(
        NORMAL=np.array([[0, 0, 1]] * 4, dtype="<f4"),
        JOINTS_0=np.array([[0] * 4, [0] * 4, [1] * 4, [1] * 4], dtype="<u1"),
        WEIGHTS_0=weights,
    )
    model.header["accessors"][2].pop("normalized")
    binds = np.stack([np.eye(4), np.eye(4)])
    binds[1, :3, 3] = [0, -1, 0]  # the rest position of joint 1 is at height 1
    columns = binds.transpose(0, 2, 1).reshape(2, 16).astype("<f4")
    model.header["skins"] = [{"joints": [1, 2], "inverseBindMatrices": model.accessor(columns)}]
    half = np.sqrt(0.5)
    model.header["nodes"] = [
        {"mesh": 0, "skin": 0, "scale": [100, 100, 100]},
        {"children": [2]},
        {"translation": [0, 5, 0], "rotation": [0, half, 0, half]},
    ]
    model.header["scenes"] = [{"nodes": [0, 1]}]
    mesh = model.read(tmp_path)
    expected = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 5, -1], [0, 5, 0]])
    torch.testing.assert_close(mesh.vertices, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(mesh.normals[2], torch.tensor([1.0, 0, 0]), atol=1e-6, rtol=0)


def save_with_external_files(model: Gltf, folder) -> dict:
    """Saves a .gltf with buffer and image in external files; returns the header."""
    model.header["buffers"] = [{"byteLength": len(model.data), "uri": "the%20data.bin"}]
    model.header["images"] = [{"uri": "colours.png"}]
    (folder / "the data.bin").write_bytes(model.data)
    (folder / "colours.png").write_bytes(png(QUADRANTS))
    (folder / "model.gltf").write_text(json.dumps(model.header))
    return model.header


def test_gltf_reads_external_files_and_data_uris(tmp_path):
    model = Gltf(TEXCOORD_0=UV)
    model.add_material()
    header = save_with_external_files(model, tmp_path)
    mesh = read_mesh(tmp_path / "model.gltf")
    assert torch.equal(colours_at_corners(mesh), torch.stack([BLUE, YELLOW, GREEN, RED]))
    header["buffers"][0]["uri"] = "data:;base64," + base64.b64encode(model.data).decode()
    header["images"][0]["uri"] = (
        "data:image/png;base64," + base64.b64encode(png(QUADRANTS)).decode()
    )
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "model.gltf").write_text(json.dumps(header))
    reloaded = read_mesh(tmp_path / "alone" / "model.gltf")
    for name in ("vertices", "faces", "uv", "texture"):
        assert torch.equal(getattr(reloaded, name), getattr(mesh, name)), name


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("colours.png", r"texture colours\.png referenced by model\.gltf is missing.*Put it at"),
        ("the data.bin", r"buffer the%20data\.bin referenced by model\.gltf is missing"),
    ],
)
def test_missing_external_file_is_an_error(tmp_path, missing, message):
    model = Gltf(TEXCOORD_0=UV)
    model.add_material()
    save_with_external_files(model, tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(InputError, match=message):
        read_mesh(tmp_path / "model.gltf")


def test_truncated_glb_is_an_error_naming_it(tmp_path):
    model = Gltf(TEXCOORD_0=UV)
    model.add_material()
    content = model.glb()
    path = tmp_path / "cut.glb"
    for length in [*range(1, 24), *range(24, len(content) - 1, 97), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"cut\.glb"):
            read_mesh(path)


def test_data_compression_extension_is_rejected_by_name(tmp_path):
    model = Gltf()
    model.header["extensionsRequired"] = ["KHR_materials_unlit", "KHR_draco_mesh_compression"]
    with pytest.raises(InputError, match=r"KHR_draco_mesh_compression.*without compression"):
        model.read(tmp_path)


def test_unsupported_texture_format_is_an_error(tmp_path):
    model = Gltf(TEXCOORD_0=UV)
    model.add_material()
    model.header["textures"] = [{"extensions": {"KHR_texture_basisu": {"source": 0}}}]
    with pytest.raises(InputError, match=r"model\.glb.*unsupported image format"):
        model.read(tmp_path)


def test_empty_scenes_and_old_versions_are_errors(tmp_path):
    model = Gltf()
    model.header["nodes"] = [{}]
    with pytest.raises(InputError, match=r"model\.glb: it has no faces"):
        model.read(tmp_path)
    model.header["asset"]["version"] = "1.0"
    with pytest.raises(InputError, match=r"glTF 1\.0.*2\.0"):
        model.read(tmp_path)


def test_nan_positions_are_an_error_naming_the_file(tmp_path):
    corners = CORNERS.copy()
    corners[1, 2] = np.nan
    with pytest.raises(InputError, match=r"model\.glb: mesh vertices has 1 values that are NaN"):
        Gltf(POSITION=corners).read(tmp_path)
