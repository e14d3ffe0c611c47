"""A pretend accelerator for torch: its tensors are computed on the CPU.

It raises where CUDA would raise (tensors of two devices in one operation, a CPU generator for
random numbers on the device, integer matrix products, `.numpy()`), and counts kernel launches,
device-to-host synchronisations and uploads by source line. It does not emulate numerics.

torch allows one such backend per process and `install` replaces functions of torch, so tests use it
only in a child process: see `workloads.py`.
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
FOLDERS = ("nova3d_core", "nodes", "tests/devices")
"""Folders whose source lines the counts are attributed to."""

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
"""Like views, these start no kernel."""
SYNC_OPERATIONS = frozenset(
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
"""The size or value of their result is needed on the host. matrix_exp selects its degrees by
nonzero, several times per call; it counts once here."""
INDEX_OPERATIONS = frozenset(
    ["index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put"]
)
MATRIX_PRODUCTS = frozenset(
    ["mm", "bmm", "addmm", "baddbmm", "addbmm", "mv", "addmv", "dot", "vdot", "addr"]
)
CPU_STATE_ALLOWED = ("_foreach_", "_fused_")
"""Prefixes of operations with tensors on the CPU: optimisers keep step counts there."""


class DeviceFault(RuntimeError):
    """An operation that CUDA would reject."""


@dataclass
class Ledger:
    """Counts of the operations on the device."""

    launches: Counter[str] = field(default_factory=Counter)
    """Kernels by the source line that launched them; a composite operation counts once."""
    operations: Counter[str] = field(default_factory=Counter)
    """The same by name of the operation."""
    syncs: Counter[str] = field(default_factory=Counter)
    """Waits of the host for the device, by source line."""
    uploads: Counter[str] = field(default_factory=Counter)
    """Copies from the host to the device, by source line."""
    unseeded: Counter[str] = field(default_factory=Counter)
    """Random operations on the device without a generator, by source line."""
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
    """A tensor on the pretend device; `on_host` holds its values."""

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


class _FactoryMode(TorchDispatchMode):
    """Intercepts the factory functions, which have no tensor arguments."""

    def __torch_dispatch__(self, function, _types, args=(), kwargs=None):
        return dispatch(function, args, kwargs or {})


class _Module:
    """Interface of a device module, like `torch.cuda`."""

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
    """Whether this torch supports backends written in Python."""
    import torch.utils.backend_registration as registration

    return hasattr(registration, "_setup_privateuseone_for_python_backend")


def install() -> torch.device:
    """Registers the device for the rest of this process, and returns it."""
    import torch.utils.backend_registration as registration

    registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    original_tensor, original_as_tensor = torch.tensor, torch.as_tensor

    def tensor(data, *args, device=None, requires_grad=False, **kwargs):
        made = original_tensor(data, *args, **kwargs)
        made = made if device is None else made.to(device)
        return made.requires_grad_(requires_grad)

    def as_tensor(data, *args, device=None, **kwargs):
        made = original_as_tensor(data, *args, **kwargs)
        return made if device is None else made.to(device)

    # both fill a tensor in C++ without the dispatcher
    torch.tensor, torch.as_tensor = tensor, as_tensor
    _FactoryMode().__enter__()
    return torch.device(NAME, 0)


def is_pretend(device: Any) -> bool:
    """Whether this is the pretend device."""
    return device is not None and torch.device(device).type == NAME


def source_line() -> str:
    """The innermost project line in the call stack."""
    frame = sys._getframe(1)
    while frame is not None:
        name = _name_in_project(frame.f_code.co_filename)
        if name:
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


@cache
def _name_in_project(file: str) -> str:
    """Path of a source file within the project; empty for other files and for this one."""
    name = Path(file).as_posix()
    starts = [name.rfind(f"/{folder}/") for folder in FOLDERS]
    return "" if file == __file__ or max(starts) < 0 else name[max(starts) + 1 :]


def dispatch(function: Any, args: tuple, kwargs: Mapping[str, Any]) -> Any:
    """Runs an operation: checked, counted, computed on the CPU."""
    if torch.is_inference_mode_enabled() and _is_composite(function):  # not decomposed there
        with _FactoryMode():
            return function.decompose(*args, **kwargs)
    tensors = [leaf for leaf in tree_leaves((args, dict(kwargs))) if isinstance(leaf, Tensor)]
    on_device = [tensor for tensor in tensors if isinstance(tensor, PretendTensor)]
    on_host = [tensor for tensor in tensors if not isinstance(tensor, PretendTensor)]
    target = kwargs.get("device")
    if not on_device and not is_pretend(target):
        return function(*args, **kwargs)
    name = function._schema.name.removeprefix("aten::")
    line = source_line()
    if name not in VIEW_OPERATIONS and name not in ALLOCATIONS:
        LEDGER.launches[line] += 1
        LEDGER.operations[name] += 1
    _check_generator(function, name, kwargs.get("generator"), line)
    if name in ("_to_copy", "copy_"):
        return _copy(function, name, args, kwargs, line)
    _count_syncs(name, args, line)
    if name == "_has_compatible_shallow_copy_type" and on_host:
        return False  # checked by torch before it moves the weights of a module
    if on_device and on_host:
        _check_devices(function, name, args, tensors, line)
    if name in MATRIX_PRODUCTS and not tensors[0].is_floating_point():
        raise DeviceFault(f'"{name}" not implemented for {tensors[0].dtype} on the device.')
    stays = target is None or is_pretend(target)
    options = {**kwargs, "device": torch.device("cpu")} if target is not None else dict(kwargs)
    result = function(*tree_map(_unwrap, args), **tree_map(_unwrap, options))
    output = _output_argument(function, args, kwargs)
    if output is not None:
        return output if len(function._schema.returns) == 1 else result
    return tree_map(_wrap, result) if stays else result


@cache
def _is_composite(function: Any) -> bool:
    key = "CompositeImplicitAutograd"
    return torch._C._dispatch_has_kernel_for_dispatch_key(function.name(), key)


def _unwrap(value: Any) -> Any:
    return value.on_host if isinstance(value, PretendTensor) else value


def _wrap(value: Any) -> Any:
    on_host = isinstance(value, Tensor) and not isinstance(value, PretendTensor)
    return PretendTensor(value) if on_host else value


def _output_argument(function: Any, args: tuple, kwargs: Mapping[str, Any]) -> Any:
    """The argument written by an in-place or out= operation; None for others."""
    for index, argument in enumerate(function._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            return args[index] if index < len(args) else kwargs.get(argument.name)
    return None


def _copy(function: Any, name: str, args: tuple, kwargs: Mapping[str, Any], line: str) -> Any:
    """Copies within and between devices."""
    if name == "copy_":
        target, source = args[0], args[1]
        _count_transfer(isinstance(source, PretendTensor), isinstance(target, PretendTensor), line)
        function(*tree_map(_unwrap, args), **kwargs)
        return target
    source = args[0]
    from_device = isinstance(source, PretendTensor)
    device = kwargs.get("device")
    stays = from_device if device is None else is_pretend(device)
    _count_transfer(from_device, stays, line)
    options = {key: value for key, value in kwargs.items() if key not in ("device", "pin_memory")}
    copied = function(_unwrap(source), **options)
    if copied.data_ptr() == _unwrap(source).data_ptr() and copied.numel():
        copied = copied.clone()
    return PretendTensor(copied) if stays else copied


def _count_transfer(from_device: bool, to_device: bool, line: str) -> None:
    if from_device and not to_device:
        LEDGER.syncs[line] += 1
    elif to_device and not from_device:
        LEDGER.uploads[line] += 1


def _check_generator(function: Any, name: str, generator: Any, line: str) -> None:
    if generator is not None and generator.device.type == "cpu":
        raise DeviceFault(f"{name}: expected a generator of the device but found one of the CPU.")
    if generator is None and torch.Tag.nondeterministic_seeded in function.tags:
        LEDGER.unseeded[line] += 1


def _count_syncs(name: str, args: tuple, line: str) -> None:
    syncs = name in SYNC_OPERATIONS
    if name == "repeat_interleave":
        syncs = any(isinstance(arg, Tensor) for arg in args[1:2])
    if name in INDEX_OPERATIONS:
        indices = [index for index in args[1] if isinstance(index, Tensor)]
        masks = [index for index in indices if index.dtype in (torch.bool, torch.uint8)]
        fills = name != "index" and len(masks) == len(indices) and args[2].numel() == 1
        syncs = bool(masks) and not fills  # a scalar under a mask is a masked fill
    if syncs:
        LEDGER.syncs[line] += 1


def _check_devices(function: Any, name: str, args: tuple, tensors: list, line: str) -> None:
    """Raises DeviceFault unless CUDA allows this operation to mix devices."""
    others = [tensor for tensor in tensors if not isinstance(tensor, PretendTensor)]
    if name in INDEX_OPERATIONS and isinstance(args[0], PretendTensor):
        values = [value for value in args[2:3] if isinstance(value, Tensor)]
        if all(isinstance(value, PretendTensor) or value.dim() == 0 for value in values):
            LEDGER.uploads[line] += 1  # CPU indices are copied
            return
    elif name.startswith(CPU_STATE_ALLOWED):
        return
    elif torch.Tag.pointwise in function.tags:
        writes_host = name.endswith("_") and not isinstance(args[0], PretendTensor)
        if not writes_host and all(tensor.dim() == 0 for tensor in others):
            return
    devices = ", ".join(
        f"{NAME if isinstance(t, PretendTensor) else 'cpu'}{tuple(t.shape)}" for t in tensors
    )
    raise DeviceFault(f"{name}: expected all tensors on one device, but got {devices} at {line}.")


@contextmanager
def counted() -> Iterator[dict[str, int]]:
    """Launches, syncs and uploads of the `with` block; the dict is filled at its end."""
    before, counts = LEDGER.totals(), {}
    yield counts
    counts.update({name: total - before[name] for name, total in LEDGER.totals().items()})


def left_on_device(value: Any, name: str = "result") -> list[str]:
    """Paths of device tensors in a result: dataclasses, dicts, sequences, modules."""
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
    return [path for key, part in parts.items() for path in left_on_device(part, f"{name}.{key}")]


def install_warp() -> None:
    """Runs the grid field's kernels as on a GPU: one launch each, on tensors of the device."""
    from nova3d_core.compute import warp_backend as launching
    from nova3d_core.fusion.fields.grid import warp_impl as grid_warp
    from nova3d_core.fusion.fields.grid import warp_support

    warp, as_warp = launching.warp(), launching.as_warp

    class Warp:
        """warp without the functions that need a real device."""

        def __getattr__(self, name: str) -> Any:
            return getattr(warp, name)

        def device_from_torch(self, device: torch.device) -> Any:
            if device.type == NAME and device.index is None:
                raise DeviceFault("warp needs the index of the device.")
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
            raise DeviceFault(f"warp got a CPU tensor {tuple(tensor.shape)} for the device.")
        if tensor.requires_grad or not tensor.is_contiguous():
            raise DeviceFault("warp needs contiguous tensors without gradient.")
        return as_warp(tensor.on_host)

    shim = Warp()
    warp_support.can_run_on = lambda device: True
    launching.warp = lambda: shim
    launching.as_warp = grid_warp.as_warp = checked
