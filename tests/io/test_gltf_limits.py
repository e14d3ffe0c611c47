"""Limits of glTF: sizes and counts are checked against the bytes of the file."""

from __future__ import annotations

import json
import logging
import struct
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from nova3d_core.errors import InputError
from nova3d_core.imaging.sampling import sample_texture
from nova3d_core.io.images.srgb import srgb_from_linear
from nova3d_core.io.mesh import primitives, texture_atlas
from nova3d_core.io.mesh import read as mesh_reader
from nova3d_core.io.mesh.gltf import buffers, reader
from nova3d_core.io.mesh.read import read_mesh

from .gltf_builder import CORNERS, QUADRANTS, TRIANGLES, UV, Gltf, png

FAULTS = Path(__file__).parents[1] / "data" / "faults"


def assert_rejected(model: Gltf, folder, match: str) -> None:
    """Checks that a file is rejected with one short line that names it."""
    with pytest.raises(InputError, match=match) as caught:
        model.read(folder)
    message = str(caught.value)
    assert "model.glb" in message and len(message) < 500 and "\n" not in message
    assert "Error" not in message and "could not be read" not in message


def test_huge_accessor_without_data_is_rejected_early():
    tracemalloc.start()
    with pytest.raises(InputError, match=r"count_3e7\.glb: accessor 0 has count 30000000"):
        read_mesh(FAULTS / "count_3e7.glb")
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


def test_accessor_without_data_is_zero_up_to_the_limit(tmp_path):
    model = Gltf()
    model.header["accessors"][0] |= {
        "sparse": {
            "count": 4,
            "indices": {
                "bufferView": model.view(np.arange(4, dtype="<u2").tobytes()),
                "componentType": 5123,
            },
            "values": {"bufferView": model.view(CORNERS.tobytes())},
        },
        "count": buffers.MAX_ZERO_ROWS,
    }
    del model.header["accessors"][0]["bufferView"]
    assert torch.equal(model.read(tmp_path).vertices[:4], torch.from_numpy(CORNERS))
    model.header["accessors"][0]["count"] += 1
    assert_rejected(model, tmp_path, "without a bufferView")


def set_field(where: str, value):
    """Sets a header field: `where` is a path such as "accessors.0.count"."""

    def change(header: dict) -> None:
        *parents, last = [int(part) if part.isdigit() else part for part in where.split(".")]
        for parent in parents:
            header = header[parent]
        if value is KeyError:
            del header[last]
        else:
            header[last] = value

    return change


