"""The container of glTF 2.0: header, buffers, accessors and named files, with bounds checked."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from ..errors import InputError
from .mesh_parts import decoded_texture

_CUT_OFF = "It is cut off: copy or export it again."
_COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
_UNDERSTOOD = {"KHR_texture_transform", "KHR_mesh_quantization", "EXT_texture_webp"}
"""Extensions a file may require, besides `KHR_materials_...`, which only refine the looks."""


class GltfFile:
    """An open glTF file.

    Args:
        path: a .glb or .gltf file; which of the two is told from its first bytes.

    Raises:
        InputError: no glTF 2.0, cut off, or in need of an extension that is not understood.
    """

    def __init__(self, path: Path):
        self.path = path
        content = path.read_bytes()
        self._buffers: dict[int, memoryview] = {}
        self._textures: dict[int, np.ndarray] = {}
        text, self._binary = content, None
        if content[:4] == b"glTF":
            text, self._binary = _chunks(content, path)
        try:
            self.header: dict[str, Any] = json.loads(text)
            version = str(self.header["asset"]["version"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is no glTF file, or cut off.", "Export it again.") from error
        if not version.startswith("2."):
            raise InputError(f"{path} is glTF {version}.", "Export it as glTF 2.0.")
        for name in self.header.get("extensionsRequired", []):
            if name not in _UNDERSTOOD and not name.startswith("KHR_materials_"):
                raise InputError(
                    f"{path} needs the glTF extension {name}, which is not read here.",
                    "Export it without compression, as plain glTF 2.0.",
                )

    def items(self, kind: str) -> list[dict[str, Any]]:
        """The header's list of that kind; none if the file has no such list."""
        return self.header.get(kind, [])

    def accessor(self, index: int) -> np.ndarray:
        """(count, width) values; whole numbers that are declared normalised come as fractions."""
        spec = self.items("accessors")[index]
        dtype = np.dtype(_COMPONENTS[spec["componentType"]])
        count, width = int(spec["count"]), _WIDTHS[spec["type"]]
        if "bufferView" in spec:
            start = spec.get("byteOffset", 0)
            values = self._rows(spec["bufferView"], start, count, width, dtype)
        else:
            values = np.zeros((count, width), dtype)
        if "sparse" in spec:
            values = self._with_sparse(values, spec["sparse"])
        if spec.get("normalized"):
            return np.maximum(values / np.iinfo(dtype).max, -1.0)
        return values

    def _with_sparse(self, values: np.ndarray, sparse: dict[str, Any]) -> np.ndarray:
        where, what = sparse["indices"], sparse["values"]
        count, dtype = int(sparse["count"]), np.dtype(_COMPONENTS[where["componentType"]])
        rows = self._rows(where["bufferView"], where.get("byteOffset", 0), count, 1, dtype)[:, 0]
        width = values.shape[1]
        values[rows] = self._rows(
            what["bufferView"], what.get("byteOffset", 0), count, width, values.dtype
        )
        return values

    def _rows(self, view: int, start: int, count: int, width: int, dtype: np.dtype) -> np.ndarray:
        """(count, width) numbers of a buffer view, copied."""
        stride = self.items("bufferViews")[view].get("byteStride") or width * dtype.itemsize
        strides = (stride, dtype.itemsize)
        # ndarray refuses a shape that the view's bytes do not hold
        return np.ndarray((count, width), dtype, self._view(view), start, strides).copy()

    def _view(self, index: int) -> memoryview:
        view = self.items("bufferViews")[index]
        start, length = view.get("byteOffset", 0), view["byteLength"]
        content = self._buffer(view["buffer"])[start : start + length]
        if len(content) < length:
            raise InputError(f"{self.path} ends before its data does.", _CUT_OFF)
        return content

    def _buffer(self, index: int) -> memoryview:
        if index not in self._buffers:
            uri = self.items("buffers")[index].get("uri")
            data = self._binary if uri is None else self._named(uri, "buffer")
            if data is None:
                raise InputError(f"{self.path} lacks the data of its buffer {index}.", _CUT_OFF)
            self._buffers[index] = memoryview(data)
        return self._buffers[index]

    def texture(self, index: int) -> np.ndarray:
        """(H, W, 3) float32 sRGB picture with that number among the images; always the same one."""
        if index not in self._textures:
            self._textures[index] = self._decoded(index)
        return self._textures[index]

    def _decoded(self, index: int) -> np.ndarray:
        image = self.items("images")[index]
        if "bufferView" in image:
            name, content = f"number {index}", bytes(self._view(image["bufferView"]))
        else:
            uri = image["uri"]
            name = f"number {index}" if uri.startswith("data:") else uri
            content = self._named(uri, "texture")
        return decoded_texture(content, name, self.path.name)

    def _named(self, uri: str, role: str) -> bytes:
        """The bytes of a data URI, or of the file beside that a URI names."""
        if uri.startswith("data:"):
            return base64.b64decode(uri.split(",", 1)[1])
        target = self.path.parent / unquote(uri)
        if not target.is_file():
            raise InputError(
                f"{role} {uri} named by {self.path.name} is missing.",
                f"Put it at {target}, or export as .glb, which holds everything.",
            )
        return target.read_bytes()


def _chunks(content: bytes, path: Path) -> tuple[bytes, bytes | None]:
    """The JSON text and the binary data of a GLB."""
    if len(content) < 20:
        raise InputError(f"{path} ends within its header.", _CUT_OFF)
    version, length = struct.unpack_from("<II", content, 4)
    if version != 2:
        raise InputError(f"{path} is GLB version {version}.", "Export it as glTF 2.0.")
    if length > len(content):
        raise InputError(f"{path} has {len(content)} of {length} bytes.", _CUT_OFF)
    found: dict[bytes, bytes] = {}
    place = 12
    while place + 8 <= length:
        size, kind = struct.unpack_from("<I4s", content, place)
        found.setdefault(kind, content[place + 8 : place + 8 + size])
        place += 8 + size
    return found.get(b"JSON", b""), found.get(b"BIN\0")
