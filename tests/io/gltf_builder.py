"""Builds small glTF files for tests."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from nova3d_core.io.mesh.read import read_mesh
from nova3d_core.mesh import Mesh

CORNERS = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], dtype="<f4")
TRIANGLES = np.array([0, 1, 2, 0, 2, 3], dtype="<u2")
UV = np.array([[0.25, 0.75], [0.75, 0.75], [0.75, 0.25], [0.25, 0.25]], dtype="<f4")
QUADRANTS = np.array(
    [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 0]]], dtype=np.uint8
)  # red, green above blue, yellow
RED, GREEN, BLUE, YELLOW = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [1.0, 1.0, 0]])
KINDS = {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "u4": 5125, "f4": 5126}
SHAPES = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}


def png(levels: np.ndarray) -> bytes:
    """An 8-bit image as PNG."""
    content = io.BytesIO()
    Image.fromarray(levels).save(content, format="PNG")
    return content.getvalue()


class Gltf:
    """Builds a glTF file; `header` can be changed before saving."""

    def __init__(self, **attributes: np.ndarray):
        self.data = b""
        self.header = {
            "asset": {"version": "2.0"},
            "scenes": [{"nodes": [0]}],
            "nodes": [{"mesh": 0}],
            "meshes": [{"primitives": []}],
            "accessors": [],
            "bufferViews": [],
        }
        self.add_primitive(**attributes)

    def view(self, content: bytes) -> int:
        """Index of a new buffer view with this content."""
        view = {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(content)}
        self.header["bufferViews"].append(view)
        self.data += content + b"\0" * (-len(content) % 4)
        return len(self.header["bufferViews"]) - 1

    def accessor(self, values: np.ndarray, **more: object) -> int:
        """Index of a new accessor; integers are normalised unless `more` overrides it."""
        kind = values.dtype.str[1:]
        width = 1 if values.ndim == 1 else values.shape[1]
        spec = {"componentType": KINDS[kind], "type": SHAPES[width], "count": len(values)}
        if kind[0] in "iu" and width > 1:
            spec["normalized"] = True
        spec |= {"bufferView": self.view(values.tobytes())} | more
        self.header["accessors"].append(spec)
        return len(self.header["accessors"]) - 1

    def add_primitive(self, indices: np.ndarray | None = TRIANGLES, **attributes: np.ndarray):
        """Adds a primitive to mesh 0: a unit square unless POSITION is given."""
        attributes = {"POSITION": CORNERS} | attributes
        primitive = {"attributes": {k: self.accessor(v) for k, v in attributes.items()}}
        if indices is not None:
            primitive["indices"] = self.accessor(indices)
        self.header["meshes"][0]["primitives"].append(primitive)
        return primitive

    def add_material(self, primitive: int = 0, texture: bool = True, **pbr: object) -> dict:
        """Assigns a new material to a primitive, with or without the quadrant image."""
        header = self.header
        material = {"pbrMetallicRoughness": pbr}
        if texture:
            images = header.setdefault("images", [{"bufferView": self.view(png(QUADRANTS))}])
            textures = header.setdefault("textures", [])
            textures.append({"source": len(images) - 1})
            pbr["baseColorTexture"] = {"index": len(textures) - 1}
        header.setdefault("materials", []).append(material)
        index = len(header["materials"]) - 1
        header["meshes"][0]["primitives"][primitive]["material"] = index
        return material

    def glb(self) -> bytes:
        """The file as GLB."""
        self.header["buffers"] = [{"byteLength": len(self.data)}]
        text = json.dumps(self.header).encode()
        text += b" " * (-len(text) % 4)
        chunks = struct.pack("<I4s", len(text), b"JSON") + text
        chunks += struct.pack("<I4s", len(self.data), b"BIN\0") + self.data
        return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks

    def read(self, folder: Path) -> Mesh:
        """Reads the file as GLB."""
        path = folder / "model.glb"
        path.write_bytes(self.glb())
        return read_mesh(path)