INVALID_VALUES = [
    ("accessors.0.count", 5),
    ("accessors.0.count", 2**31),
    ("accessors.0.count", 10**30),
    ("accessors.0.count", -4),
    ("accessors.0.count", 4.5),
    ("accessors.0.count", "4"),
    ("accessors.0.count", True),
    ("accessors.0.count", None),
    ("accessors.0.count", [4]),
    ("accessors.0.count", KeyError),
    ("accessors.0.componentType", 5124),
    ("accessors.0.componentType", "5126"),
    ("accessors.0.componentType", KeyError),
    ("accessors.0.type", "VEC9"),
    ("accessors.0.type", "SCALAR"),
    ("accessors.0.type", 3),
    ("accessors.0.type", KeyError),
    ("accessors.0.byteOffset", -12),
    ("accessors.0.byteOffset", 2**60),
    ("accessors.0.bufferView", 99),
    ("accessors.0.bufferView", -1),
    ("accessors.0.bufferView", 1.5),
    ("accessors.0.bufferView", {}),
    ("accessors.0.normalized", 1),
    ("accessors.1.count", 5),
    ("accessors.1.componentType", 5125.5),
    ("accessors.2.componentType", 5126),
    ("accessors.2.componentType", 5122),
    ("accessors.2.count", 7),
    ("bufferViews.0.byteLength", 10**9),
    ("bufferViews.0.byteLength", -1),
    ("bufferViews.0.byteLength", KeyError),
    ("bufferViews.0.byteLength", [{"a": "b" * 100}] * 50),
    ("accessors.0.type", "long " * 1000),
    ("asset.version", "1.\n" * 1000),
    ("extensionsRequired", ["long\n" * 1000]),
    ("bufferViews.0.byteOffset", -4),
    ("bufferViews.0.byteOffset", 10**9),
    ("bufferViews.0.byteStride", 1),
    ("bufferViews.0.byteStride", -12),
    ("bufferViews.0.byteStride", 10**9),
    ("bufferViews.0.buffer", 1),
    ("bufferViews.0", "text"),
    ("bufferViews", {}),
    ("bufferViews", KeyError),
    ("accessors", 7),
    ("meshes", KeyError),
    ("meshes.0", []),
    ("meshes.0.primitives", {"0": 1}),
    ("meshes.0.primitives.0.attributes", [0]),
    ("meshes.0.primitives.0.attributes.POSITION", 99),
    ("meshes.0.primitives.0.attributes.POSITION", "0"),
    ("meshes.0.primitives.0.attributes.TEXCOORD_0", 0),
    ("meshes.0.primitives.0.indices", 17),
    ("meshes.0.primitives.0.material", 1),
    ("meshes.0.primitives.0.mode", 9),
    ("materials.0.pbrMetallicRoughness", "rough"),
    ("materials.0.pbrMetallicRoughness.baseColorFactor", [1, 1]),
    ("materials.0.pbrMetallicRoughness.baseColorFactor", [1, 1, "1", 1]),
    ("materials.0.pbrMetallicRoughness.baseColorTexture", {"index": 3}),
    ("materials.0.pbrMetallicRoughness.baseColorTexture", {"texCoord": 0}),
    ("materials.0.pbrMetallicRoughness.baseColorTexture.texCoord", -1),
    ("textures.0.source", 1),
    ("textures.0.sampler", 0),
    ("images.0", {}),
    ("images.0", {"uri": 5}),
    ("images.0", {"uri": "data:image/png;base64,@@@"}),
    ("images.0", {"uri": "data:image/png"}),
    ("images.0.bufferView", 1000),
    ("nodes.0.mesh", 2),
    ("nodes.0.mesh", "0"),
    ("nodes.0.children", [7]),
    ("nodes.0.children", "7"),
    ("nodes.0.children", [True]),
    ("nodes.0.matrix", [1, 2, 3]),
    ("nodes.0.matrix", [[1]] * 16),
    ("nodes.0.rotation", [0, 0, 0, 0]),
    ("nodes.0.translation", ["a", 0, 0]),
    ("nodes.0.scale", 2),
    ("nodes.0.scale", [10**400, 1, 1]),
    ("nodes.0.skin", 0),
    ("nodes.0.weights", "heavy"),
    ("nodes.0.extensions", []),
    ("nodes.0.extensions", {"EXT_mesh_gpu_instancing": {"attributes": {"SCALE": 1}}}),
    ("nodes.0.extensions", {"KHR_node_visibility": {"visible": 0}}),
    ("nodes", 5),
    ("scenes.0.nodes", [-1]),
    ("scenes.0.nodes", {"a": 1}),
    ("scene", 4),
    ("asset", None),
    ("asset", []),
    ("asset.version", 7),
    ("extensionsRequired", [5]),
    ("extensionsRequired", "KHR_draco_mesh_compression"),
]


@pytest.mark.parametrize(("where", "value"), INVALID_VALUES)
def test_invalid_value_is_one_line_naming_the_field(tmp_path, where, value):
    model = Gltf(TEXCOORD_0=UV)
    model.add_material()
    set_field(where, value)(model.header)
    assert_rejected(model, tmp_path, r"model\.glb")


def test_out_of_range_indices_are_reported(tmp_path):
    assert_rejected(
        Gltf(indices=np.array([0, 1, 4], "<u2")), tmp_path, "refer to vertex 4, but there are 4"
    )
    assert_rejected(Gltf(indices=np.array([0, 1, 2, 0], "<u2")), tmp_path, "ends within a triangle")


