"""The glTF 2.0 container: JSON header, buffers, accessors, external files; all bounds-checked."""

from __future__ import annotations

import base64
import binascii
import logging
import re
import struct
from pathlib import Path
from urllib.parse import unquote_to_bytes

import numpy as np

from ....errors import InputError
from ...files.containment import path_inside
from ...files.json_fields import JsonObject, describe_value, parse_json_object
from ..primitives import decode_texture

logger = logging.getLogger(__name__)

_EXPORT_AGAIN = "The file is truncated: copy or export it again."
_COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
"""A URI scheme; a single letter with a colon is a Windows drive."""

MAX_ZERO_ROWS = 1 << 20
"""Limit of the count of an accessor without buffer view: its values are 0 by the standard, so there
are no bytes to check the count against."""
MAX_TEXELS = 1 << 26
"""Total texels of all decoded textures of a file; textures beyond that are downsampled."""

_SUPPORTED_EXTENSIONS = {
    "EXT_mesh_gpu_instancing",
    "EXT_texture_webp",
    "KHR_mesh_quantization",
    "KHR_node_visibility",
    "KHR_texture_transform",
}
_IGNORED_PREFIXES = (
    "ADOBE_materials_",
    "AGI_",
    "CESIUM_primitive_outline",
    "EXT_instance_features",
    "EXT_lights_",
    "EXT_materials_",
    "EXT_mesh_features",
    "EXT_mesh_manifold",
    "EXT_structural_metadata",
    "FB_ngon_encoding",
    "KHR_animation_",
    "KHR_audio",
    "KHR_implicit_shapes",
    "KHR_interactivity",
    "KHR_lights_",
    "KHR_materials_",
    "KHR_node_",
    "KHR_physics_",
    "KHR_xmp",
    "MSFT_lod",
    "MSFT_packing_",
    "OMI_",
    "VRM",
)
"""Prefixes of extensions that are ignored even if required: they affect neither geometry nor base
colour."""
_OPTIONAL_EXTENSION_PARTS = ("KHR_texture_", "EXT_texture_", "MSFT_texture_", "draco", "meshopt")
"""Substrings of extensions with a fallback, which are optional unless a file requires them."""
_COMPRESSION_EXTENSION_PARTS = ("draco", "meshopt")


