"""A pretend accelerator for torch: tensors that claim to be on it compute on the CPU.

It raises where CUDA would raise (tensors of two devices in one operation, a CPU generator for
numbers drawn on the device, integer matrix products, `.numpy()`), and counts kernel launches,
device-to-host synchronisations and uploads by source line. It shows nothing about numerics.

torch allows one such backend per process and `install` replaces functions of torch, so tests run
it in a child process only: see `workloads.py`.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "pretend"
ROOMS = ("nova3d_core", "nodes", "tests/devices")
"""Folders whose lines the counts are booked on."""

VIEW_OPERATIONS = frozenset(
    [
        "view",
        "_unsafe_view",
        "_reshape_alias",
        "reshape",
        "expand",
        "slice",
        "select",
        "transpose",
        "permute",
        "unsqueeze",
        "squeeze",
        "t",
        "as_strided",
        "alias",
        "detach",
        "diagonal",
        "unbind",
        "split",
        "split_with_sizes",
        "chunk",
        "narrow",
        "unfold",
        "movedim",
        "lift_fresh",
    ]
)
ALLOCATIONS = frozenset(["empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"])
"""Neither these nor views start a kernel."""
WAITING_OPERATIONS = frozenset(
    [
        "_local_scalar_dense",
        "is_nonzero",
        "equal",
        "nonzero",
        "masked_select",
        "bincount",
        "unique_dim",
        "_unique2",
        "unique_consecutive",
        "_linalg_check_errors",
        "linalg_matrix_exp",
    ]
)
"""Their result's size or value is needed on the host. matrix_exp chooses its degrees by nonzero,
several times a call; it counts once here."""
INDEX_OPERATIONS = frozenset(
    ["index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put"]
)
MATRIX_PRODUCTS = frozenset(
    ["mm", "bmm", "addmm", "baddbmm", "addbmm", "mv", "addmv", "dot", "vdot", "addr"]
)
CPU_STATE_ALLOWED = ("_foreach_", "_fused_")
"""Optimisers keep step counts on the CPU."""


class DeviceFault(RuntimeError):
    """What CUDA would have refused."""


@dataclass
class Ledger:
    """What the device was asked to do."""

    launches: Counter[str] = field(default_factory=Counter)
    """Kernels by the source line that started them; a composite operation counts once."""
    operations: Counter[str] = field(default_factory=Counter)
    """The same by the operation's name."""
    syncs: Counter[str] = field(default_factory=Counter)
    """Times that the host waited for the device, by source line."""
    uploads: Counter[str] = field(default_factory=Counter)
    """Copies from the host to the device, by source line."""
    unseeded: Counter[str] = field(default_factory=Counter)
    """Random numbers drawn on the device without a generator, by source line."""
    kernels: Counter[str] = field(default_factory=Counter)
    """warp kernels by name; part of `launches`."""

    def totals(self) -> dict[str, int]:
        """Launches, syncs and uploads so far."""
        return {
            "launches": self.launches.total(),
            "syncs": self.syncs.total(),
            "uploads": self.uploads.total(),
        }


LEDGER = Ledger()


class PretendTensor(Tensor):
    """A tensor that claims to be on the device; `on_host` holds its values."""

    on_host: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, on_host: Tensor) -> PretendTensor:
        wrapped = Tensor._make_wrapper_subclass(
            cls,
            on_host.size(),
            strides=on_host.stride(),
            storage_offset=on_host.storage_offset(),
            dtype=on_host.dtype,
            device=torch.device(NAME, 0),
        )
        wrapped.on_host = on_host
        return wrapped

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["on_host"], None

    @staticmethod
    def __tensor_unflatten__(parts: dict[str, Tensor], _meta, _size, _stride) -> PretendTensor:
        return PretendTensor(parts["on_host"])

    @classmethod
    def __torch_dispatch__(cls, function, _types, args=(), kwargs=None):
        return dispatch(function, args, kwargs or {})

    def numpy(self, **_options):
        raise DeviceFault("can't convert a device tensor to numpy: copy it to the CPU first.")

    __array__ = numpy

    def data_ptr(self) -> int:
        return self.on_host.data_ptr()

    def tolist(self) -> list:
        LEDGER.syncs[source_line()] += 1
        return self.on_host.tolist()

    def new_tensor(self, data, *, dtype=None, device=None, requires_grad=False) -> Tensor:
        made = torch.tensor(data, dtype=dtype or self.dtype, device=device or self.device)
        return made.requires_grad_(requires_grad)


class _Everywhere(TorchDispatchMode):
    """Catches the functions that make tensors on the device from none."""

    def __torch_dispatch__(self, function, _types, args=(), kwargs=None):
        return dispatch(function, args, kwargs or {})


class _Module:
    """What torch asks of a device's module, as `torch.cuda` is one."""

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def manual_seed_all(self, seed: int) -> None:
        pass

    def _is_in_bad_fork(self) -> bool:
        return False

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


def is_supported() -> bool:
    """Whether this torch has backends written in Python."""
    import torch.utils.backend_registration as registration

    return hasattr(registration, "_setup_privateuseone_for_python_backend")