@pytest.mark.parametrize(
    ("rows", "count"), [([4], 1), ([65535], 1), ([0, 1, 2, 3, 0], 5), ([0], 2**31)]
)
def test_sparse_indices_out_of_range_are_rejected(tmp_path, rows, count):
    model = Gltf()
    model.header["accessors"][0]["sparse"] = {
        "count": count,
        "indices": {
            "bufferView": model.view(np.array(rows, "<u2").tobytes()),
            "componentType": 5123,
        },
        "values": {"bufferView": model.view(np.zeros((len(rows), 3), "<f4").tobytes())},
    }
    assert_rejected(model, tmp_path, "sparse")


@pytest.mark.parametrize("size", [0xFFFFFFFF, 10_000])
def test_chunk_longer_than_the_file_is_rejected(tmp_path, size):
    content = bytearray(Gltf().glb())
    length = struct.unpack_from("<I", content, 12)[0]
    for offset in (12, 20 + length):
        changed = content.copy()
        struct.pack_into("<I", changed, offset, size)
        (tmp_path / "chunk.glb").write_bytes(changed)
        with pytest.raises(InputError, match=rf"chunk\.glb has a chunk of {size} bytes"):
            read_mesh(tmp_path / "chunk.glb")


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"asset":' * 50_000, "[]", "{}", '{"asset": {"version": NaN}}', "\xff", ""],
)
def test_invalid_header_is_one_line(tmp_path, text):
    path = tmp_path / "model.gltf"
    path.write_bytes(text.encode("latin-1") or b"\0")
    with pytest.raises(InputError, match=r"model\.gltf") as caught:
        read_mesh(path)
    assert len(str(caught.value)) < 500 and "could not be read" not in str(caught.value)


def test_header_with_too_many_values_is_rejected_before_parsing(tmp_path):
    path = tmp_path / "model.gltf"
    path.write_text('{"asset":{"version":"2.0"},"extras":[' + "{}," * 2_000_000 + "{}]}")
    start = time.process_time()
    with pytest.raises(InputError, match="more than 1000000 values"):
        read_mesh(path)
    assert time.process_time() - start < 1.0


def test_deep_hierarchies_are_read_and_cycles_ignored(tmp_path):
    model = Gltf()
    depth = 20_000
    model.header["nodes"] = [{"children": [i + 1], "translation": [1, 0, 0]} for i in range(depth)]
    model.header["nodes"] += [{"mesh": 0, "children": [3]}]  # a cycle
    mesh = model.read(tmp_path)
    assert mesh.with_origin((0.0, 0.0, 0.0)).vertices[0].tolist() == [depth, 0, 0]


def test_number_of_instances_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "MAX_FACES", 1000)
    model = Gltf()
    model.header["nodes"] = [{"mesh": 0, "translation": [i, 0, 0]} for i in range(250)]
    model.header["scenes"] = [{"nodes": list(range(250))}]
    assert len(model.read(tmp_path).faces) == 500
    model.header["nodes"].append({"mesh": 0})
    model.header["scenes"][0]["nodes"].append(250)
    assert_rejected(model, tmp_path, "1004 faces or vertices with all its instances")


def test_huge_instance_count_without_data_is_rejected_early(tmp_path):
    model = Gltf()
    model.header["accessors"].append({"componentType": 5126, "type": "VEC3", "count": 1 << 20})
    number = len(model.header["accessors"]) - 1
    model.header["nodes"][0]["extensions"] = {
        "EXT_mesh_gpu_instancing": {"attributes": {"TRANSLATION": number}}
    }
    start = time.process_time()
    assert_rejected(model, tmp_path, "with all its instances")
    assert time.process_time() - start < 0.5


def test_shared_image_is_decoded_and_stored_once(tmp_path, monkeypatch):
    decoded = []
    original = primitives.decode_texture

    def counted(source, name, referrer):
        decoded.append(name)
        return original(source, name, referrer)

    monkeypatch.setattr(buffers, "decode_texture", counted)
    model = Gltf(TEXCOORD_0=UV)
    levels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    image = model.view(png(levels))
    model.header["images"] = [{"bufferView": image}, {"bufferView": image}]
    for number in range(40):
        if number:
            model.add_primitive(TEXCOORD_0=UV)
        model.add_material(number)["name"] = f"material {number}"
        model.header["textures"][number]["source"] = number % 2
    mesh = model.read(tmp_path)
    assert len(decoded) == 1
    assert tuple(mesh.texture.shape) == (256, 256, 3)


