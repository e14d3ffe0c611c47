"""Runs warp kernels on torch tensors: launches side by side in threads on the CPU, one on CUDA.

Warp runs a CPU kernel on one core and lets go of Python's lock meanwhile, so two threads with half
the work each take half the time. Their shares and buffers are fixed, so that results repeat bit for
bit whatever the number of cores.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..errors import Cancelled, MissingDependencyError
from ..progress import SILENT, Progress
from .devices import is_out_of_memory, with_device_index
from .kernel_cache import use_writable_cache

logger = logging.getLogger(__name__)

NUM_CPU_LAUNCHES = 2
"""Launches side by side on the CPU; each has gradient buffers of its own."""
_MIN_PARALLEL_THREADS = 2048
"""Less work than this is not worth a second thread."""
COMPILING = "compiling kernels"
"""The stage's name in progress reports."""
_MAX_REASON_CHARS = 300
"""Characters; compilers quote whole programs."""
_kernel_errors: dict[tuple[str, str], str] = {}
"""For each device and set of kernels that was tried, why they do not run there; "" if they do."""


@cache
def warp() -> Any:
    """The warp module, started and quiet.

    Raises:
        MissingDependencyError: if it is not installed.
        RuntimeError: if it is installed, but cannot be loaded or started.
    """
    try:
        import warp as wp
    except ModuleNotFoundError as error:
        raise MissingDependencyError("warp-lang", "the compiled grid field") from error
    except (ImportError, OSError) as error:
        raise RuntimeError(f"warp cannot be loaded: {error}") from error
    if hasattr(wp.config, "log_level"):
        wp.config.log_level = logging.WARNING
    else:
        wp.config.quiet = True
    try:
        use_writable_cache(wp)
        wp.init()
    except OSError as error:
        raise RuntimeError(f"warp cannot be started: {error}") from error
    return wp


def kernel_error(
    device: torch.device, kernels: Callable[[], Sequence[Any]], progress: Progress = SILENT
) -> str:
    """Why a set of kernels does not run on a device, in one line; empty if it does.

    The kernels are compiled and loaded the first time, which is the only sure test: warp lists GPUs
    that its compiler rejects, and its wheels need a recent driver.

    Args:
        device: a device of PyTorch.
        kernels: imports the kernels and returns their warp modules; called once warp has started.
        progress: reports each module, as compiling takes seconds where no cache holds them.
    """
    device = with_device_index(device)
    key = (str(device), f"{kernels.__module__}.{kernels.__qualname__}")
    if key not in _kernel_errors:
        try:
            _load_kernels(device, kernels, progress)
        except Cancelled:
            raise
        except Exception as error:  # compilers, drivers and caches fail in ways of their own
            reason = " ".join(str(error).split()) or type(error).__name__
            if isinstance(error, MissingDependencyError):
                reason = f"the package '{error.package}' is not installed"
            reason = reason[:_MAX_REASON_CHARS]
            logger.info("warp's kernels do not run on %s: %s", device, reason)
            if is_out_of_memory(error):  # another time they may fit
                return reason
            _kernel_errors[key] = reason
        else:
            _kernel_errors[key] = ""
    return _kernel_errors[key]


def _load_kernels(
    device: torch.device, kernels: Callable[[], Sequence[Any]], progress: Progress
) -> None:
    """Compiles the modules of a set of kernels, or loads them from warp's cache."""
    wp = warp()
    if device.type not in ("cpu", "cuda"):
        raise RuntimeError(f"warp does not run on devices of the kind '{device.type}'.")
    if device.type == "cuda" and not wp.is_cuda_available():
        raise RuntimeError(
            "warp does not run on AMD cards."
            if torch.version.hip
            else "warp finds no NVIDIA driver that is new enough; update the driver, or install "
            "a warp-lang built for an older CUDA."
        )
    modules = kernels()
    for module in progress.track(modules, COMPILING, len(modules)):
        _load(module, device)


def _load(module: Any, device: torch.device) -> None:
    """Compiles and loads a warp module as `launch` asks for it."""
    wp = warp()
    _name_for_files(module)
    size = {"block_dim": 1} if device.type == "cpu" else {}
    wp.load_module(module, device=wp.device_from_torch(device), **size)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(NUM_CPU_LAUNCHES, thread_name_prefix="nova3d-warp")


def as_warp(tensor: Tensor) -> Any:
    """A contiguous tensor as a warp array on the same memory; (..., 2 to 4) become vectors."""
    wp = warp()
    width = tensor.shape[-1]
    vectors = {2: wp.vec2, 3: wp.vec3, 4: wp.vec4}
    if tensor.dtype == torch.int32:
        vectors = {3: wp.vec3i}
    if tensor.ndim in (2, 4) and width in vectors:
        return wp.from_torch(tensor, dtype=vectors[width])
    return wp.from_torch(tensor)


def _name_for_files(module: Any) -> None:
    """Warp names its files after the Python module, whose name inside ComfyUI holds a path."""
    if re.search(r"[^\w.]", module.name):
        module.name = f"nova3d_{module.name.rpartition('.')[2]}"


def launch(
    kernel: Any,
    count: int,
    arguments: list,
    device: torch.device,
    own: list[list] | None = None,
) -> None:
    """Runs `count` threads of a kernel; its first argument says where a share begins.

    Args:
        kernel: a warp kernel.
        count: threads in all.
        arguments: tensors, structs and numbers that all shares get.
        device: where they are.
        own: further arguments for each share, e.g. its buffer.
    """
    if count == 0:
        return
    wp = warp()
    _name_for_files(kernel.module)
    shared = [as_warp(a) if isinstance(a, Tensor) else a for a in arguments]
    # warp's own stream does not wait for work of a torch stream that is not the default one
    stream = wp.stream_from_torch(device) if device.type == "cuda" else None

    def share(begin: int, end: int, index: int) -> None:
        extra = [as_warp(a) if isinstance(a, Tensor) else a for a in (own[index] if own else [])]
        wp.launch(
            kernel,
            dim=end - begin,
            inputs=[begin, *shared, *extra],
            device=wp.device_from_torch(device),
            stream=stream,
        )

    if device.type != "cpu" or count < _MIN_PARALLEL_THREADS:
        share(0, count, 0)
        return
    _load(kernel.module, device)
    cuts = [count * part // NUM_CPU_LAUNCHES for part in range(NUM_CPU_LAUNCHES + 1)]
    jobs = [_pool().submit(share, cuts[part], cuts[part + 1], part) for part in range(NUM_CPU_LAUNCHES)]
    for job in jobs:
        job.result()