def install() -> torch.device:
    """Registers the device, for the rest of this process; gives it."""
    import torch.utils.backend_registration as registration

    registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    plain_tensor, plain_as_tensor = torch.tensor, torch.as_tensor

    def tensor(data, *args, device=None, requires_grad=False, **kwargs):
        made = plain_tensor(data, *args, **kwargs)
        made = made if device is None else made.to(device)
        return made.requires_grad_(requires_grad)

    def as_tensor(data, *args, device=None, **kwargs):
        made = plain_as_tensor(data, *args, **kwargs)
        return made if device is None else made.to(device)

    # both fill a tensor in C++, where no dispatcher comes by
    torch.tensor, torch.as_tensor = tensor, as_tensor
    _Everywhere().__enter__()
    return torch.device(NAME, 0)


def is_pretend(device: Any) -> bool:
    """Whether this names the device."""
    return device is not None and torch.device(device).type == NAME


def source_line() -> str:
    """The innermost line of the project that led here."""
    frame = sys._getframe(1)
    while frame is not None:
        name = _name_in_project(frame.f_code.co_filename)
        if name:
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


@cache
def _name_in_project(file: str) -> str:
    """A source file's path within the project; empty for other files, and for this one."""
    name = Path(file).as_posix()
    begins = [name.rfind(f"/{room}/") for room in ROOMS]
    return "" if file == __file__ or max(begins) < 0 else name[max(begins) + 1 :]


def dispatch(function: Any, args: tuple, kwargs: Mapping[str, Any]) -> Any:
    """Runs an operation as the device would: checked, counted, computed on the CPU."""
    if torch.is_inference_mode_enabled() and _is_composite(function):  # it comes whole there
        with _Everywhere():
            return function.decompose(*args, **kwargs)
    tensors = [leaf for leaf in tree_leaves((args, dict(kwargs))) if isinstance(leaf, Tensor)]
    here = [tensor for tensor in tensors if isinstance(tensor, PretendTensor)]
    others = [tensor for tensor in tensors if not isinstance(tensor, PretendTensor)]
    target = kwargs.get("device")
    if not here and not is_pretend(target):
        return function(*args, **kwargs)
    name = function._schema.name.removeprefix("aten::")
    line = source_line()
    if name not in VIEW_OPERATIONS and name not in ALLOCATIONS:
        LEDGER.launches[line] += 1
        LEDGER.operations[name] += 1
    _check_generator(function, name, kwargs.get("generator"), line)
    if name in ("_to_copy", "copy_"):
        return _copy(function, name, args, kwargs, line)
    _count_waits(name, args, line)
    if name == "_has_compatible_shallow_copy_type" and others:
        return False  # torch asks before it moves a module's weights
    if here and others:
        _check_devices(function, name, args, tensors, line)
    if name in MATRIX_PRODUCTS and not tensors[0].is_floating_point():
        raise DeviceFault(f'"{name}" not implemented for {tensors[0].dtype} on the device.')
    stays = target is None or is_pretend(target)
    given = {**kwargs, "device": torch.device("cpu")} if target is not None else dict(kwargs)
    answer = function(*tree_map(_plain, args), **tree_map(_plain, given))
    written = _written(function, args, kwargs)
    if written is not None:
        return written if len(function._schema.returns) == 1 else answer
    return tree_map(_wrapped, answer) if stays else answer


@cache
def _is_composite(function: Any) -> bool:
    key = "CompositeImplicitAutograd"
    return torch._C._dispatch_has_kernel_for_dispatch_key(function.name(), key)


def _plain(value: Any) -> Any:
    return value.on_host if isinstance(value, PretendTensor) else value


def _wrapped(value: Any) -> Any:
    plain = isinstance(value, Tensor) and not isinstance(value, PretendTensor)
    return PretendTensor(value) if plain else value


