"""Parses PLY files into elements and properties: ASCII and binary, with lists of any length."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from ....errors import InputError
from ...files.containment import quote_value
from ...files.text_lines import clean_text, parse_count, parse_leading_numbers

_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("long", "int64"), "i8"),
    **dict.fromkeys(("ulong", "uint64"), "u8"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
    "float16": "f2",
}
_STRUCT = {
    **{"i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "i8": "q", "u8": "Q"},
    "f8": "d",
}
"""Format characters of the `struct` module."""
_ORDERS = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}
_EXPORT_AGAIN = "The file is truncated or damaged: copy or export it again."


@dataclass(frozen=True)
class PlyProperty:
    """One property of an element."""

    name: str
    type: np.dtype
    """The stored type; float64 for ASCII files."""
    result_type: np.dtype
    """The returned type: as declared; int64 or float64 for ASCII files."""
    count_type: np.dtype | None = None
    """The type of a list's length; None for scalars."""

    @property
    def is_list(self) -> bool:
        return self.count_type is not None


@dataclass(frozen=True)
class PlyElement:
    """An element of the header: `count` rows of its properties."""

    name: str
    count: int
    properties: tuple[PlyProperty, ...] = ()


@dataclass(frozen=True)
class PlyHeader:
    """The header of a PLY file."""

    elements: tuple[PlyElement, ...]
    textures: tuple[str, ...]
    """File names of `comment TextureFile`."""
    is_ascii: bool
    end: int
    """Offset of the first byte after the header."""


@dataclass(frozen=True, eq=False)
class PlyList:
    """The values of a list property in R rows."""

    values: np.ndarray
    """(C,) concatenated values of all rows."""
    counts: np.ndarray
    """(R,) int64 list lengths."""


Columns = dict[str, "np.ndarray | PlyList"]
"""The properties of an element by name: (R,) values, or a list."""


def read_elements(content: bytes) -> tuple[PlyHeader, dict[str, Columns]]:
    """Parses a PLY file: its header, and the values by element and property.

    Raises:
        InputError: the header is damaged, or declares more values than there are.
    """
    content = content.removeprefix(b"\xef\xbb\xbf")
    header = read_header(content)
    buffer, end = memoryview(content), header.end
    if header.is_ascii:  # treat the parsed text as a binary file of float64
        numbers = parse_leading_numbers(clean_text(content[header.end :]))
        buffer, end = memoryview(numbers).cast("B") if len(numbers) else memoryview(b""), 0
    found: dict[str, Columns] = {}
    for element in header.elements:
        columns, end = _read_element(buffer, end, element)
        found.setdefault(element.name, columns)
    return header, found


def has_splat_properties(names: Collection[str]) -> bool:
    """Whether the properties of a vertex include scales and rotations of Gaussian splats."""
    return "scale_0" in names and "rot_0" in names


def read_header(content: bytes) -> PlyHeader:
    """Parses the header of a PLY file, which need not be complete.

    Raises:
        InputError: the header is damaged.
    """
    head = content[:80]
    first = head.find(b"\r")
    cr_only = first >= 0 and b"\n" not in head[: first + 2]
    newline = b"\r" if cr_only else b"\n"
    order, textures, elements = "", [], []
    position, number = 0, 0
    while True:
        end = content.find(newline, position)
        raw = content[position:] if end < 0 else content[position:end]
        number += 1
        if number == 1 and raw.strip().lower() != b"ply":
            raise InputError("it is not a PLY file: it does not start with 'ply'.")
        if end < 0 and raw.strip() != b"end_header":
            raise InputError("its header has no end_header.", _EXPORT_AGAIN)
        position = len(content) if end < 0 else end + 1
        line = raw.decode("utf-8", "replace").strip()
        keyword, *words = line.split(maxsplit=5) or [""]
        if keyword == "end_header":
            break
        if keyword == "comment" and len(words) > 1 and words[0].lower() == "texturefile":
            textures.append(line.split(maxsplit=2)[2])
        if keyword not in ("format", "element", "property"):
            continue
        where = f"line {number} of the header ({quote_value(line[:80])})"
        if keyword == "format":
            order = _ORDERS.get(words[0].lower(), "") if words else ""
            if not order:
                raise InputError(f"{where} has an unknown format.")
        elif keyword == "element":
            if len(words) != 2:
                raise InputError(f"{where} is damaged.")
            elements.append((words[0].lower(), parse_count(words[1], where), []))
        elif not elements:
            raise InputError(f"{where} is not preceded by an element.")
        else:
            elements[-1][2].append(_parse_property(words, where))
    if not order:
        raise InputError("its header has no format line.")
    return PlyHeader(
        tuple(
            PlyElement(
                name, count, tuple(_with_storage_type(property, order) for property in properties)
            )
            for name, count, properties in elements
        ),
        tuple(textures),
        order == "=",
        position,
    )


