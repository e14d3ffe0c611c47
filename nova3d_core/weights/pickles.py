"""The table of contents of PyTorch files, read from their pickle without running it.

Unpickling runs whatever the file asks for, so nothing here unpickles. The opcodes are followed one
by one on a stack of inert notes: a function that the file wants to call becomes a note of its name.
Only torch's own ways to rebuild a tensor are understood, and they give a shape, not a tensor.
"""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ..errors import InputError
from .headers import DTYPES, Header, TensorInfo

MAX_PICKLE_BYTES = 32_000_000
"""Longer ones are not followed: weights alone have about half a megabyte."""

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
_FOLLOW_ERRORS = (
    ValueError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
    struct.error,
)
# A damaged archive makes the standard library raise any of these.
_ZIP_ERRORS = (*_FOLLOW_ERRORS, zipfile.BadZipFile, zlib.error, RuntimeError, EOFError)


@dataclass(frozen=True)
class _Name:
    """A function or class the file names, as "module.name"; never imported."""

    text: str


@dataclass
class _Note:
    """Something the file would make; we only remember what it would call, and its state."""

    made_by: str
    state: Any = None


class _Mark:
    """Separates the items of a list under construction from what lies below on the stack."""


@dataclass
class _Follower:
    """Follows one pickle's opcodes; `result` is what it would have made, with notes for objects."""

    names: set[str] = field(default_factory=set)
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def follow(self, opcodes: Iterator[tuple[Any, Any, Any]]) -> Any:
        """What the pickle describes; raises one of `_FOLLOW_ERRORS` on a malformed one."""
        for opcode, argument, _ in opcodes:
            if opcode.name == "STOP":
                break
            step = _STEPS.get(opcode.name)
            if step is not None:
                step(self, argument)
            else:
                self._other(opcode, argument)
        return self.stack[-1]

    def pop_to_mark(self) -> list[Any]:
        items: list[Any] = []
        while not isinstance(top := self.stack.pop(), _Mark):
            items.append(top)
        return items[::-1]

    def name(self, both: str) -> _Name:
        """Remembers what pickletools gives as "module name"."""
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


def _call(function: Any, arguments: Any) -> Any:
    """What a call would give: a tensor's shape for torch's rebuilders, else a note."""
    text = function.text if isinstance(function, _Name) else "?"
    arguments = arguments if isinstance(arguments, tuple) else ()
    if text == "collections.OrderedDict":
        made: dict[Any, Any] = {}
        _set_items(made, [x for pair in (arguments[0] if arguments else ()) for x in pair])
        return made
    last = text.rsplit(".", 1)[-1]
    if not text.startswith("torch."):
        return _Note(text)
    if last in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"):
        storage, shape = arguments[0], arguments[2]
        dtype = storage.made_by if isinstance(storage, _Note) else "unknown"
        if last == "_rebuild_tensor_v3" and isinstance(arguments[6], _Name):
            dtype = arguments[6].text.rsplit(".", 1)[-1]
        return TensorInfo(dtype, tuple(int(n) for n in shape))
    if last in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
        return arguments[0]
    if last == "Size":
        return tuple(arguments[0])
    return _Note(text)


def _storage(persistent_id: Any) -> _Note:
    """A note of the number format that the pickle's reference to tensor data names."""
    kind = persistent_id[1] if isinstance(persistent_id, tuple) and len(persistent_id) > 1 else None
    name = kind.text.rsplit(".", 1)[-1] if isinstance(kind, _Name) else ""
    return _Note(_STORAGE_DTYPES.get(name, "unknown"))


def _set_items(target: Any, flat: list[Any]) -> None:
    if isinstance(target, dict):
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            if isinstance(key, str | int):
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
    "BINPERSID": _replace_top(1, _storage),
    "REDUCE": _replace_top(2, _call),
    "NEWOBJ": _replace_top(2, _call),
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
        return _read_torch_zip(path, size)
    stream.seek(0)
    return _read_legacy(path, stream.read(MAX_PICKLE_BYTES), size)


def _read_torch_zip(path: Path, size: int) -> Header:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [i for i in archive.infolist() if i.filename.split("/")[-1] == "data.pkl"]
            if not entries:
                raise InputError(
                    f"{path} is a zip archive without a data.pkl: torch did not write it.",
                    "If models were packed into it, unpack it first.",
                )
            if entries[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise zipfile.BadZipFile("torch stores its pickle plainly")
            with archive.open(entries[0]) as member:
                text = member.read(MAX_PICKLE_BYTES)
    except _ZIP_ERRORS as error:
        # A zip file has its table at the end, so a download that stopped early has none.
        raise InputError(
            f"{path} is cut short or damaged: it starts as a PyTorch file (a zip archive) of "
            f"{size:,} bytes, but its table of contents at the end cannot be read.",
            "Download it again.",
        ) from error
    return _header_of("torch_zip", io.BytesIO(text), size)


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
    except _FOLLOW_ERRORS as error:
        raise InputError(
            f"{path} is neither a safetensors file nor a PyTorch file, or it is damaged.",
            "Look at what was downloaded, or download it again.",
        ) from error
    legacy = "Written in torch.save's old format (before 1.6): slow to load; save it again."
    return _header_of("torch_legacy", stream, size, legacy)


def _header_of(kind: Any, stream: io.BytesIO, size: int, *remarks: str) -> Header:
    """The header for the pickle at the stream's position; empty if it cannot be followed."""
    follower = _Follower()
    try:
        made = follower.follow(pickletools.genops(stream))
        root, tensors = find_tensors(made)
    except _FOLLOW_ERRORS:
        root, tensors = "", {}
    foreign = sorted(n for n in follower.names if n not in _PLAIN_NAMES and not _is_torch(n))
    if foreign:
        listed = ", ".join(foreign[:4]) + (", ..." if len(foreign) > 4 else "")
        remarks += (
            f"Names code outside torch ({listed}), which may run when it is unpickled: use it only "
            "if you trust where it comes from.",
        )
    if not tensors:
        remarks += ("A PyTorch pickle whose contents could not be read: told by name and size.",)
    return Header(kind, size, tensors, root=root, remarks=remarks)


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