def _written(function: Any, args: tuple, kwargs: Mapping[str, Any]) -> Any:
    """The argument that an in-place or out= operation writes into; None for others."""
    for index, argument in enumerate(function._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            return args[index] if index < len(args) else kwargs.get(argument.name)
    return None


def _copy(function: Any, name: str, args: tuple, kwargs: Mapping[str, Any], line: str) -> Any:
    """Copies within and between devices, the only operations that may cross."""
    if name == "copy_":
        target, source = args[0], args[1]
        _count_transfer(isinstance(source, PretendTensor), isinstance(target, PretendTensor), line)
        function(*tree_map(_plain, args), **kwargs)
        return target
    source = args[0]
    was_here = isinstance(source, PretendTensor)
    device = kwargs.get("device")
    stays = was_here if device is None else is_pretend(device)
    _count_transfer(was_here, stays, line)
    options = {key: value for key, value in kwargs.items() if key not in ("device", "pin_memory")}
    copied = function(_plain(source), **options)
    if copied.data_ptr() == _plain(source).data_ptr() and copied.numel():
        copied = copied.clone()
    return PretendTensor(copied) if stays else copied


def _count_transfer(was_here: bool, stays: bool, line: str) -> None:
    if was_here and not stays:
        LEDGER.syncs[line] += 1
    elif stays and not was_here:
        LEDGER.uploads[line] += 1


def _check_generator(function: Any, name: str, generator: Any, line: str) -> None:
    if generator is not None and generator.device.type == "cpu":
        raise DeviceFault(f"{name}: expected a generator of the device but found one of the CPU.")
    if generator is None and torch.Tag.nondeterministic_seeded in function.tags:
        LEDGER.unseeded[line] += 1


def _count_waits(name: str, args: tuple, line: str) -> None:
    waits = name in WAITING_OPERATIONS
    if name == "repeat_interleave":
        waits = any(isinstance(arg, Tensor) for arg in args[1:2])
    if name in INDEX_OPERATIONS:
        indices = [index for index in args[1] if isinstance(index, Tensor)]
        masks = [index for index in indices if index.dtype in (torch.bool, torch.uint8)]
        fills = name != "index" and len(masks) == len(indices) and args[2].numel() == 1
        waits = bool(masks) and not fills  # one number under a mask is a plain masked fill
    if waits:
        LEDGER.syncs[line] += 1


def _check_devices(function: Any, name: str, args: tuple, tensors: list, line: str) -> None:
    """Raises DeviceFault unless CUDA lets this operation mix devices."""
    others = [tensor for tensor in tensors if not isinstance(tensor, PretendTensor)]
    if name in INDEX_OPERATIONS and isinstance(args[0], PretendTensor):
        values = [value for value in args[2:3] if isinstance(value, Tensor)]
        if all(isinstance(value, PretendTensor) or value.dim() == 0 for value in values):
            LEDGER.uploads[line] += 1  # indices on the CPU are copied
            return
    elif name.startswith(CPU_STATE_ALLOWED):
        return
    elif torch.Tag.pointwise in function.tags:
        writes_host = name.endswith("_") and not isinstance(args[0], PretendTensor)
        if not writes_host and all(tensor.dim() == 0 for tensor in others):
            return
    places = ", ".join(
        f"{NAME if isinstance(t, PretendTensor) else 'cpu'}{tuple(t.shape)}" for t in tensors
    )
    raise DeviceFault(f"{name}: expected all tensors on one device, but got {places} at {line}.")


@contextmanager
def counted() -> Iterator[dict[str, int]]:
    """Fills the dict with the launches, syncs and uploads of the `with` block at its end."""
    before, found = LEDGER.totals(), {}
    yield found
    found.update({name: total - before[name] for name, total in LEDGER.totals().items()})


def left_on_device(value: Any, name: str = "result") -> list[str]:
    """Where in a result tensors of the device are left: dataclasses, dicts, sequences."""
    if isinstance(value, Tensor):
        return [name] if value.device.type == NAME else []
    if isinstance(value, torch.nn.Module):
        return left_on_device(value.state_dict(), name)
    if is_dataclass(value) and not isinstance(value, type):
        parts = {part.name: getattr(value, part.name) for part in fields(value)}
    elif isinstance(value, Mapping):
        parts = value
    elif isinstance(value, list | tuple):
        parts = dict(enumerate(value))
    else:
        return []
    return [place for key, part in parts.items() for place in left_on_device(part, f"{name}.{key}")]


def install_warp() -> None:
    """Lets the grid field's kernels run as on a GPU: one launch each, on tensors of the device."""
    from nova3d_core.compute import warp_backend as launching
    from nova3d_core.fusion.fields.grid import warp_impl as grid_warp
    from nova3d_core.fusion.fields.grid import warp_support

    warp, as_warp = launching.warp(), launching.as_warp

    class Warp:
        """warp, but for what needs a real device."""

        def __getattr__(self, name: str) -> Any:
            return getattr(warp, name)

        def device_from_torch(self, device: torch.device) -> Any:
            if device.type == NAME and device.index is None:
                raise DeviceFault("warp needs the device's index.")
            return warp.get_device("cpu")

        def stream_from_torch(self, _stream: Any = None) -> None:
            return None

        def launch(self, kernel: Any, dim: int, inputs: list, device: Any, **_stream: Any) -> None:
            name = kernel.key.rpartition(".")[2]
            LEDGER.kernels[name] += 1
            LEDGER.operations[f"warp {name}"] += 1
            LEDGER.launches[source_line()] += 1
            warp.launch(kernel, dim=dim, inputs=inputs, device=device)

    def checked(tensor: Tensor) -> Any:
        if not isinstance(tensor, PretendTensor):
            raise DeviceFault(f"warp was given a CPU tensor {tuple(tensor.shape)} for the device.")
        if tensor.requires_grad or not tensor.is_contiguous():
            raise DeviceFault("warp needs contiguous tensors without gradient.")
        return as_warp(tensor.on_host)

    shim = Warp()
    warp_support.can_run_on = lambda device: True
    launching.warp = lambda: shim
    launching.as_warp = grid_warp.as_warp = checked
