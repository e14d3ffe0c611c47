"""The table of contents of PyTorch files, read from their pickle without running it.

Unpickling runs whatever the file asks for, so nothing here unpickles. The opcodes are followed one
by one on a stack of inert notes: a function that the file wants to call becomes a note of its name.
Only torch's own ways to rebuild a tensor are understood, and they give a shape, not a tensor.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ..errors import InputError
from ..io.containment import quoted
from .headers import (
    DTYPES,
    MAX_DIMENSIONS,
    MAX_NAME_LENGTH,
    Header,
    TensorInfo,
    is_number,
)

MAX_PICKLE_BYTES = 32_000_000
"""Longer ones are not followed: weights alone have about half a megabyte."""
MAX_WORK = 500_000
"""Opcodes that are followed, with the items that they copy: weights alone have 50,000."""
MAX_ZIP_READ = 8_000_000
"""Bytes that zipfile may ask for at once: its table of contents is read in one piece."""
_MEMBER_PIECE = 1_000_000

COMPRESSED = "Packed again by a zip program: torch cannot map it, unpack it or save it again."
"""The remark on a zip file whose entries are compressed, which torch.save never does."""
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""The number that starts a file of torch.save before its zip format."""

_STORAGE_DTYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "Float8_e4m3fnStorage": "float8_e4m3fn",
    "Float8_e5m2Storage": "float8_e5m2",
    "ComplexFloatStorage": "complex64",
}
_DTYPE_NAMES = {*_STORAGE_DTYPES.values(), *(name for name, _ in DTYPES.values())}
_PLAIN_NAMES = {"collections.OrderedDict", "_codecs.encode"}
_DTYPE_BYTES = {name: bits // 8 for name, bits in DTYPES.values()}


@dataclass(frozen=True)
class _Name:
    """A function or class the file names, as "module.name"; never imported."""

    text: str


@dataclass
class _Note:
    """Something the file would make; we only remember what it would call, and its state."""

    made_by: str
    state: Any = None


class _TooMuchWorkError(Exception):
    """A pickle has more opcodes, or copies more items, than any that holds weights."""


class _Mark:
    """Separates the items of a list under construction from what lies below on the stack."""


@dataclass
class _Follower:
    """Follows one pickle's opcodes; `result` is what it would have made, with notes for objects."""

    names: set[str] = field(default_factory=set)
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    storages: dict[Any, int] = field(default_factory=dict)
    """Bytes of numbers that each storage claims, by its key."""
    work: int = MAX_WORK
    """What is left of the work that may be done."""

    def follow(self, opcodes: Iterator[tuple[Any, Any, Any]]) -> Any:
        """What the pickle describes.

        Raises:
            _TooMuchWorkError: it is too long.
            Exception: it is malformed; pickletools raises whatever comes up.
        """
        for opcode, argument, _ in opcodes:
            self.spend(1)
            if opcode.name == "STOP":
                break
            step = _STEPS.get(opcode.name)
            if step is not None:
                step(self, argument)
            else:
                self._other(opcode, argument)
        return self.stack[-1]

    def spend(self, work: int) -> None:
        """Counts work; copying an item that the pickle names twice is work, too."""
        self.work -= work
        if self.work < 0:
            raise _TooMuchWorkError

    def pop_to_mark(self) -> list[Any]:
        items: list[Any] = []
        while not isinstance(top := self.stack.pop(), _Mark):
            items.append(top)
        return items[::-1]

    def name(self, both: str) -> _Name:
        """Remembers what pickletools gives as "module name"."""
        if len(both) > MAX_NAME_LENGTH:
            raise ValueError("a name is too long")
        text = both.replace(" ", ".", 1)
        self.names.add(text)
        return _Name(text)

    def _other(self, opcode: Any, argument: Any) -> None:
        """An opcode that only pushes its argument, or one whose objects we do not follow."""
        takes = opcode.stack_before
        if pickletools.markobject in takes:
            self.pop_to_mark()
            takes = takes[: takes.index(pickletools.markobject)]
        for _ in takes:
            self.stack.pop()
        for _ in opcode.stack_after:
            self.stack.append(argument if not opcode.stack_before else _Note(opcode.name))


def _call(follower: _Follower, _: Any) -> None:
    arguments, function = follower.stack.pop(), follower.stack.pop()
    follower.stack.append(_result(follower, function, arguments))


def _result(follower: _Follower, function: Any, arguments: Any) -> Any:
    """What a call would give: a tensor's shape for torch's rebuilders, else a note."""
    text = function.text if isinstance(function, _Name) else "?"
    arguments = arguments if isinstance(arguments, tuple) else ()
    if text == "collections.OrderedDict":
        made: dict[Any, Any] = {}
        pairs = arguments[0] if arguments and isinstance(arguments[0], list | tuple) else ()
        follower.spend(len(pairs))
        for key, value in pairs:
            _set_items(made, [key, value])
        return made
    last = text.rsplit(".", 1)[-1]
    if not text.startswith("torch."):
        return _Note(text)
    if last in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"):
        storage = arguments[0]
        dtype = storage.made_by if isinstance(storage, _Note) else "unknown"
        if last == "_rebuild_tensor_v3" and isinstance(arguments[6], _Name):
            dtype = arguments[6].text.rsplit(".", 1)[-1]
        return TensorInfo(dtype, _shape(arguments[2]))
    if last in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
        return arguments[0]
    if last == "Size":
        return _shape(arguments[0])
    return _Note(text)


def _shape(sizes: Any) -> tuple[int, ...]:
    """A shape; raises ValueError for what is none."""
    if not isinstance(sizes, list | tuple) or len(sizes) > MAX_DIMENSIONS:
        raise ValueError("not a shape")
    if not all(is_number(size) and size >= 0 for size in sizes):
        raise ValueError("not a size")
    return tuple(sizes)


def _storage(follower: _Follower, _: Any) -> None:
    """A note of the number format that the pickle's reference to tensor data names."""
    persistent_id = follower.stack.pop()
    parts = persistent_id if isinstance(persistent_id, tuple) else ()
    kind = parts[1] if len(parts) > 1 else None
    name = kind.text.rsplit(".", 1)[-1] if isinstance(kind, _Name) else ""
    dtype = _STORAGE_DTYPES.get(name, "unknown")
    if len(parts) > 4 and isinstance(parts[2], str) and is_number(parts[4]):
        follower.storages[parts[2]] = parts[4] * _DTYPE_BYTES.get(dtype, 1)
    follower.stack.append(_Note(dtype))


def _set_items(target: Any, flat: list[Any]) -> None:
    if isinstance(target, dict):
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            if isinstance(key, int) or (isinstance(key, str) and len(key) <= MAX_NAME_LENGTH):
                target[key] = value


def _extend(target: Any, items: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(items)


def _replace_top(count: int, make: Callable[..., Any]) -> Callable[[_Follower, Any], None]:
    """A step that takes `count` items off the stack and puts what `make` gives for them."""

    def step(follower: _Follower, _: Any) -> None:
        items = [follower.stack.pop() for _ in range(count)][::-1]
        follower.stack.append(make(*items))

    return step


def _from_mark(make: Callable[[list[Any]], Any]) -> Callable[[_Follower, Any], None]:
    """A step that takes everything above the mark and puts what `make` gives for it."""
    return lambda follower, _: follower.stack.append(make(follower.pop_to_mark()))


def _dict_of(flat: list[Any]) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    _set_items(made, flat)
    return made


def _build(follower: _Follower, _: Any) -> None:
    state = follower.stack.pop()
    if isinstance(follower.stack[-1], _Note):
        follower.stack[-1].state = state


def _memoise(follower: _Follower, index: Any) -> None:
    follower.memo[len(follower.memo) if index is None else int(index)] = follower.stack[-1]


def _set_from_mark(follower: _Follower, _: Any) -> None:
    flat = follower.pop_to_mark()
    _set_items(follower.stack[-1], flat)


def _extend_from_mark(follower: _Follower, _: Any) -> None:
    items = follower.pop_to_mark()
    _extend(follower.stack[-1], items)


def _set_one(follower: _Follower, _: Any) -> None:
    value, key = follower.stack.pop(), follower.stack.pop()
    _set_items(follower.stack[-1], [key, value])


def _append_one(follower: _Follower, _: Any) -> None:
    item = follower.stack.pop()
    _extend(follower.stack[-1], [item])


def _stack_global(follower: _Follower, _: Any) -> None:
    name, module = follower.stack.pop(), follower.stack.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise ValueError("a name is not text")
    follower.stack.append(follower.name(f"{module} {name}"))


def _instance(follower: _Follower, both: Any) -> None:
    follower.pop_to_mark()
    follower.stack.append(_Note(follower.name(both).text))


def _ignore(follower: _Follower, _: Any) -> None:
    """PROTO and FRAME say nothing about the object."""


_STEPS: dict[str, Callable[[_Follower, Any], None]] = {
    "PROTO": _ignore,
    "FRAME": _ignore,
    "MARK": lambda follower, _: follower.stack.append(_Mark()),
    "POP": lambda follower, _: follower.stack.pop(),
    "POP_MARK": lambda follower, _: follower.pop_to_mark(),
    "DUP": lambda follower, _: follower.stack.append(follower.stack[-1]),
    "NONE": lambda follower, _: follower.stack.append(None),
    "NEWTRUE": lambda follower, _: follower.stack.append(True),
    "NEWFALSE": lambda follower, _: follower.stack.append(False),
    "EMPTY_DICT": lambda follower, _: follower.stack.append({}),
    "EMPTY_LIST": lambda follower, _: follower.stack.append([]),
    "EMPTY_TUPLE": lambda follower, _: follower.stack.append(()),
    "TUPLE": _from_mark(tuple),
    "LIST": _from_mark(list),
    "DICT": _from_mark(_dict_of),
    "TUPLE1": _replace_top(1, lambda *items: items),
    "TUPLE2": _replace_top(2, lambda *items: items),
    "TUPLE3": _replace_top(3, lambda *items: items),
    "SETITEM": _set_one,
    "SETITEMS": _set_from_mark,
    "APPEND": _append_one,
    "APPENDS": _extend_from_mark,
    "PUT": _memoise,
    "BINPUT": _memoise,
    "LONG_BINPUT": _memoise,
    "MEMOIZE": _memoise,
    "GET": lambda follower, index: follower.stack.append(follower.memo[int(index)]),
    "BINGET": lambda follower, index: follower.stack.append(follower.memo[index]),
    "LONG_BINGET": lambda follower, index: follower.stack.append(follower.memo[index]),
    "GLOBAL": lambda follower, both: follower.stack.append(follower.name(both)),
    "INST": _instance,
    "STACK_GLOBAL": _stack_global,
    "BINPERSID": _storage,
    "REDUCE": _call,
    "NEWOBJ": _call,
    "BUILD": _build,
}
"""What each opcode does to the stack; the others are handled by their entry in pickletools."""


def read_pickle_header(path: Path, stream: IO[bytes], size: int) -> Header:
    """The table of contents of a PyTorch file (zip or legacy) or of another pickle.

    Raises:
        InputError: a zip archive that is cut short, or one that torch did not write.
    """
    stream.seek(0)
    start = stream.read(4)
    if start == b"PK\x03\x04":
        return _read_torch_zip(path, stream, size)
    stream.seek(0)
    return _read_legacy(path, stream.read(MAX_PICKLE_BYTES), size)


class _BoundedReads:
    """A file that refuses to be read in larger pieces than any honest archive asks for."""

    def __init__(self, stream: IO[bytes]):
        self._stream = stream
        self.seek, self.tell, self.seekable = stream.seek, stream.tell, stream.seekable
        self.close = stream.close

    def read(self, count: int = -1) -> bytes:
        """At most so many bytes, all if negative; zipfile.BadZipFile for too many."""
        data = (
            b""
            if count > MAX_ZIP_READ
            else self._stream.read(count if count >= 0 else MAX_ZIP_READ + 1)
        )
        if count > MAX_ZIP_READ or len(data) > MAX_ZIP_READ:
            raise zipfile.BadZipFile("a table of contents or an entry is too large")
        return data


def _read_torch_zip(path: Path, stream: IO[bytes], size: int) -> Header:
    try:
        with zipfile.ZipFile(_BoundedReads(stream)) as archive:
            listed = archive.infolist()
            entries = [i for i in listed if i.filename.split("/")[-1] == "data.pkl"]
            if not entries:
                raise InputError(
                    f"{path} is a zip archive without a data.pkl: torch did not write it.",
                    "If models were packed into it, unpack it first.",
                )
            _check_sizes(path, listed, size)
            if entries[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise zipfile.BadZipFile("torch stores its pickle plainly")
            with archive.open(entries[0]) as member:
                text = b"".join(_pieces(member, MAX_PICKLE_BYTES))
    except InputError:
        raise
    except Exception as error:  # on a damaged archive, zipfile and zlib raise whatever comes up
        # A zip file has its table at the end, so a download that stopped early has none.
        raise InputError(
            f"{path} is cut short or damaged: it starts as a PyTorch file (a zip archive) of "
            f"{size:,} bytes, but its table of contents at the end cannot be read.",
            "Download it again.",
        ) from error
    plain = all(entry.compress_type == zipfile.ZIP_STORED for entry in listed)
    remarks = () if plain else (COMPRESSED,)
    return _header_of(path, "torch_zip", io.BytesIO(text), size, *remarks)


def _check_sizes(path: Path, entries: list[zipfile.ZipInfo], size: int) -> None:
    """Raises InputError if entries claim more bytes than the archive has."""
    packed = sum(entry.compress_size for entry in entries)
    plain = [entry for entry in entries if entry.compress_type == zipfile.ZIP_STORED]
    if packed > size or any(entry.file_size != entry.compress_size for entry in plain):
        raise InputError(
            f"{path} is damaged: the entries of this zip archive claim more bytes than the "
            f"{size:,} that it has.",
            "Download it again.",
        )


def _pieces(member: IO[bytes], most: int) -> Iterator[bytes]:
    """The first `most` bytes of a member, a piece at a time."""
    while most > 0 and (piece := member.read(min(most, _MEMBER_PIECE))):
        most -= len(piece)
        yield piece


def _read_legacy(path: Path, text: bytes, size: int) -> Header:
    """A file of old torch: a magic number, a version and system facts before the object itself."""
    stream = io.BytesIO(text)
    try:
        if _Follower().follow(pickletools.genops(stream)) != LEGACY_MAGIC:
            return Header(
                "pickle",
                size,
                remarks=("A Python pickle that torch.save did not write: not read.",),
            )
        for _ in range(2):
            _Follower().follow(pickletools.genops(stream))
    except Exception as error:  # pickletools raises whatever comes up
        raise InputError(
            f"{path} is neither a safetensors file nor a PyTorch file, or it is damaged.",
            "Look at what was downloaded, or download it again.",
        ) from error
    legacy = "Written in torch.save's old format (before 1.6): slow to load; save it again."
    return _header_of(path, "torch_legacy", stream, size, legacy)


def _header_of(path: Path, kind: Any, stream: io.BytesIO, size: int, *remarks: str) -> Header:
    """The header for the pickle at the stream's position; empty if it cannot be followed.

    Raises InputError if its tensors claim more bytes than the file has.
    """
    follower = _Follower()
    unread = "A PyTorch pickle whose contents could not be read: told by name and size."
    try:
        made = follower.follow(pickletools.genops(stream))
        root, tensors = find_tensors(made)
    except Exception as error:  # pickletools raises whatever comes up
        root, tensors = "", {}
        if isinstance(error, _TooMuchWorkError):
            unread = f"A pickle of more than {MAX_WORK:,} steps, which no model needs: not read."
    claimed = sum(follower.storages.values())
    if tensors and claimed > size and COMPRESSED not in remarks:
        raise InputError(
            f"{path} is cut short or damaged: its tensors claim {claimed:,} bytes, the file has "
            f"{size:,}.",
            "Download it again.",
        )
    foreign = sorted(n for n in follower.names if n not in _PLAIN_NAMES and not _is_torch(n))
    if foreign:
        listed = ", ".join(_shown(n) for n in foreign[:4]) + (", ..." if len(foreign) > 4 else "")
        remarks += (
            f"Names code outside torch ({listed}), which may run when it is unpickled: use it only "
            "if you trust where it comes from.",
        )
    if not tensors:
        remarks += (unread,)
    return Header(kind, size, tensors, root=root, remarks=remarks)


def _shown(name: str) -> str:
    """A name for a remark: printable, and not long."""
    return name if name.isprintable() and len(name) <= 80 else quoted(name[:80])


def _is_torch(name: str) -> bool:
    """True for the names that torch.save itself writes for tensors."""
    module, _, last = name.rpartition(".")
    if module in ("torch._utils", "torch._tensor"):
        return last.startswith("_rebuild_")
    if module in ("torch", "torch.storage"):
        return last.endswith("Storage") or last in ("Size", "device") or last in _DTYPE_NAMES
    return False


def find_tensors(made: Any) -> tuple[str, dict[str, TensorInfo]]:
    """The table with the most tensors in what a pickle describes: its key path and its tensors.

    Looks three tables deep: {"state_dict": {...}} gives ("state_dict", {...}).
    """
    best: tuple[str, dict[str, TensorInfo]] = "", {}
    seen: set[int] = set()
    tables = [("", made)]
    for _ in range(4):
        deeper = []
        for path, table in tables:
            # A module or another object keeps its tables in its state.
            table = table.state if isinstance(table, _Note) else table
            if not isinstance(table, dict) or id(table) in seen:
                continue
            seen.add(id(table))
            texts = {key: value for key, value in table.items() if isinstance(key, str)}
            tensors = {k: v for k, v in texts.items() if isinstance(v, TensorInfo)}
            best = (path, tensors) if len(tensors) > len(best[1]) else best
            deeper += [(f"{path}.{k}".lstrip("."), v) for k, v in texts.items()]
        tables = deeper
    return best
