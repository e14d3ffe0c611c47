"""Interprets the opcodes of a pickle without running it: objects become inert stubs."""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from .header import DTYPES, MAX_DIMENSIONS, MAX_NAME_LENGTH, TensorInfo, is_int64

MAX_STEPS = 500_000
"""Limit of opcodes and of items that they copy; a state dict needs about 50,000."""
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
"""torch's names of all dtypes."""
_DTYPE_BYTES = {name: bits // 8 for name, bits in DTYPES.values()}


@dataclass(frozen=True)
class _Global:
    """A function or class that the pickle references, as "module.name"; never imported."""

    text: str


@dataclass
class Stub:
    """An object that unpickling would create: its constructor's name and its state."""

    constructor: str
    state: Any = None


class PickleTooLongError(Exception):
    """The pickle exceeds `MAX_STEPS`."""


class _Mark:
    """Marks the start of the items of a container on the stack."""


@dataclass
class PickleInterpreter:
    """Interprets one pickle; what it would construct is represented by stubs.

    Attributes:
        names: functions and classes that the pickle references.
        stack: of the pickle machine.
        memo: of the pickle machine.
        storages: size in bytes that each storage declares, by its key.
        steps_left: of `MAX_STEPS`.
    """

    names: set[str] = field(default_factory=set)
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    storages: dict[Any, int] = field(default_factory=dict)
    steps_left: int = MAX_STEPS

    def run(self, opcodes: Iterator[tuple[Any, Any, Any]]) -> Any:
        """Interprets the opcodes; returns the object on top of the stack.

        Raises:
            PickleTooLongError: the pickle exceeds `MAX_STEPS`.
            Exception: it is malformed; pickletools raises exceptions of any kind.
        """
        for opcode, argument, _ in opcodes:
            self.count_steps(1)
            if opcode.name == "STOP":
                break
            handler = _HANDLERS.get(opcode.name)
            if handler is not None:
                handler(self, argument)
            else:
                self._handle_other(opcode, argument)
        return self.stack[-1]

    def count_steps(self, count: int) -> None:
        """Counts opcodes, and the items that they copy."""
        self.steps_left -= count
        if self.steps_left < 0:
            raise PickleTooLongError

    def pop_to_mark(self) -> list[Any]:
        """Pops everything above the topmost mark, and the mark."""
        items: list[Any] = []
        while not isinstance(top := self.stack.pop(), _Mark):
            items.append(top)
        return items[::-1]

    def reference(self, module_and_name: str) -> _Global:
        """Records a reference, which pickletools gives as "module name"."""
        if len(module_and_name) > MAX_NAME_LENGTH:
            raise ValueError("a name is too long")
        text = module_and_name.replace(" ", ".", 1)
        self.names.add(text)
        return _Global(text)

    def _handle_other(self, opcode: Any, argument: Any) -> None:
        """Handles an opcode that pushes its argument, or whose result becomes a stub."""
        popped = opcode.stack_before
        if pickletools.markobject in popped:
            self.pop_to_mark()
            popped = popped[: popped.index(pickletools.markobject)]
        for _ in popped:
            self.stack.pop()
        for _ in opcode.stack_after:
            self.stack.append(argument if not opcode.stack_before else Stub(opcode.name))


def _call(interpreter: PickleInterpreter, _: Any) -> None:
    arguments, function = interpreter.stack.pop(), interpreter.stack.pop()
    interpreter.stack.append(_call_result(interpreter, function, arguments))


def _call_result(interpreter: PickleInterpreter, function: Any, arguments: Any) -> Any:
    """The result of a call: TensorInfo for torch's rebuild functions, else a stub."""
    text = function.text if isinstance(function, _Global) else "?"
    arguments = arguments if isinstance(arguments, tuple) else ()
    if text == "collections.OrderedDict":
        items: dict[Any, Any] = {}
        pairs = arguments[0] if arguments and isinstance(arguments[0], list | tuple) else ()
        interpreter.count_steps(len(pairs))
        for key, value in pairs:
            _set_items(items, [key, value])
        return items
    last = text.rsplit(".", 1)[-1]
    if not text.startswith("torch."):
        return Stub(text)
    if last in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"):
        storage = arguments[0]
        dtype = storage.constructor if isinstance(storage, Stub) else "unknown"
        if last == "_rebuild_tensor_v3" and isinstance(arguments[6], _Global):
            dtype = arguments[6].text.rsplit(".", 1)[-1]
        return TensorInfo(dtype, _shape(arguments[2]))
    if last in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
        return arguments[0]
    if last == "Size":
        return _shape(arguments[0])
    return Stub(text)


def _shape(sizes: Any) -> tuple[int, ...]:
    """Validates a shape; raises ValueError."""
    if not isinstance(sizes, list | tuple) or len(sizes) > MAX_DIMENSIONS:
        raise ValueError("not a shape")
    if not all(is_int64(size) and size >= 0 for size in sizes):
        raise ValueError("not a size")
    return tuple(sizes)


def _storage(interpreter: PickleInterpreter, _: Any) -> None:
    """Pushes a stub of a tensor's storage whose constructor is the dtype."""
    persistent_id = interpreter.stack.pop()
    parts = persistent_id if isinstance(persistent_id, tuple) else ()
    kind = parts[1] if len(parts) > 1 else None
    name = kind.text.rsplit(".", 1)[-1] if isinstance(kind, _Global) else ""
    dtype = _STORAGE_DTYPES.get(name, "unknown")
    if len(parts) > 4 and isinstance(parts[2], str) and is_int64(parts[4]):
        interpreter.storages[parts[2]] = parts[4] * _DTYPE_BYTES.get(dtype, 1)
    interpreter.stack.append(Stub(dtype))


def _set_items(target: Any, flat: list[Any]) -> None:
    if isinstance(target, dict):
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            if isinstance(key, int) or (isinstance(key, str) and len(key) <= MAX_NAME_LENGTH):
                target[key] = value


def _extend(target: Any, items: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(items)


def _replace_top(count: int, make: Callable[..., Any]) -> Callable[[PickleInterpreter, Any], None]:
    """A handler that pops `count` items and pushes `make(*items)`."""

    def handler(interpreter: PickleInterpreter, _: Any) -> None:
        items = [interpreter.stack.pop() for _ in range(count)][::-1]
        interpreter.stack.append(make(*items))

    return handler


def _from_mark(make: Callable[[list[Any]], Any]) -> Callable[[PickleInterpreter, Any], None]:
    """A handler that pops the items above the mark and pushes `make(items)`."""
    return lambda interpreter, _: interpreter.stack.append(make(interpreter.pop_to_mark()))


def _dict_of(flat: list[Any]) -> dict[Any, Any]:
    items: dict[Any, Any] = {}
    _set_items(items, flat)
    return items


def _build(interpreter: PickleInterpreter, _: Any) -> None:
    state = interpreter.stack.pop()
    if isinstance(interpreter.stack[-1], Stub):
        interpreter.stack[-1].state = state


def _memoise(interpreter: PickleInterpreter, index: Any) -> None:
    interpreter.memo[len(interpreter.memo) if index is None else int(index)] = interpreter.stack[-1]


def _set_from_mark(interpreter: PickleInterpreter, _: Any) -> None:
    flat = interpreter.pop_to_mark()
    _set_items(interpreter.stack[-1], flat)


def _extend_from_mark(interpreter: PickleInterpreter, _: Any) -> None:
    items = interpreter.pop_to_mark()
    _extend(interpreter.stack[-1], items)


def _set_one(interpreter: PickleInterpreter, _: Any) -> None:
    value, key = interpreter.stack.pop(), interpreter.stack.pop()
    _set_items(interpreter.stack[-1], [key, value])


def _append_one(interpreter: PickleInterpreter, _: Any) -> None:
    item = interpreter.stack.pop()
    _extend(interpreter.stack[-1], [item])


def _stack_global(interpreter: PickleInterpreter, _: Any) -> None:
    name, module = interpreter.stack.pop(), interpreter.stack.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise ValueError("a name is not text")
    interpreter.stack.append(interpreter.reference(f"{module} {name}"))


def _instance(interpreter: PickleInterpreter, module_and_name: Any) -> None:
    interpreter.pop_to_mark()
    interpreter.stack.append(Stub(interpreter.reference(module_and_name).text))


def _ignore(interpreter: PickleInterpreter, _: Any) -> None:
    """PROTO and FRAME do not affect the object."""


_HANDLERS: dict[str, Callable[[PickleInterpreter, Any], None]] = {
    "PROTO": _ignore,
    "FRAME": _ignore,
    "MARK": lambda interpreter, _: interpreter.stack.append(_Mark()),
    "POP": lambda interpreter, _: interpreter.stack.pop(),
    "POP_MARK": lambda interpreter, _: interpreter.pop_to_mark(),
    "DUP": lambda interpreter, _: interpreter.stack.append(interpreter.stack[-1]),
    "NONE": lambda interpreter, _: interpreter.stack.append(None),
    "NEWTRUE": lambda interpreter, _: interpreter.stack.append(True),
    "NEWFALSE": lambda interpreter, _: interpreter.stack.append(False),
    "EMPTY_DICT": lambda interpreter, _: interpreter.stack.append({}),
    "EMPTY_LIST": lambda interpreter, _: interpreter.stack.append([]),
    "EMPTY_TUPLE": lambda interpreter, _: interpreter.stack.append(()),
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
    "GET": lambda interpreter, index: interpreter.stack.append(interpreter.memo[int(index)]),
    "BINGET": lambda interpreter, index: interpreter.stack.append(interpreter.memo[index]),
    "LONG_BINGET": lambda interpreter, index: interpreter.stack.append(interpreter.memo[index]),
    "GLOBAL": lambda interpreter, text: interpreter.stack.append(interpreter.reference(text)),
    "INST": _instance,
    "STACK_GLOBAL": _stack_global,
    "BINPERSID": _storage,
    "REDUCE": _call,
    "NEWOBJ": _call,
    "BUILD": _build,
}
"""Handlers by opcode; all other opcodes only move the stack as pickletools describes."""