def _parse_property(words: list[str], where: str) -> PlyProperty:
    """Parses the arguments of a property line: `float x` or `list uchar int vertex_indices`."""
    is_list = words[:1] == ["list"]
    types = [_TYPES.get(word.lower()) for word in words[is_list:-1]]
    if len(types) != 1 + is_list or None in types:
        raise InputError(f"{where} has an unknown type.")
    if is_list and types[0].startswith("f"):
        raise InputError(f"{where} has a list with a fractional length type.")
    declared = np.dtype(types[-1])
    count_type = np.dtype(types[0]) if is_list else None
    return PlyProperty(words[-1].lower(), declared, declared, count_type)


def _with_storage_type(prop: PlyProperty, order: str) -> PlyProperty:
    """The property with its stored types and byte order."""
    if order == "=":
        double = np.dtype(np.float64)
        result_type = double if prop.type.kind == "f" else np.dtype(np.int64)
        return PlyProperty(prop.name, double, result_type, double if prop.is_list else None)
    count_type = prop.count_type.newbyteorder(order) if prop.is_list else None
    return replace(prop, type=prop.type.newbyteorder(order), count_type=count_type)


def _read_element(buffer: memoryview, start: int, element: PlyElement) -> tuple[Columns, int]:
    """Reads all rows of an element; also returns the offset of its end."""
    sizes = [(p.count_type if p.is_list else p.type).itemsize for p in element.properties]
    min_row_bytes = sum(sizes)  # bytes of a row with empty lists
    if element.count * min_row_bytes > len(buffer) - start:
        raise _too_few_values_error(element)
    if element.count == 0 or min_row_bytes == 0:
        empty = np.zeros(0)
        return {
            p.name: PlyList(empty, np.zeros(element.count, np.int64)) if p.is_list else empty
            for p in element.properties
        }, start
    layout = _uniform_layout(buffer, start, element)
    if layout is None:
        return _read_ragged(buffer, start, element)
    columns: Columns = {}
    offset, stride = start, layout[1]
    for prop, length in zip(element.properties, layout[0], strict=True):
        if not prop.is_list:
            column = _view(buffer, offset, prop.type, (element.count,), (stride,))
            columns.setdefault(prop.name, _convert(column, prop))
            offset += prop.type.itemsize
        else:
            offset += prop.count_type.itemsize
            steps = (stride, prop.type.itemsize)
            table = _view(buffer, offset, prop.type, (element.count, length), steps)
            counts = np.full(element.count, length)
            columns.setdefault(prop.name, PlyList(_convert(table.reshape(-1), prop), counts))
            offset += length * prop.type.itemsize
    return columns, start + stride * element.count


def _view(
    buffer: memoryview, offset: int, dtype: np.dtype, shape: tuple[int, ...], steps: tuple[int, ...]
) -> np.ndarray:
    """Numbers of the buffer that are `steps` bytes apart; numpy checks that they are within."""
    if 0 in shape:
        return np.zeros(shape, dtype=dtype)
    return np.ndarray(shape, dtype, buffer, offset, steps)


def _uniform_layout(
    buffer: memoryview, start: int, element: PlyElement
) -> tuple[list[int], int] | None:
    """The list lengths (0 for single numbers) and the size of rows that are all alike, or None."""
    position, lengths, counts = start, [], []
    for prop in element.properties:
        lengths.append(0)
        if prop.is_list:
            if position + prop.count_type.itemsize > len(buffer):
                return None
            lengths[-1] = _length(_view(buffer, position, prop.count_type, (1,), (1,))[0], element)
            counts.append((position, prop.count_type, lengths[-1]))
            position += prop.count_type.itemsize
        position += prop.type.itemsize * (lengths[-1] if prop.is_list else 1)
    size = position - start
    if size * element.count > len(buffer) - start:
        return None
    for offset, dtype, length in counts:
        if (_view(buffer, offset, dtype, (element.count,), (size,)) != length).any():
            return None
    return lengths, size


