"""The container of glTF 2.0: header, buffers, accessors and named files, with bounds checked."""

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
from ...files.json_fields import JsonObject, parse_json_object, shown
from ..primitives import decoded_texture

logger = logging.getLogger(__name__)

_CUT_OFF = "It is cut off: copy or export it again."
_COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
"""A URI scheme; one letter and a colon is a drive."""

MAX_ZERO_ROWS = 1 << 20
"""Elements of an accessor without a buffer view, which is zero by the standard and so has no bytes
that its count could be checked against."""
MAX_TEXELS = 1 << 26
"""Texels of all decoded textures of a file together; what goes beyond is reduced."""

_UNDERSTOOD = {
    "EXT_mesh_gpu_instancing",
    "EXT_texture_webp",
    "KHR_mesh_quantization",
    "KHR_node_visibility",
    "KHR_texture_transform",
}
_IGNORED = (
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
"""Starts of the names of extensions that a file may require although they are ignored: they bear on
neither geometry nor base colour."""
_WITH_FALLBACK = ("KHR_texture_", "EXT_texture_", "MSFT_texture_", "draco", "meshopt")
"""Parts of the names of extensions that are optional where a file does not require them."""
_COMPRESSION = ("draco", "meshopt")


class GltfFile:
    """An open glTF file.

    Args:
        path: a .glb or .gltf file; which of the two is told from its first bytes.

    Raises:
        InputError: no glTF 2.0, cut off, or in need of an extension that is not understood.
    """

    def __init__(self, path: Path):
        self.path = path
        content = memoryview(path.read_bytes())
        self._buffers: dict[int, memoryview] = {}
        self._textures: dict[object, np.ndarray] = {}
        self._texel_count = 0
        self._lists: dict[str, list[JsonObject]] = {}
        self._left_out: dict[str, None] = {}
        text, self._binary = content, None
        if content[:4] == b"glTF":
            text, self._binary = _chunks(content, path)
        self.header = parse_json_object(text, f"the glTF header of {path.name}")
        version = self.header.object("asset").value("version", None, "2.0")
        if not str(version).startswith("2."):
            raise InputError(
                f"{path} is glTF {shown(str(version)[:20])[1:-1]}.", "Export it as glTF 2.0."
            )
        for name in self.header.strings("extensionsRequired"):
            if name not in _UNDERSTOOD and not name.startswith(_IGNORED):
                raise self.unread_extension(name)
        for name in self.header.strings("extensionsUsed"):
            known = name in _UNDERSTOOD or name.startswith(_IGNORED)
            if not known and not any(part in name for part in _WITH_FALLBACK):
                self.leave_out(f"extension {shown(name)[1:-1]}")

    def unread_extension(self, name: str) -> InputError:
        """The error for data that only an extension explains."""
        return InputError(
            f"{self.path.name} needs the glTF extension {shown(name)[1:-1]}, which is not read.",
            "Export it without compression, as plain glTF 2.0.",
        )

    def leave_out(self, what: str) -> None:
        """Notes something that changes what is seen and that is not kept."""
        self._left_out[what] = None

    def warn_of_what_is_left_out(self) -> None:
        """One warning that names all of it; none if nothing was left out."""
        if self._left_out:
            logger.warning("%s: left out: %s", self.path.name, "; ".join(self._left_out))

    def items(self, kind: str) -> list[JsonObject]:
        """The header's list of that kind; empty if the file has none."""
        if kind not in self._lists:
            self._lists[kind] = self.header.objects(kind, kind.removesuffix("s"))
        return self._lists[kind]

    def item(self, kind: str, owner: JsonObject, key: str) -> JsonObject:
        """The element of a list that a field of another object refers to."""
        return self.items(kind)[self.index(kind, owner, key)]

    def index(self, kind: str, owner: JsonObject, key: str) -> int:
        """A field that refers to an element of a list."""
        count = len(self.items(kind))
        if count == 0:
            raise InputError(f"{owner.where}: {key} refers to {kind}, but there are none.")
        return owner.integer(key, high=count - 1)

    @property
    def bytes_read(self) -> int:
        """Bytes of all buffers read so far."""
        return sum(map(len, self._buffers.values()))

    def accessor(
        self, owner: JsonObject, key: str, types: tuple[str, ...], integers: bool = False
    ) -> np.ndarray:
        """(count, width) values of the accessor that a field refers to.

        Normalised integers are returned as fractions.

        Args:
            owner: the object with the field.
            key: its name.
            types: accessor types that are valid there.
            integers: whether only unsigned integers are valid there.

        Raises:
            InputError: any number of it is not backed by the bytes behind it.
        """
        spec = self.item("accessors", owner, key)
        kind = spec.text("type")
        if kind not in types:
            raise InputError(
                f"{spec.where}, used as {owner.where}: {key}, is {shown(kind)}, expected "
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
                "It is damaged, or its data is compressed: export it as plain glTF 2.0.",
            )
        else:
            values = np.zeros((count, width), dtype)
        if "sparse" in spec:
            values = self._with_sparse(values, spec.object("sparse"))
        if spec.boolean("normalized", False) and dtype.kind in "iu":
            return np.maximum(values / np.iinfo(dtype).max, -1.0)
        return values

    def count_of(self, owner: JsonObject, key: str) -> int:
        """Number of elements that the accessor claims which a field refers to."""
        return self.item("accessors", owner, key).integer("count")

    def _with_sparse(self, values: np.ndarray, sparse: JsonObject) -> np.ndarray:
        count = sparse.integer("count", low=0, high=len(values))
        if count == 0:
            return values
        where, what = sparse.object("indices"), sparse.object("values")
        rows = self._rows(where, count, 1, _component_type(where))[:, 0]
        if rows.dtype.kind != "u" or int(rows.max()) >= len(values):
            raise InputError(
                f"{where.where} has values up to {rows.max()}, expected integers from 0 to "
                f"{len(values) - 1}."
            )
        values = values.copy()
        values[rows] = self._rows(what, count, values.shape[1], values.dtype)
        return values

    def _rows(self, spec: JsonObject, count: int, width: int, dtype: np.dtype) -> np.ndarray:
        """(count, width) numbers of the buffer view that an object names; not to be changed."""
        view, content = self._view(spec)
        start, size = spec.integer("byteOffset", 0), width * dtype.itemsize
        stride = view.integer("byteStride", 0) or size
        if stride < size:
            raise InputError(f"{view.where}: byteStride is {stride}, expected {size} or more.")
        needed = start + (count - 1) * stride + size if count > 0 else 0
        if needed > len(content):
            raise InputError(
                f"{spec.where} needs {needed} bytes of {view.where}, which has {len(content)}.",
                _CUT_OFF,
            )
        if count == 0:
            return np.zeros((0, width), dtype)
        return np.ndarray((count, width), dtype, content, start, (stride, dtype.itemsize))

    def _view(self, owner: JsonObject) -> tuple[JsonObject, memoryview]:
        """The buffer view that an object names, and its bytes."""
        view = self.item("bufferViews", owner, "bufferView")
        for name in view.object("extensions").names:
            if any(kind in name for kind in _COMPRESSION):
                raise self.unread_extension(name)
        start, length = view.integer("byteOffset", 0), view.integer("byteLength")
        buffer = self._buffer(self.index("buffers", view, "buffer"))
        if start + length > len(buffer):
            raise InputError(
                f"{self.path.name} ends before its data does: {view.where} ends at byte "
                f"{start + length} of a buffer of {len(buffer)}.",
                _CUT_OFF,
            )
        return view, buffer[start : start + length]

    def _buffer(self, index: int) -> memoryview:
        if index not in self._buffers:
            spec = self.items("buffers")[index]
            if "uri" in spec:
                data = memoryview(self._buffer_bytes(spec))
            elif self._binary is None or index > 0:  # the binary chunk is the first buffer
                raise InputError(f"{self.path.name} lacks the data of its {spec.where}.", _CUT_OFF)
            else:
                data = self._binary
            self._buffers[index] = data
        return self._buffers[index]

    def texture(self, owner: JsonObject) -> np.ndarray:
        """(H, W, 3) float32 sRGB image that an object names as its `source`.

        Images of the same bytes are decoded once and are one array.
        """
        image = self.item("images", owner, "source")
        if "bufferView" in image:
            key: object = self.index("bufferViews", image, "bufferView")
        else:
            key = image.text("uri")
        if key not in self._textures:
            self._textures[key] = self._within_budget(self._decoded(image), image)
        return self._textures[key]

    def _decoded(self, image: JsonObject) -> np.ndarray:
        if "bufferView" in image:
            return decoded_texture(bytes(self._view(image)[1]), image.where, self.path.name)
        uri = image.text("uri")
        if uri.startswith("data:"):
            return decoded_texture(_data_uri_bytes(uri, image), image.where, self.path.name)
        target = self._named_file(uri, "texture")  # its name says whether it may be a TGA
        return decoded_texture(target, _shown_uri(uri), self.path.name)

    def _within_budget(self, texture: np.ndarray, image: JsonObject) -> np.ndarray:
        """The texture, reduced by a whole factor if all together would have too many texels."""
        height, width = texture.shape[:2]
        left = max(MAX_TEXELS - self._texel_count, 1)
        factor = int(np.ceil(np.sqrt(height * width / left)))
        if factor > 1:
            self.leave_out(f"resolution: {image.where} of {width} x {height} px is reduced")
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
        with self._named_file(uri, "buffer").open("rb") as file:
            return file.read(spec.integer("byteLength") if "byteLength" in spec else -1)

    def _named_file(self, uri: str, role: str) -> Path:
        """The file in the same folder that a URI names."""
        what = f"{role} of {self.path.name}"
        if _SCHEME.match(uri):
            raise InputError(
                f"{what} is {_shown_uri(uri)}, which is not read.",
                "Put the file next to it instead.",
            )
        decoded = unquote_to_bytes(uri).decode("utf-8", "surrogateescape")
        target = path_inside(self.path.parent, decoded, what)
        if not target.is_file() and decoded != uri:  # some writers do not encode their names
            target = path_inside(self.path.parent, uri, what)
        if not target.is_file():
            raise InputError(
                f"{role} {_shown_uri(uri)} named by {self.path.name} is missing.",
                f"Put it at that path, relative to {self.path.name}, or export as .glb, which "
                "holds everything.",
            )
        return target


def _component_type(spec: JsonObject) -> np.dtype:
    number = spec.integer("componentType")
    if number not in _COMPONENTS:
        known = ", ".join(map(str, _COMPONENTS))
        raise InputError(f"{spec.where}: componentType is {number}, expected one of {known}.")
    return np.dtype(_COMPONENTS[number])


def _shown_uri(uri: str) -> str:
    return uri if uri.isprintable() and len(uri) <= 100 else shown(uri)


def _data_uri_bytes(uri: str, owner: JsonObject) -> bytes:
    """The bytes of a data URI, in base64 or percent-encoded."""
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
    """The JSON text and the binary data of a GLB."""
    if len(content) < 20:
        raise InputError(f"{path.name} ends within its header.", _CUT_OFF)
    version, length = struct.unpack_from("<II", content, 4)
    if version != 2:
        raise InputError(f"{path.name} is GLB version {version}.", "Export it as glTF 2.0.")
    if length > len(content):
        raise InputError(f"{path.name} has {len(content)} of {length} bytes.", _CUT_OFF)
    found: dict[bytes, memoryview] = {}
    place = 12
    while place + 8 <= length:
        size, kind = struct.unpack_from("<I4s", content, place)
        if place + 8 + size > length:
            raise InputError(
                f"{path.name} has a chunk of {size} bytes where {length - place - 8} are left.",
                _CUT_OFF,
            )
        found.setdefault(kind, content[place + 8 : place + 8 + size])
        place += 8 + size
    if b"JSON" not in found:
        raise InputError(f"{path.name} has no JSON chunk.", _CUT_OFF)
    return found[b"JSON"], found.get(b"BIN\0")
