"""Reads the header and the numbers of PLY files: ASCII and binary, with lists of any lengths."""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass, replace

import numpy as np

from ....errors import InputError
from ...files.containment import quoted
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
"""Codes of the module struct."""
_ORDERS = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}
_CUT_OFF = "The file is cut off or damaged: copy or export it again."


@dataclass(frozen=True)
class Property:
    """One property of an element."""

    name: str
    type: np.dtype
    """As it is stored: float64 in ASCII files."""
    read_as: np.dtype
    """As it is handed on: as declared; from ASCII files int64 or float64."""
    count_type: np.dtype | None = None
    """Of the length of a list; None for a single number."""

    @property
    def is_list(self) -> bool:
        return self.count_type is not None


@dataclass(frozen=True)
class Element:
    """One element of the header: `count` rows of its properties."""

    name: str
    count: int
    properties: tuple[Property, ...] = ()


@dataclass(frozen=True)
class Header:
    """The header of a PLY file."""

    elements: tuple[Element, ...]
    textures: tuple[str, ...]
    """What `comment TextureFile` names."""
    is_ascii: bool
    end: int
    """Where the numbers start."""


@dataclass(frozen=True, eq=False)
class List:
    """A list property of R rows."""

    values: np.ndarray
    """(C,) numbers of all rows, one after another."""
    counts: np.ndarray
    """(R,) int64."""


Columns = dict[str, "np.ndarray | List"]
"""The properties of one element by name: (R,) numbers in their declared type, or a list."""


def read_elements(content: bytes) -> tuple[Header, dict[str, Columns]]:
    """The header and the numbers of a PLY file, by element and property.

    Raises:
        InputError: the header is damaged, or there are fewer numbers than it declares.
    """
    content = content.removeprefix(b"\xef\xbb\xbf")
    header = _read_header(content)
    buffer, end = memoryview(content), header.end
    if header.is_ascii:  # from here on, numbers of text are like a binary file of doubles
        numbers = parse_leading_numbers(clean_text(content[header.end :]))
        buffer, end = memoryview(numbers).cast("B") if len(numbers) else memoryview(b""), 0
    found: dict[str, Columns] = {}
    for element in header.elements:
        columns, end = _read_element(buffer, end, element)
        found.setdefault(element.name, columns)
    return header, found


def _read_header(content: bytes) -> Header:
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
            raise InputError("it is no PLY file: it does not start with 'ply'.")
        if end < 0 and raw.strip() != b"end_header":
            raise InputError("its header has no end.", _CUT_OFF)
        position = len(content) if end < 0 else end + 1
        line = raw.decode("utf-8", "replace").strip()
        keyword, *words = line.split(maxsplit=5) or [""]
        if keyword == "end_header":
            break
        if keyword == "comment" and len(words) > 1 and words[0].lower() == "texturefile":
            textures.append(line.split(maxsplit=2)[2])
        if keyword not in ("format", "element", "property"):
            continue
        where = f"line {number} of the header ({quoted(line[:80])})"
        if keyword == "format":
            order = _ORDERS.get(words[0].lower(), "") if words else ""
            if not order:
                raise InputError(f"{where} has a format that is not known.")
        elif keyword == "element":
            if len(words) != 2:
                raise InputError(f"{where} is damaged.")
            elements.append((words[0].lower(), parse_count(words[1], where), []))
        elif not elements:
            raise InputError(f"{where} comes before any element.")
        else:
            elements[-1][2].append(_parse_property(words, where))
    if not order:
        raise InputError("its header names no format.")
    return Header(
        tuple(
            Element(name, count, tuple(_stored(property, order) for property in properties))
            for name, count, properties in elements
        ),
        tuple(textures),
        order == "=",
        position,
    )


def _parse_property(words: list[str], where: str) -> Property:
    """A property from what follows its keyword: `float x` or `list uchar int vertex_indices`."""
    is_list = words[:1] == ["list"]
    types = [_TYPES.get(word.lower()) for word in words[is_list:-1]]
    if len(types) != 1 + is_list or None in types:
        raise InputError(f"{where} has a type that is not known.")
    if is_list and types[0].startswith("f"):
        raise InputError(f"{where} has lists of fractional length.")
    declared = np.dtype(types[-1])
    count_type = np.dtype(types[0]) if is_list else None
    return Property(words[-1].lower(), declared, declared, count_type)


def _stored(given: Property, order: str) -> Property:
    """The property with the types that its numbers are stored in."""
    if order == "=":
        double = np.dtype(np.float64)
        read_as = double if given.type.kind == "f" else np.dtype(np.int64)
        return Property(given.name, double, read_as, double if given.is_list else None)
    count_type = given.count_type.newbyteorder(order) if given.is_list else None
    return replace(given, type=given.type.newbyteorder(order), count_type=count_type)


def _read_element(buffer: memoryview, start: int, element: Element) -> tuple[Columns, int]:
    """The properties of all rows of an element, and where it ends."""
    sizes = [(p.count_type if p.is_list else p.type).itemsize for p in element.properties]
    least = sum(sizes)  # bytes of a row with empty lists
    if element.count * least > len(buffer) - start:
        raise _too_short(element)
    if element.count == 0 or least == 0:
        empty = np.zeros(0)
        return {
            p.name: List(empty, np.zeros(element.count, np.int64)) if p.is_list else empty
            for p in element.properties
        }, start
    rows = _uniform_rows(buffer, start, element)
    if rows is None:
        return _read_ragged(buffer, start, element)
    columns: Columns = {}
    offset, stride = start, rows[1]
    for given, length in zip(element.properties, rows[0], strict=True):
        if not given.is_list:
            column = _view(buffer, offset, given.type, (element.count,), (stride,))
            columns.setdefault(given.name, _as_read(column, given))
            offset += given.type.itemsize
        else:
            offset += given.count_type.itemsize
            steps = (stride, given.type.itemsize)
            table = _view(buffer, offset, given.type, (element.count, length), steps)
            counts = np.full(element.count, length)
            columns.setdefault(given.name, List(_as_read(table.reshape(-1), given), counts))
            offset += length * given.type.itemsize
    return columns, start + stride * element.count