def _length(value: float, element: PlyElement) -> int:
    """Checks the length of a list.

    Raises:
        InputError: it is negative or fractional.
    """
    if not 0 <= value < 2**53 or value != int(value):
        raise InputError(f"a list of the element '{element.name}' has the length {value}.")
    return int(value)


def _read_ragged(buffer: memoryview, start: int, element: PlyElement) -> tuple[Columns, int]:
    """As `_read_element`, for rows of different sizes: scans them one by one."""
    lists, gap = [], 0  # `gap`: bytes of scalars between lists
    for prop in element.properties:
        if prop.is_list:
            code = ("<>"[prop.count_type.str[0] == ">"]) + _STRUCT[prop.count_type.str[1:]]
            unpack = struct.Struct(code).unpack_from
            lists.append((gap, unpack, prop.count_type.itemsize, prop.type.itemsize))
            gap = 0
        else:
            gap += prop.type.itemsize
    offsets, counts = array("q"), array("q")  # of the first item of each list; list lengths
    position = start
    try:
        for _ in range(element.count):
            for before, unpack, count_size, size in lists:
                (count,) = unpack(buffer, position + before)
                if count.__class__ is float or count < 0:
                    count = _length(count, element)
                position += before + count_size
                offsets.append(position)
                counts.append(count)
                position += count * size
            position += gap
    except (struct.error, OverflowError) as error:
        raise _too_few_values_error(element) from error
    if position > len(buffer):
        raise _too_few_values_error(element)
    shape = (element.count, len(lists))
    offsets = np.frombuffer(offsets, dtype=np.int64).reshape(shape)
    counts = np.frombuffer(counts, dtype=np.int64).reshape(shape)
    return _gather_ragged(buffer, start, element, offsets, counts), position


def _gather_ragged(
    buffer: memoryview, start: int, element: PlyElement, offsets: np.ndarray, counts: np.ndarray
) -> Columns:
    """Gathers rows whose lists (R, lists) start at byte `offsets` and have `counts` items."""
    sizes = [p.type.itemsize for p in element.properties if p.is_list]
    ends = offsets + counts * np.array(sizes)
    last = max(index for index, prop in enumerate(element.properties) if prop.is_list)
    tail = sum(prop.type.itemsize for prop in element.properties[last + 1 :])
    base = np.concatenate([[start], ends[:-1, -1] + tail])  # (R,) offsets of scalars
    columns: Columns = {}
    column, offset = 0, 0
    for prop in element.properties:
        if not prop.is_list:
            columns.setdefault(prop.name, _items(buffer, base + offset, prop))
            offset += prop.type.itemsize
        else:
            length = counts[:, column]
            before = np.cumsum(length) - length
            within = np.arange(int(length.sum())) - np.repeat(before, length)
            positions = np.repeat(offsets[:, column], length) + within * prop.type.itemsize
            columns.setdefault(prop.name, PlyList(_items(buffer, positions, prop), length))
            base, offset = ends[:, column], 0
            column += 1
    return columns


def _items(buffer: memoryview, positions: np.ndarray, prop: PlyProperty) -> np.ndarray:
    """Gathers the values of a property at the given byte offsets."""
    if len(positions) == 0:
        return np.zeros(0, dtype=prop.result_type)
    unaligned = _view(buffer, 0, prop.type, (len(buffer) - prop.type.itemsize + 1,), (1,))
    return _convert(unaligned[positions], prop)


def _convert(values: np.ndarray, prop: PlyProperty) -> np.ndarray:
    """Converts values to the result type.

    Raises:
        InputError: an ASCII file has fractional or huge values in an integer list.
    """
    if prop.result_type.kind in "iu" and values.dtype.kind == "f":
        invalid = ~(np.abs(values) < 2.0**53)  # also NaN
        if invalid.any():
            raise InputError(f"the property '{prop.name}' has the value {values[invalid][0]}.")
        fractional = values % 1 != 0
        if fractional.any():
            if prop.is_list:
                value = values[fractional][0]
                raise InputError(f"the list '{prop.name}' has the fractional value {value}.")
            return values  # some programs write colours in 0..1 as integers
    return values.astype(prop.result_type)


def _too_few_values_error(element: PlyElement) -> InputError:
    return InputError(
        f"its header declares {element.count} rows of '{element.name}', but the file has too few "
        "values for them.",
        _EXPORT_AGAIN,
    )
