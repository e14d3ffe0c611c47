"""glTF nodes with scale 0, TGA textures, GLB buffers."""

from __future__ import annotations

import base64
import json
import struct

import numpy as np
import pytest
from PIL import Image

from nova3d_core.errors import InputError
from nova3d_core.io.mesh.read import read_mesh

SQUARE = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], "<f4")
TRIANGLES = np.array([0, 1, 2, 0, 2, 3], "<u2")
HALF = 0.5**0.5


def write_square(path, node, **more):
    content = SQUARE.tobytes() + TRIANGLES.tobytes() + SQUARE[:, :2].tobytes()
    spans = [(0, 48), (48, 12), (60, 32)]
    document = {
        "asset": {"version": "2.0"},
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, **node}],
        "meshes": [
            {
                "primitives": [
                    {
                        "attributes": {"POSITION": 0, "TEXCOORD_0": 2},
                        "indices": 1,
                        **({"material": 0} if "materials" in more else {}),
                    }
                ]
            }
        ],
        "buffers": [
            {
                "byteLength": len(content),
                "uri": "data:;base64," + base64.b64encode(content).decode(),
            }
        ],
        "bufferViews": [{"buffer": 0, "byteOffset": o, "byteLength": n} for o, n in spans],
        "accessors": [
            {"bufferView": view, "componentType": component, "count": count, "type": kind}
            for view, (component, count, kind) in enumerate(
                [(5126, 4, "VEC3"), (5123, 6, "SCALAR"), (5126, 4, "VEC2")]
            )
        ],
        **more,
    }
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize(
    ("node", "normal", "area"),
    [
        ({"scale": [2, 3, 0]}, (0, 0, 1), 6.0),
        ({"scale": [1e-3, 1e-3, 0]}, (0, 0, 1), 1e-6),
        ({"rotation": [0, HALF, 0, HALF], "scale": [2, 1, 0]}, (1, 0, 0), 2.0),
        ({"rotation": [0.1, 0.3, 0.5, 0.8], "scale": [2, 1, 0]}, None, 2.0),
        ({"scale": [-2, 3, 1]}, (0, 0, 1), 6.0),
    ],
)
def test_scale_0_along_one_axis_flattens(tmp_path, node, normal, area):
    mesh = read_mesh(write_square(tmp_path / "flat.gltf", node))
    assert float(mesh.face_areas.sum()) == pytest.approx(area, rel=1e-5)
    if normal is not None:
        np.testing.assert_allclose(mesh.face_normals.numpy(), [normal] * 2, atol=1e-6)
    else:
        assert float(mesh.face_normals[0] @ mesh.face_normals[1]) == pytest.approx(1.0)


@pytest.mark.parametrize("scale", [[0, 0, 0], [0, 0, 1], [0, 5, 0]])
def test_scale_0_along_two_axes_hides(tmp_path, scale):
    with pytest.raises(InputError, match="no faces"):
        read_mesh(write_square(tmp_path / "hidden.gltf", {"scale": scale}))


@pytest.mark.parametrize("name", ["wood.tga", "WOOD.TGA"])
def test_reads_a_tga_texture_next_to_a_gltf(tmp_path, name):
    Image.new("RGB", (4, 2), (40, 80, 120)).save(tmp_path / name)
    path = write_square(
        tmp_path / "toy.gltf",
        {},
        materials=[{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}],
        textures=[{"source": 0}],
        images=[{"uri": name}],
    )
    texture = read_mesh(path).texture
    assert texture.shape == (2, 4, 3)
    np.testing.assert_allclose(texture[1, 3].numpy() * 255, (40, 80, 120), atol=1e-4)


@pytest.mark.parametrize("buffer", [0, 1])
def test_only_the_first_buffer_is_the_binary_chunk(tmp_path, buffer):
    document = json.loads(write_square(tmp_path / "toy.gltf", {}).read_text())
    content = base64.b64decode(document["buffers"][0].pop("uri").partition(",")[2])
    document["buffers"].append(dict(document["buffers"][0]))
    document["bufferViews"][0]["buffer"] = buffer
    text = json.dumps(document).encode()
    chunks = [(b"JSON", text + b" " * (-len(text) % 4)), (b"BIN\0", content)]
    body = b"".join(struct.pack("<I4s", len(data), kind) + data for kind, data in chunks)
    path = tmp_path / "toy.glb"
    path.write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body)
    if buffer == 0:
        assert read_mesh(path).vertices.tolist() == SQUARE.tolist()
    else:
        with pytest.raises(InputError, match="lacks the data of its buffer 1"):
            read_mesh(path)