class GltfFile:
    """An open glTF file.

    Args:
        path: a .glb or .gltf file, distinguished by the first bytes.

    Raises:
        InputError: not glTF 2.0, truncated, or an unsupported extension is required.
    """

    def __init__(self, path: Path):
        self.path = path
        content = memoryview(path.read_bytes())
        self._buffers: dict[int, memoryview] = {}
        self._textures: dict[object, np.ndarray] = {}
        self._texel_count = 0
        self._lists: dict[str, list[JsonObject]] = {}
        self._dropped: dict[str, None] = {}
        text, self._binary = content, None
        if content[:4] == b"glTF":
            text, self._binary = _chunks(content, path)
        self.header = parse_json_object(text, f"the glTF header of {path.name}")
        version = self.header.object("asset").value("version", None, "2.0")
        if not str(version).startswith("2."):
            raise InputError(
                f"{path} is glTF {describe_value(str(version)[:20])[1:-1]}.",
                "Export it as glTF 2.0.",
            )
        for name in self.header.strings("extensionsRequired"):
            if name not in _SUPPORTED_EXTENSIONS and not name.startswith(_IGNORED_PREFIXES):
                raise self.unsupported_extension_error(name)
        for name in self.header.strings("extensionsUsed"):
            supported = name in _SUPPORTED_EXTENSIONS or name.startswith(_IGNORED_PREFIXES)
            if not supported and not any(part in name for part in _OPTIONAL_EXTENSION_PARTS):
                self.note_dropped(f"extension {describe_value(name)[1:-1]}")

    def unsupported_extension_error(self, name: str) -> InputError:
        """The error for data that needs an unsupported extension."""
        return InputError(
            f"{self.path.name} needs the unsupported glTF extension {describe_value(name)[1:-1]}.",
            "Export it without compression, as plain glTF 2.0.",
        )

    def note_dropped(self, label: str) -> None:
        """Records something that affects the appearance and is dropped."""
        self._dropped[label] = None

    def warn_dropped(self) -> None:
        """Logs one warning that names everything that was dropped, if anything."""
        if self._dropped:
            logger.warning("%s: ignored: %s", self.path.name, "; ".join(self._dropped))

    def items(self, kind: str) -> list[JsonObject]:
        """The top-level array of this name; empty if the file has none."""
        if kind not in self._lists:
            self._lists[kind] = self.header.objects(kind, kind.removesuffix("s"))
        return self._lists[kind]

    def item(self, kind: str, owner: JsonObject, key: str) -> JsonObject:
        """The element of a top-level array that a field of another object refers to."""
        return self.items(kind)[self.index(kind, owner, key)]

    def index(self, kind: str, owner: JsonObject, key: str) -> int:
        """An index into a top-level array, from a field of another object."""
        count = len(self.items(kind))
        if count == 0:
            raise InputError(f"{owner.where}: {key} refers to {kind}, but there are none.")
        return owner.integer(key, high=count - 1)

    @property
    def bytes_read(self) -> int:
        """Total bytes of the buffers read so far."""
        return sum(map(len, self._buffers.values()))

    def accessor(
        self, owner: JsonObject, key: str, types: tuple[str, ...], integers: bool = False
    ) -> np.ndarray:
        """(count, width) values of the accessor that a field refers to.

        Normalised integers are converted to fractions.

        Args:
            owner: the object with the field.
            key: its name.
            types: valid accessor types.
            integers: whether only unsigned integers are valid.

        Raises:
            InputError: the accessor is invalid or exceeds the bytes of its buffer.
        """
        spec = self.item("accessors", owner, key)
        kind = spec.text("type")
        if kind not in types:
            raise InputError(
                f"{spec.where}, used as {owner.where}: {key}, is {describe_value(kind)}, expected "
                f"{' or '.join(types)}."
            )
        dtype = _component_type(spec)
        if integers and dtype.kind != "u":
            raise InputError(
                f"{spec.where}, used as {owner.where}: {key}, needs unsigned integers."
            )
        count, width = spec.integer("count"), _WIDTHS[kind]
        if "bufferView" in spec:
            values = self._rows(spec, count, width, dtype)
        elif count > MAX_ZERO_ROWS:
            raise InputError(
                f"{spec.where} has count {count} without a bufferView, expected at most "
                f"{MAX_ZERO_ROWS}.",
                "Export it as plain glTF 2.0: it is damaged, or its data is compressed.",
            )
        else:
            values = np.zeros((count, width), dtype)
        if "sparse" in spec:
            values = self._apply_sparse(values, spec.object("sparse"))
        if spec.boolean("normalized", False) and dtype.kind in "iu":
            return np.maximum(values / np.iinfo(dtype).max, -1.0)
        return values

    def count_of(self, owner: JsonObject, key: str) -> int:
        """The declared count of the accessor that a field refers to."""
        return self.item("accessors", owner, key).integer("count")

    def _apply_sparse(self, values: np.ndarray, sparse: JsonObject) -> np.ndarray:
        count = sparse.integer("count", low=0, high=len(values))
        if count == 0:
            return values
        indices, new_values = sparse.object("indices"), sparse.object("values")
        rows = self._rows(indices, count, 1, _component_type(indices))[:, 0]
        if rows.dtype.kind != "u" or int(rows.max()) >= len(values):
            raise InputError(
                f"{indices.where} has values up to {rows.max()}, expected integers from 0 to "
                f"{len(values) - 1}."
            )
        values = values.copy()
        values[rows] = self._rows(new_values, count, values.shape[1], values.dtype)
        return values

    def _rows(self, spec: JsonObject, count: int, width: int, dtype: np.dtype) -> np.ndarray:
        """(count, width) values of the buffer view that an object refers to; read-only."""
        view, content = self._view(spec)
        start, size = spec.integer("byteOffset", 0), width * dtype.itemsize
        stride = view.integer("byteStride", 0) or size
        if stride < size:
            raise InputError(f"{view.where}: byteStride is {stride}, expected {size} or more.")
        needed = start + (count - 1) * stride + size if count > 0 else 0
        if needed > len(content):
            raise InputError(
                f"{spec.where} needs {needed} bytes of {view.where}, which has {len(content)}.",
                _EXPORT_AGAIN,
            )
        if count == 0:
            return np.zeros((0, width), dtype)
        return np.ndarray((count, width), dtype, content, start, (stride, dtype.itemsize))

    def _view(self, owner: JsonObject) -> tuple[JsonObject, memoryview]:
        """The buffer view that an object refers to, and its bytes."""
        view = self.item("bufferViews", owner, "bufferView")
        for name in view.object("extensions").names:
            if any(kind in name for kind in _COMPRESSION_EXTENSION_PARTS):
                raise self.unsupported_extension_error(name)
        start, length = view.integer("byteOffset", 0), view.integer("byteLength")
        buffer = self._buffer(self.index("buffers", view, "buffer"))
        if start + length > len(buffer):
            raise InputError(
                f"{self.path.name} is truncated: {view.where} ends at byte {start + length} of a "
                f"buffer of {len(buffer)}.",
                _EXPORT_AGAIN,
            )
        return view, buffer[start : start + length]

    def _buffer(self, index: int) -> memoryview:
        if index not in self._buffers:
            spec = self.items("buffers")[index]
            if "uri" in spec:
                data = memoryview(self._buffer_bytes(spec))
            elif self._binary is None or index > 0:  # only the first buffer may be the binary chunk
                raise InputError(
                    f"{self.path.name} lacks the data of its {spec.where}.", _EXPORT_AGAIN
                )
            else:
                data = self._binary
            self._buffers[index] = data
        return self._buffers[index]

    def texture(self, owner: JsonObject) -> np.ndarray:
        """(H, W, 3) float32 sRGB image of an object's `source`.

        Images that share their bytes are decoded once and share one array.
        """
        image = self.item("images", owner, "source")
        if "bufferView" in image:
            key: object = self.index("bufferViews", image, "bufferView")
        else:
            key = image.text("uri")
        if key not in self._textures:
            self._textures[key] = self._fit_texel_budget(self._decode_image(image), image)
        return self._textures[key]

    def _decode_image(self, image: JsonObject) -> np.ndarray:
        if "bufferView" in image:
            return decode_texture(bytes(self._view(image)[1]), image.where, self.path.name)
        uri = image.text("uri")
        if uri.startswith("data:"):
            return decode_texture(_data_uri_bytes(uri, image), image.where, self.path.name)
        target = self._resolve_uri(uri, "texture")  # TGA is recognised by its suffix
        return decode_texture(target, _printable_uri(uri), self.path.name)

    def _fit_texel_budget(self, texture: np.ndarray, image: JsonObject) -> np.ndarray:
        """Downsamples a texture by an integer factor if the total would exceed MAX_TEXELS."""
        height, width = texture.shape[:2]
        left = max(MAX_TEXELS - self._texel_count, 1)
        factor = int(np.ceil(np.sqrt(height * width / left)))
        if factor > 1:
            self.note_dropped(
                f"resolution of {image.where} ({width} x {height} px), which is downsampled"
            )
            rows, columns = (np.arange(0, length, factor) for length in (height, width))
            sums = np.add.reduceat(np.add.reduceat(texture, rows, axis=0), columns, axis=1)
            counts = [np.diff(np.append(at, n)) for at, n in ((rows, height), (columns, width))]
            texture = (sums / np.multiply.outer(*counts)[..., None]).astype(np.float32)
        self._texel_count += texture.shape[0] * texture.shape[1]
        return texture

    def _buffer_bytes(self, spec: JsonObject) -> bytes:
        """The bytes of a buffer with a URI."""
        uri = spec.text("uri")
        if uri.startswith("data:"):
            return _data_uri_bytes(uri, spec)
        with self._resolve_uri(uri, "buffer").open("rb") as file:
            return file.read(spec.integer("byteLength") if "byteLength" in spec else -1)

    def _resolve_uri(self, uri: str, role: str) -> Path:
        """The file in or below the glTF's folder that a URI refers to."""
        label = f"{role} of {self.path.name}"
        if _SCHEME.match(uri):
            raise InputError(
                f"{label} is {_printable_uri(uri)}, which is not supported.",
                f"Put the file next to {self.path.name} and refer to it by a relative path.",
            )
        decoded = unquote_to_bytes(uri).decode("utf-8", "surrogateescape")
        target = path_inside(self.path.parent, decoded, label)
        if not target.is_file() and decoded != uri:  # some exporters do not percent-encode URIs
            target = path_inside(self.path.parent, uri, label)
        if not target.is_file():
            raise InputError(
                f"{role} {_printable_uri(uri)} referenced by {self.path.name} is missing.",
                f"Put it at that path, relative to {self.path.name}, or export the mesh as .glb, "
                "which embeds all data.",
            )
        return target


