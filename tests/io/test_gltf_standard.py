"""Conformance to the glTF standard and its extensions, with known results."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from nova3d_core.errors import InputError
from nova3d_core.imaging.sampling import sample_texture
from nova3d_core.io.files.json_fields import parse_json_object
from nova3d_core.io.images.srgb import linear_from_srgb, srgb_from_linear
from nova3d_core.io.mesh import texture_atlas
from nova3d_core.io.mesh.read import read_mesh

from .gltf_builder import BLUE, CORNERS, GREEN, QUADRANTS, RED, UV, YELLOW, Gltf, png

FAULTS = Path(__file__).parents[1] / "data" / "faults"
FULL_UV = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], "<f4")


def points_within(mesh) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions (P, 3) and texture colours (P, 3) at 10 points in each face."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(10, 3, generator=generator)
    weights = weights / weights.sum(dim=1, keepdim=True)
    positions, uv = (
        torch.einsum("pk,fkc->fpc", weights, each[mesh.faces]).reshape(-1, each.shape[1])
        for each in (mesh.vertices, mesh.uv)
    )
    return positions, sample_texture(mesh.texture, uv)


def test_texture_times_vertex_colour_is_red():
    mesh = read_mesh(FAULTS / "tex-times-vc.glb")
    _, colours = points_within(mesh)
    torch.testing.assert_close(colours, RED.expand_as(colours), atol=1e-6, rtol=0)
    assert mesh.vertex_colours is None


def test_constant_vertex_colours_tint_the_texture_losslessly(tmp_path, caplog):
    model = Gltf(TEXCOORD_0=UV, COLOR_0=np.full((4, 4), 0.2140411, "<f4"))
    model.add_material()
    mesh = model.read(tmp_path)
    assert torch.equal(mesh.uv, torch.from_numpy(UV))
    expected = torch.from_numpy(QUADRANTS / np.float32(255)) * 0.5
    torch.testing.assert_close(mesh.texture, expected, atol=1e-6, rtol=0)
    assert not caplog.records


@pytest.mark.parametrize("repeats", [1.0, 3.0])
def test_varying_vertex_colours_multiply_the_texture(tmp_path, caplog, repeats):
    """A smooth texture times a colour ramp along x: the product is known everywhere."""
    side = 64
    ramp = srgb_from_linear((np.arange(side) + 0.5) / side)
    levels = np.repeat((ramp * 255).round().astype(np.uint8)[:, None, None], side, axis=1)
    shades = np.array([0.25, 1.0, 1.0, 0.25])[:, None].repeat(4, axis=1).astype("<f4")
    uv = FULL_UV * np.float32([repeats, 1.0]) * np.float32([1, 0.9]) + np.float32([0, 0.05])
    model = Gltf(TEXCOORD_0=uv, COLOR_0=shades)
    model.header["images"] = [{"bufferView": model.view(png(levels.repeat(3, axis=2)))}]
    model.add_material()
    mesh = model.read(tmp_path)
    positions, colours = points_within(mesh)
    x, y = positions[:, 0].double().numpy(), positions[:, 1].double().numpy()
    v = 0.95 - 0.9 * y
    expected = srgb_from_linear((0.25 + 0.75 * x) * v)
    np.testing.assert_allclose(colours[:, 0].numpy(), expected, atol=0.02)
    assert np.abs(colours[:, 0].numpy() - expected).mean() < 0.004
    assert mesh.vertices[mesh.faces].sum(dim=1).tolist() == [[2.0, 1.0, 0.0], [1.0, 2.0, 0.0]]
    assert not caplog.records


def test_texels_for_varying_vertex_colours_are_limited_with_a_warning(
    tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(texture_atlas, "MAX_BLOCK_TEXELS", 512)
    model = Gltf(TEXCOORD_0=FULL_UV, COLOR_0=np.repeat([[0], [1], [1], [0]], 3, 1).astype("<f4"))
    levels = np.full((64, 64, 3), 255, np.uint8)
    model.header["images"] = [{"bufferView": model.view(png(levels))}]
    model.add_material()
    mesh = model.read(tmp_path)
    assert mesh.texture[..., 0].numel() <= 512 * 1.25 + 400
    assert caplog.text.count("resolution of textures multiplied by vertex colours") == 1
    positions, colours = points_within(mesh)
    expected = srgb_from_linear(positions[:, 0].numpy())
    np.testing.assert_allclose(linear_from_srgb(colours[:, 0].numpy()), positions[:, 0], atol=0.03)
    assert float(np.abs(colours[:, 0].numpy() - expected).mean()) < 0.05


@pytest.mark.parametrize("on_node", [False, True])
def test_default_morph_weights_are_applied(tmp_path, on_node):
    model = Gltf(NORMAL=np.array([[0, 0, 1]] * 4, "<f4"))
    up = np.array([[0, 0, 1], [0, 0, 2], [0, 0, 3], [0, 0, 4]], "<f4")
    tilt = np.array([[1, 0, -1]] * 4, "<f4")
    model.header["meshes"][0]["primitives"][0]["targets"] = [
        {"POSITION": model.accessor(up), "NORMAL": model.accessor(tilt)},
        {"POSITION": model.accessor(CORNERS)},
        {"POSITION": model.accessor(CORNERS + 100)},
    ]
    model.header["meshes"][0]["weights"] = [1.0, 0.5, 0.0] if not on_node else [9.0, 9.0, 9.0]
    if on_node:
        model.header["nodes"][0]["weights"] = [1.0, 0.5, 0.0]
    mesh = model.read(tmp_path)
    assert torch.equal(mesh.vertices, torch.from_numpy(CORNERS * np.float32(1.5) + up))
    assert torch.equal(mesh.normals, torch.tensor([[1.0, 0, 0]] * 4))


def test_instances_follow_ext_mesh_gpu_instancing():
    mesh = read_mesh(FAULTS / "instancing-used.glb")
    assert len(mesh.faces) == 36
    centres = mesh.vertices.reshape(3, 8, 3).mean(dim=1)
    assert centres.tolist() == [[0, 0, 0], [3, 0, 0], [0, 3, 0]]


def test_instances_are_transformed_in_the_frame_of_their_node(tmp_path):
    half = np.sqrt(0.5)
    model = Gltf(NORMAL=np.array([[0, 0, 1]] * 4, "<f4"))
    attributes = {
        "TRANSLATION": np.array([[1, 0, 0], [0, 0, 0]], "<f4"),
        "ROTATION": np.array([[0, half, 0, half], [0, 0, 0, 1]], "<f4"),
        "SCALE": np.array([[2, 2, 2], [-1, 1, 1]], "<f4"),
    }
    numbers = {name: model.accessor(values) for name, values in attributes.items()}
    model.header["nodes"][0] |= {
        "translation": [0, 10, 0],
        "extensions": {"EXT_mesh_gpu_instancing": {"attributes": numbers}},
    }
    model.header["extensionsRequired"] = ["EXT_mesh_gpu_instancing"]
    mesh = model.read(tmp_path)
    expected = [[1, 10, 0], [1, 10, -2], [1, 12, -2], [1, 12, 0]]
    expected += [[0, 10, 0], [-1, 10, 0], [-1, 11, 0], [0, 11, 0]]
    torch.testing.assert_close(mesh.vertices, torch.tensor(expected).float(), atol=1e-5, rtol=0)
    sides = torch.tensor([[1.0, 0, 0]] * 2 + [[0, 0, 1.0]] * 2)
    torch.testing.assert_close(mesh.face_normals, sides, atol=1e-6, rtol=0)
    torch.testing.assert_close(mesh.normals, sides.repeat_interleave(2, 0), atol=1e-6, rtol=0)


def test_hidden_nodes_and_their_children_are_skipped(tmp_path):
    model = Gltf()
    hidden = {"KHR_node_visibility": {"visible": False}}
    printable_name = {"KHR_node_visibility": {"visible": True}}
    model.header["nodes"] = [
        {"children": [1, 3], "extensions": printable_name, "mesh": 0},
        {"children": [2], "extensions": hidden, "mesh": 0, "translation": [1, 0, 0]},
        {"extensions": printable_name, "mesh": 0, "translation": [2, 0, 0]},
        {"mesh": 0, "translation": [0, 5, 0]},
    ]
    model.header["extensionsRequired"] = ["KHR_node_visibility"]
    assert model.read(tmp_path).bounds.tolist() == [[0, 0, 0], [1, 6, 0]]


def test_joints_outside_the_scene_are_used():
    mesh = read_mesh(FAULTS / "skin-joint-outside-scene.glb")
    assert mesh.bounds.tolist() == [[-0.5, 4.5, -0.5], [0.5, 5.5, 0.5]]


def test_second_set_of_joints_is_applied(tmp_path):
    """JOINTS_1 and WEIGHTS_1 are used like the first set."""
    first = np.array([[0.5, 0, 0, 0]] * 4, "<f4")
    model = Gltf(
        JOINTS_0=np.array([[0] * 4] * 4, "<u1"),
        WEIGHTS_0=first,
        JOINTS_1=np.array([[1, 9, 9, 9]] * 4, "<u1"),  # unused: weight 0
        WEIGHTS_1=first,
    )
    for number in (1, 3):
        model.header["accessors"][number].pop("normalized")
    model.header["skins"] = [{"joints": [1, 2]}]
    model.header["nodes"] = [
        {"mesh": 0, "skin": 0},
        {"translation": [2, 0, 0]},
        {"translation": [0, 4, 0]},
    ]
    expected = torch.from_numpy(CORNERS) + torch.tensor([1.0, 2.0, 0.0])
    assert torch.equal(model.read(tmp_path).vertices, expected)


def test_joints_in_a_cycle_or_out_of_range_are_errors(tmp_path):
    model = Gltf(JOINTS_0=np.array([[2] * 4] * 4, "<u1"), WEIGHTS_0=np.ones((4, 4), "<f4"))
    model.header["accessors"][1].pop("normalized")
    model.header["skins"] = [{"joints": [1]}]
    model.header["nodes"] = [{"mesh": 0, "skin": 0}, {"children": [2]}, {"children": [1]}]
    with pytest.raises(InputError, match=r"model\.glb: skin 0: its joint, node 1, is part of a c"):
        model.read(tmp_path)
    model.header["nodes"][2] = {}
    with pytest.raises(InputError, match="refers to joint 2, but skin 0 has 1"):
        model.read(tmp_path)


def test_nul_padded_header_is_read():
    mesh = read_mesh(FAULTS / "cube-nulpad.glb")
    assert (len(mesh.vertices), len(mesh.faces)) == (8, 12)


def test_byte_order_mark_is_ignored(tmp_path):
    model = Gltf()
    content = model.glb()
    size = int.from_bytes(content[12:16], "little")
    import base64
    import json

    header = json.loads(content[20 : 20 + size])
    header["buffers"][0]["uri"] = "data:;base64," + base64.b64encode(model.data).decode()
    (tmp_path / "model.gltf").write_text(json.dumps(header), encoding="utf-8-sig")
    assert len(read_mesh(tmp_path / "model.gltf").faces) == 2


@pytest.mark.parametrize(
    "name",
    [
        "KHR_lights_punctual",
        "KHR_xmp",
        "KHR_xmp_json_ld",
        "EXT_lights_image_based",
        "EXT_lights_ies",
        "KHR_materials_clearcoat",
        "KHR_materials_unlit",
        "KHR_animation_pointer",
        "KHR_node_hoverability",
        "KHR_node_selectability",
        "KHR_mesh_quantization",
    ],
)
def test_irrelevant_required_extensions_are_accepted(tmp_path, caplog, name):
    model = Gltf()
    model.header["extensionsRequired"] = model.header["extensionsUsed"] = [name]
    assert len(model.read(tmp_path).faces) == 2
    assert not caplog.records


@pytest.mark.parametrize(
    "name",
    [
        "KHR_draco_mesh_compression",
        "EXT_meshopt_compression",
        "KHR_gaussian_splatting",
        "X_unheard_of",
    ],
)
def test_unsupported_required_extensions_are_rejected_by_name(tmp_path, name):
    model = Gltf()
    model.header["extensionsRequired"] = [name]
    with pytest.raises(
        InputError, match=rf"model\.glb needs the unsupported glTF extension {name}"
    ):
        model.read(tmp_path)


def test_compressed_data_without_extensions_required_are_reported(tmp_path):
    model = Gltf()
    model.header["meshes"][0]["primitives"][0]["extensions"] = {"KHR_draco_mesh_compression": {}}
    assert len(model.read(tmp_path).faces) == 2  # uncompressed data is present as well
    del model.header["accessors"][0]["bufferView"]
    with pytest.raises(InputError, match="KHR_draco_mesh_compression"):
        model.read(tmp_path)
    model = Gltf()
    model.header["bufferViews"][0]["extensions"] = {"EXT_meshopt_compression": {}}
    with pytest.raises(InputError, match="EXT_meshopt_compression"):
        model.read(tmp_path)


def test_one_warning_lists_everything_ignored(tmp_path, caplog):
    model = Gltf()
    material = model.add_material()
    material |= {"alphaMode": "MASK", "emissiveFactor": [1, 0, 0]}
    model.add_primitive(TEXCOORD_1=UV)["mode"] = 1
    model.header["extensionsUsed"] = ["X_unheard_of", "KHR_materials_ior"]
    mesh = model.read(tmp_path)
    assert mesh.material.emissive_factor == (1.0, 0.0, 0.0)  # kept, so not in the warning
    warnings = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "emission" not in warnings[0].getMessage()
    for part in (
        "model.glb",
        "alpha",
        "TEXCOORD_0",
        "points and lines",
        "X_unheard_of",
    ):
        assert part in warnings[0].getMessage()
    assert "KHR_materials_ior" not in caplog.text


def test_clamped_texture_does_not_blend_across_the_border(tmp_path):
    """At u = 0 the colours of the left half are not blended with those of the right border."""
    model = Gltf(TEXCOORD_0=FULL_UV)
    model.add_material()
    model.header["samplers"] = [{"wrapS": 33071, "wrapT": 33071}]
    model.header["textures"][0]["sampler"] = 0
    mesh = model.read(tmp_path)
    found = sample_texture(mesh.texture, mesh.uv)
    expected = torch.stack([BLUE, YELLOW, GREEN, RED])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    model.header["samplers"] = [{}]  # repeats
    mixed = model.read(tmp_path)
    assert torch.equal(mixed.uv, torch.from_numpy(FULL_UV))


def test_json_of_other_programs_is_read_leniently():
    """Exporters write NaN into extras and repeat names, which settings files may not."""
    text = b'\xef\xbb\xbf{"extras": [NaN, Infinity, 1e999], "name": "a", "name": "b"}\0\0'
    assert parse_json_object(text, "model.gltf").text("name") == "b"