def _view(
    buffer: memoryview, offset: int, dtype: np.dtype, shape: tuple[int, ...], steps: tuple[int, ...]
) -> np.ndarray:
    """Numbers of the buffer that are `steps` bytes apart; numpy checks that they are within."""
    if 0 in shape:
        return np.zeros(shape, dtype=dtype)
    return np.ndarray(shape, dtype, buffer, offset, steps)


def _uniform_rows(buffer: memoryview, start: int, element: Element) -> tuple[list[int], int] | None:
    """The list lengths (0 for single numbers) and the size of rows that are all alike, or None."""
    position, lengths, counts = start, [], []
    for given in element.properties:
        lengths.append(0)
        if given.is_list:
            if position + given.count_type.itemsize > len(buffer):
                return None
            lengths[-1] = _length(_view(buffer, position, given.count_type, (1,), (1,))[0], element)
            counts.append((position, given.count_type, lengths[-1]))
            position += given.count_type.itemsize
        position += given.type.itemsize * (lengths[-1] if given.is_list else 1)
    size = position - start
    if size * element.count > len(buffer) - start:
        return None
    for offset, dtype, length in counts:
        if (_view(buffer, offset, dtype, (element.count,), (size,)) != length).any():
            return None
    return lengths, size


def _length(value: float, element: Element) -> int:
    """The length of a list.

    Raises:
        InputError: it is negative or no whole number.
    """
    if not 0 <= value < 2**53 or value != int(value):
        raise InputError(f"a list of the element '{element.name}' has the length {value}.")
    return int(value)


def _read_ragged(buffer: memoryview, start: int, element: Element) -> tuple[Columns, int]:
    """As `_read_element`, for rows of different sizes: their places are found one by one."""
    lists, gap = [], 0  # between lists lie `gap` bytes of single numbers
    for given in element.properties:
        if given.is_list:
            code = ("<>"[given.count_type.str[0] == ">"]) + _STRUCT[given.count_type.str[1:]]
            unpack = struct.Struct(code).unpack_from
            lists.append((gap, unpack, given.count_type.itemsize, given.type.itemsize))
            gap = 0
        else:
            gap += given.type.itemsize
    places, counts = array("q"), array("q")  # where the first item of each list is; their lengths
    position = start
    try:
        for _ in range(element.count):
            for before, unpack, count_size, size in lists:
                (count,) = unpack(buffer, position + before)
                if count.__class__ is float or count < 0:
                    count = _length(count, element)
                position += before + count_size
                places.append(position)
                counts.append(count)
                position += count * size
            position += gap
    except (struct.error, OverflowError) as error:
        raise _too_short(element) from error
    if position > len(buffer):
        raise _too_short(element)
    shape = (element.count, len(lists))
    places = np.frombuffer(places, dtype=np.int64).reshape(shape)
    counts = np.frombuffer(counts, dtype=np.int64).reshape(shape)
    return _gathered(buffer, start, element, places, counts), position


def _gathered(
    buffer: memoryview, start: int, element: Element, places: np.ndarray, counts: np.ndarray
) -> Columns:
    """The properties of rows whose lists (R, lists) start at `places` and have `counts` items."""
    sizes = [p.type.itemsize for p in element.properties if p.is_list]
    ends = places + counts * np.array(sizes)
    last = max(index for index, given in enumerate(element.properties) if given.is_list)
    tail = sum(given.type.itemsize for given in element.properties[last + 1 :])
    base = np.concatenate([[start], ends[:-1, -1] + tail])  # (R,) where single numbers start
    columns: Columns = {}
    column, offset = 0, 0
    for given in element.properties:
        if not given.is_list:
            columns.setdefault(given.name, _items(buffer, base + offset, given))
            offset += given.type.itemsize
        else:
            length = counts[:, column]
            before = np.cumsum(length) - length
            within = np.arange(int(length.sum())) - np.repeat(before, length)
            positions = np.repeat(places[:, column], length) + within * given.type.itemsize
            columns.setdefault(given.name, List(_items(buffer, positions, given), length))
            base, offset = ends[:, column], 0
            column += 1
    return columns


def _items(buffer: memoryview, positions: np.ndarray, given: Property) -> np.ndarray:
    """The numbers of a property at any places in the buffer."""
    if len(positions) == 0:
        return np.zeros(0, dtype=given.read_as)
    everywhere = _view(buffer, 0, given.type, (len(buffer) - given.type.itemsize + 1,), (1,))
    return _as_read(everywhere[positions], given)


def _as_read(values: np.ndarray, given: Property) -> np.ndarray:
    """Numbers as they are handed on.

    Raises:
        InputError: a whole number was declared, and text has something else.
    """
    if given.read_as.kind in "iu" and values.dtype.kind == "f":
        wrong = ~(np.abs(values) < 2.0**53)  # also NaN
        if wrong.any():
            raise InputError(f"the property '{given.name}' has the value {values[wrong][0]}.")
        broken = values % 1 != 0
        if broken.any():
            if given.is_list:
                value = values[broken][0]
                raise InputError(f"the list '{given.name}' has the fractional value {value}.")
            return values  # colours, of programs that write fractions whatever they declare
    return values.astype(given.read_as)


def _too_short(element: Element) -> InputError:
    return InputError(
        f"its header declares {element.count} rows of '{element.name}', but the file has not "
        "enough numbers for them.",
        _CUT_OFF,
    )
