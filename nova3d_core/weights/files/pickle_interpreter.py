"""Follows a pickle's opcodes without running them: a machine whose objects are inert notes."""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from .inspect import DTYPES, MAX_DIMENSIONS, MAX_NAME_LENGTH, TensorInfo, is_number

MAX_STEPS = 500_000
"""Opcodes that are followed, with the items that they copy: weights alone have 50,000."""
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
DTYPE_NAMES = {*_STORAGE_DTYPES.values(), *(name for name, _ in DTYPES.values())}
"""torch's names of all number formats."""
_DTYPE_BYTES = {name: bits // 8 for name, bits in DTYPES.values()}


@dataclass(frozen=True)
class _Name:
    """A function or class the file names, as "module.name"; never imported."""

    text: str


@dataclass
class Note:
    """Something the file would make; we only remember what it would call, and its state."""

    made_by: str
    state: Any = None


class PickleTooLongError(Exception):
    """A pickle has more opcodes, or copies more items, than any that holds weights."""


class _Mark:
    """Separates the items of a list under construction from what lies below on the stack."""


@dataclass
class PickleInterpreter:
    """Follows one pickle's opcodes; `result` is what it would have made, with notes for objects."""

    names: set[str] = field(default_factory=set)
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    storages: dict[Any, int] = field(default_factory=dict)
    """Bytes of numbers that each storage claims, by its key."""
    work: int = MAX_STEPS
    """What is left of the work that may be done."""

    def follow(self, opcodes: Iterator[tuple[Any, Any, Any]]) -> Any:
        """What the pickle describes.

        Raises:
            TooMuchWorkError: it is too long.
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
            raise PickleTooLongError

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
            self.stack.append(argument if not opcode.stack_before else Note(opcode.name))


def _call(follower: PickleInterpreter, _: Any) -> None:
    arguments, function = follower.stack.pop(), follower.stack.pop()
    follower.stack.append(_result(follower, function, arguments))


def _result(follower: PickleInterpreter, function: Any, arguments: Any) -> Any:
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
        return Note(text)
    if last in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"):
        storage = arguments[0]
        dtype = storage.made_by if isinstance(storage, Note) else "unknown"
        if last == "_rebuild_tensor_v3" and isinstance(arguments[6], _Name):
            dtype = arguments[6].text.rsplit(".", 1)[-1]
        return TensorInfo(dtype, _shape(arguments[2]))
    if last in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
        return arguments[0]
    if last == "Size":
        return _shape(arguments[0])
    return Note(text)


def _shape(sizes: Any) -> tuple[int, ...]:
    """A shape; raises ValueError for what is none."""
    if not isinstance(sizes, list | tuple) or len(sizes) > MAX_DIMENSIONS:
        raise ValueError("not a shape")
    if not all(is_number(size) and size >= 0 for size in sizes):
        raise ValueError("not a size")
    return tuple(sizes)


def _storage(follower: PickleInterpreter, _: Any) -> None:
    """A note of the number format that the pickle's reference to tensor data names."""
    persistent_id = follower.stack.pop()
    parts = persistent_id if isinstance(persistent_id, tuple) else ()
    kind = parts[1] if len(parts) > 1 else None
    name = kind.text.rsplit(".", 1)[-1] if isinstance(kind, _Name) else ""
    dtype = _STORAGE_DTYPES.get(name, "unknown")
    if len(parts) > 4 and isinstance(parts[2], str) and is_number(parts[4]):
        follower.storages[parts[2]] = parts[4] * _DTYPE_BYTES.get(dtype, 1)
    follower.stack.append(Note(dtype))


def _set_items(target: Any, flat: list[Any]) -> None:
    if isinstance(target, dict):
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            if isinstance(key, int) or (isinstance(key, str) and len(key) <= MAX_NAME_LENGTH):
                target[key] = value


def _extend(target: Any, items: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(items)


def _replace_top(count: int, make: Callable[..., Any]) -> Callable[[PickleInterpreter, Any], None]:
    """A step that takes `count` items off the stack and puts what `make` gives for them."""

    def step(follower: PickleInterpreter, _: Any) -> None:
        items = [follower.stack.pop() for _ in range(count)][::-1]
        follower.stack.append(make(*items))

    return step


def _from_mark(make: Callable[[list[Any]], Any]) -> Callable[[PickleInterpreter, Any], None]:
    """A step that takes everything above the mark and puts what `make` gives for it."""
    return lambda follower, _: follower.stack.append(make(follower.pop_to_mark()))


def _dict_of(flat: list[Any]) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    _set_items(made, flat)
    return made


def _build(follower: PickleInterpreter, _: Any) -> None:
    state = follower.stack.pop()
    if isinstance(follower.stack[-1], Note):
        follower.stack[-1].state = state


def _memoise(follower: PickleInterpreter, index: Any) -> None:
    follower.memo[len(follower.memo) if index is None else int(index)] = follower.stack[-1]


def _set_from_mark(follower: PickleInterpreter, _: Any) -> None:
    flat = follower.pop_to_mark()
    _set_items(follower.stack[-1], flat)


def _extend_from_mark(follower: PickleInterpreter, _: Any) -> None:
    items = follower.pop_to_mark()
    _extend(follower.stack[-1], items)


def _set_one(follower: PickleInterpreter, _: Any) -> None:
    value, key = follower.stack.pop(), follower.stack.pop()
    _set_items(follower.stack[-1], [key, value])


def _append_one(follower: PickleInterpreter, _: Any) -> None:
    item = follower.stack.pop()
    _extend(follower.stack[-1], [item])


def _stack_global(follower: PickleInterpreter, _: Any) -> None:
    name, module = follower.stack.pop(), follower.stack.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise ValueError("a name is not text")
    follower.stack.append(follower.name(f"{module} {name}"))


def _instance(follower: PickleInterpreter, both: Any) -> None:
    follower.pop_to_mark()
    follower.stack.append(Note(follower.name(both).text))


def _ignore(follower: PickleInterpreter, _: Any) -> None:
    """PROTO and FRAME say nothing about the object."""


_STEPS: dict[str, Callable[[PickleInterpreter, Any], None]] = {
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