def _component_type(spec: JsonObject) -> np.dtype:
    number = spec.integer("componentType")
    if number not in _COMPONENTS:
        valid = ", ".join(map(str, _COMPONENTS))
        raise InputError(f"{spec.where}: componentType is {number}, expected one of {valid}.")
    return np.dtype(_COMPONENTS[number])


def _printable_uri(uri: str) -> str:
    return uri if uri.isprintable() and len(uri) <= 100 else describe_value(uri)


def _data_uri_bytes(uri: str, owner: JsonObject) -> bytes:
    """Decodes a data URI (base64 or percent-encoded)."""
    head, comma, data = uri.partition(",")
    try:
        if not comma:
            raise ValueError("no comma")
        if head.endswith(";base64"):
            return base64.b64decode(data)
        return unquote_to_bytes(data)
    except (ValueError, binascii.Error) as error:
        raise InputError(
            f"{owner.where}: uri is a damaged data URI.", "Export it again."
        ) from error


def _chunks(content: memoryview, path: Path) -> tuple[memoryview, memoryview | None]:
    """The JSON chunk and the binary chunk of a GLB."""
    if len(content) < 20:
        raise InputError(f"{path.name} ends within its header.", _EXPORT_AGAIN)
    version, length = struct.unpack_from("<II", content, 4)
    if version != 2:
        raise InputError(f"{path.name} is GLB version {version}.", "Export it as glTF 2.0.")
    if length > len(content):
        raise InputError(f"{path.name} has {len(content)} of {length} bytes.", _EXPORT_AGAIN)
    found: dict[bytes, memoryview] = {}
    position = 12
    while position + 8 <= length:
        size, kind = struct.unpack_from("<I4s", content, position)
        if position + 8 + size > length:
            raise InputError(
                f"{path.name} has a chunk of {size} bytes; only {length - position - 8} are left.",
                _EXPORT_AGAIN,
            )
        found.setdefault(kind, content[position + 8 : position + 8 + size])
        position += 8 + size
    if b"JSON" not in found:
        raise InputError(f"{path.name} has no JSON chunk.", _EXPORT_AGAIN)
    return found[b"JSON"], found.get(b"BIN\0")