def test_atlas_size_of_many_tints_is_bounded(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(texture_atlas, "MAX_REPEATED_TEXELS", 1 << 14)
    full = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], "<f4")
    model = Gltf(TEXCOORD_0=full)
    levels = np.full((128, 128, 3), 255, np.uint8)
    model.header["images"] = [{"bufferView": model.view(png(levels))}]
    tints = np.linspace(0.1, 1.0, 30)
    for number, tint in enumerate(tints):
        if number:
            model.add_primitive(TEXCOORD_0=full)
        model.add_material(number, baseColorFactor=[tint, tint, tint, 1.0])
    mesh = model.read(tmp_path)
    assert mesh.texture[..., 0].numel() <= (1 << 14) + 1.25 * 128 * 128 + 1000
    assert caplog.text.count("merging the textures into one drops") == 1
    found = sample_texture(mesh.texture, mesh.uv[mesh.faces].mean(dim=1))[::2, 0]
    np.testing.assert_allclose(found.numpy(), srgb_from_linear(tints), atol=1e-3)


def test_textures_beyond_the_total_are_downsampled_with_a_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(buffers, "MAX_TEXELS", 48)
    model = Gltf(TEXCOORD_0=UV)
    large = QUADRANTS.repeat(8, axis=0).repeat(8, axis=1)
    model.header["images"] = [{"bufferView": model.view(png(large))}]
    model.add_material()
    mesh = model.read(tmp_path)
    assert mesh.texture.shape[:2] == (6, 6)
    assert "resolution of image 0 (16 x 16 px)" in caplog.text
    assert mesh.texture[0, 0].tolist() == [1.0, 0.0, 0.0]


def test_original_exception_is_logged_at_debug_level(tmp_path, monkeypatch, caplog):
    def invalid(path):
        raise KeyError(1)

    monkeypatch.setitem(mesh_reader.MESH_READERS, ".glb", invalid)
    (tmp_path / "model.glb").write_bytes(b"x")
    with (
        caplog.at_level(logging.DEBUG, "nova3d_core.io.mesh.read"),
        pytest.raises(InputError, match=r"model\.glb could not be read") as caught,
    ):
        read_mesh(tmp_path / "model.glb")
    assert "KeyError" not in str(caught.value)
    assert "KeyError: 1" in caplog.text


@pytest.mark.parametrize("scale", [1e-14, 1e13])
def test_implausible_extents_are_rejected(tmp_path, scale):
    model = Gltf()
    model.header["nodes"][0]["scale"] = [scale] * 3
    assert_rejected(model, tmp_path, "expected 1e-12 to 1e\\+12")


def test_overflowing_transforms_are_rejected(tmp_path):
    model = Gltf()
    model.header["nodes"] = [
        {"scale": [1e300] * 3, "children": [1]},
        {"scale": [1e300] * 3, "mesh": 0},
    ]
    assert_rejected(model, tmp_path, "NaN or infinite|has no faces")


def test_external_buffers_are_read_up_to_byte_length(tmp_path):
    model = Gltf()
    model.header["buffers"] = [{"byteLength": 10, "uri": "data.bin"}]
    (tmp_path / "data.bin").write_bytes(model.data)
    (tmp_path / "model.gltf").write_text(json.dumps(model.header))
    with pytest.raises(InputError, match=r"model\.gltf is truncated.*buffer of 10"):
        read_mesh(tmp_path / "model.gltf")


def test_face_count_backed_by_data_is_not_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "MAX_FACES", 1)
    assert len(Gltf(indices=np.tile(TRIANGLES, 10)).read(tmp_path).faces) == 20


def test_long_names_are_shortened(tmp_path):
    model = Gltf()
    model.header["buffers"] = [{"byteLength": 10, "uri": "../" + "x" * 1000}]
    path = tmp_path / ("n" * 240 + ".gltf")
    path.write_text(json.dumps(model.header))
    with pytest.raises(InputError, match=r"nnnn.*points outside the folder") as caught:
        read_mesh(path)
    assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)
