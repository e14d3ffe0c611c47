"""Launches warp kernels on torch tensors: in parallel chunks on the CPU, as a whole on CUDA.

Warp runs a CPU kernel on one core and releases the GIL, so two threads with half the work each
need half the time. Chunks and their buffers are fixed, so that results are reproducible bit for bit
for any number of cores.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..errors import Cancelled, MissingDependencyError
from ..progress import SILENT, Progress
from .devices import is_out_of_memory, with_device_index
from .kernel_cache import use_writable_cache
from .parallel import thread_pool

logger = logging.getLogger(__name__)

NUM_CPU_LAUNCHES = 2
"""Parallel launches on the CPU; each has its own gradient buffers."""
_MIN_PARALLEL_THREADS = 2048
"""Kernels with fewer threads run in one launch."""
COMPILING = "compiling kernels"
"""Stage name in progress reports."""
_MAX_REASON_CHARS = 300
"""Compiler errors may quote whole programs."""
_kernel_errors: dict[tuple[str, str], str] = {}
"""Results of `kernel_error` by device and set of kernels."""


@cache
def warp() -> Any:
    """The initialised warp module, with warnings only.

    Raises:
        MissingDependencyError: it is not installed.
        RuntimeError: it is installed, but cannot be loaded or initialised.
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
        raise RuntimeError(f"warp cannot be initialised: {error}") from error
    return wp


def kernel_error(
    device: torch.device, kernels: Callable[[], Sequence[Any]], progress: Progress = SILENT
) -> str:
    """The reason, in one line, why a set of kernels does not run on a device; empty if it does.

    Compiles and loads the kernels on first use, which is the only reliable test: warp lists GPUs
    that its compiler rejects, and its wheels need a recent driver.

    Args:
        device: a PyTorch device.
        kernels: imports the kernels and returns their warp modules; called after `warp.init`.
        progress: reports each module; compiling takes seconds without a cache.
    """
    device = with_device_index(device)
    key = (str(device), f"{kernels.__module__}.{kernels.__qualname__}")
    if key not in _kernel_errors:
        try:
            _load_kernels(device, kernels, progress)
        except Cancelled:
            raise
        except Exception as error:  # compilers, drivers and caches raise various types
            reason = " ".join(str(error).split()) or type(error).__name__
            if isinstance(error, MissingDependencyError):
                reason = f"the package '{error.package}' is not installed"
            reason = reason[:_MAX_REASON_CHARS]
            logger.info("warp's kernels do not run on %s: %s", device, reason)
            if is_out_of_memory(error):  # may succeed another time
                return reason
            _kernel_errors[key] = reason
        else:
            _kernel_errors[key] = ""
    return _kernel_errors[key]


def _load_kernels(
    device: torch.device, kernels: Callable[[], Sequence[Any]], progress: Progress
) -> None:
    """Compiles a set of kernels, or loads them from warp's cache."""
    wp = warp()
    if device.type not in ("cpu", "cuda"):
        raise RuntimeError(f"warp does not support devices of type '{device.type}'.")
    if device.type == "cuda" and not wp.is_cuda_available():
        raise RuntimeError(
            "warp does not support AMD GPUs."
            if torch.version.hip
            else "warp finds no sufficiently recent NVIDIA driver; update the driver, or install a "
            "warp-lang built for an older CUDA version."
        )
    modules = kernels()
    for module in progress.track(modules, COMPILING, len(modules)):
        _load(module, device)


def _load(module: Any, device: torch.device) -> None:
    """Compiles and loads a warp module with the options that `launch` uses."""
    wp = warp()
    _sanitise_module_name(module)
    size = {"block_dim": 1} if device.type == "cpu" else {}
    wp.load_module(module, device=wp.device_from_torch(device), **size)


def as_warp(tensor: Tensor) -> Any:
    """A contiguous tensor as a warp array that shares its memory; (..., 2 to 4) become vectors."""
    wp = warp()
    width = tensor.shape[-1]
    vectors = {2: wp.vec2, 3: wp.vec3, 4: wp.vec4}
    if tensor.dtype == torch.int32:
        vectors = {3: wp.vec3i}
    if tensor.ndim in (2, 4) and width in vectors:
        return wp.from_torch(tensor, dtype=vectors[width])
    return wp.from_torch(tensor)


def _sanitise_module_name(module: Any) -> None:
    """Renames a warp module whose name is no file name: inside ComfyUI it contains a path."""
    if re.search(r"[^\w.]", module.name):
        module.name = f"nova3d_{module.name.rpartition('.')[2]}"


def launch(
    kernel: Any,
    count: int,
    arguments: list,
    device: torch.device,
    chunk_arguments: list[list] | None = None,
    min_parallel: int | None = None,
) -> None:
    """Runs `count` threads of a kernel; its first argument is the offset of the first thread.

    Args:
        kernel: a warp kernel.
        count: total number of threads.
        arguments: tensors, structs and numbers that all chunks share.
        device: device of the tensors.
        chunk_arguments: further arguments of each chunk, e.g. its own buffer.
        min_parallel: kernels with fewer threads run in one launch; default 2,048.
    """
    if count == 0:
        return
    wp = warp()
    _sanitise_module_name(kernel.module)
    shared = [as_warp(a) if isinstance(a, Tensor) else a for a in arguments]
    # warp's own stream does not synchronise with a torch stream other than the default one
    stream = wp.stream_from_torch(device) if device.type == "cuda" else None

    def launch_chunk(start: int, end: int, index: int) -> None:
        extra = chunk_arguments[index] if chunk_arguments else []
        extra = [as_warp(a) if isinstance(a, Tensor) else a for a in extra]
        wp.launch(
            kernel,
            dim=end - start,
            inputs=[start, *shared, *extra],
            device=wp.device_from_torch(device),
            stream=stream,
        )

    if device.type != "cpu" or count < (min_parallel or _MIN_PARALLEL_THREADS):
        launch_chunk(0, count, 0)
        return
    _load(kernel.module, device)
    bounds = [count * index // NUM_CPU_LAUNCHES for index in range(NUM_CPU_LAUNCHES + 1)]
    pool = thread_pool(NUM_CPU_LAUNCHES, "nova3d-warp")
    futures = [
        pool.submit(launch_chunk, bounds[index], bounds[index + 1], index)
        for index in range(NUM_CPU_LAUNCHES)
    ]
    for future in futures:
        future.result()
