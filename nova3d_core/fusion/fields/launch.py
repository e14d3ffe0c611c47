"""Runs warp kernels on torch tensors: launches side by side in threads on the CPU, one on CUDA.

Warp runs a CPU kernel on one core and lets go of Python's lock meanwhile, so two threads with half
the work each take half the time. Their shares and buffers are fixed, so that results repeat bit for
bit whatever the number of cores.
"""

from __future__ import annotations

import logging
import re
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ...errors import MissingDependencyError
from .kernel_cache import use_writable_cache

logger = logging.getLogger(__name__)

PARTS = 2
"""Launches side by side on the CPU; each has gradient buffers of its own."""
_SMALL = 2048
"""Less work than this is not worth a second thread."""
_LONGEST_REASON = 300
"""Characters; compilers quote whole programs."""
REMEDY = (
    "Install it with: pip install warp-lang; if it is there, set WARP_CACHE_PATH to a folder that "
    "can be written."
)


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


def can_run_on(device: torch.device) -> bool:
    """Whether warp is there and works on a device."""
    return not problem_on(device)


def problem_on(device: torch.device) -> str:
    """Why warp does not run on a device, in one line; empty if it does."""
    try:
        wp = warp()
    except MissingDependencyError:
        return "the package 'warp-lang' is not installed"
    except (RuntimeError, OSError) as error:
        return " ".join(str(error).split())[:_LONGEST_REASON]
    if device.type == "cpu" or (device.type == "cuda" and wp.is_cuda_available()):
        return ""
    return f"warp finds no driver that it can use on '{device}'"


def warn_of_torch_twin(device: torch.device) -> None:
    """Says that a field runs in plain torch because warp does not run, how slow that is, and why.

    Said once for each field that is made, so once in a fusion.
    """
    logger.warning(
        "the fusion runs in plain PyTorch, 6 to 8 times slower than with warp's kernels: %s. %s",
        problem_on(device).rstrip(".") or "warp was not asked for",
        REMEDY,
    )


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(PARTS, thread_name_prefix="nova3d-warp")


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

    def share(begin: int, end: int, index: int) -> None:
        extra = [as_warp(a) if isinstance(a, Tensor) else a for a in (own[index] if own else [])]
        wp.launch(
            kernel,
            dim=end - begin,
            inputs=[begin, *shared, *extra],
            device=wp.device_from_torch(device),
        )

    if device.type != "cpu" or count < _SMALL:
        share(0, count, 0)
        return
    wp.load_module(kernel.module, device="cpu", block_dim=1)  # as `launch` asks for it
    cuts = [count * part // PARTS for part in range(PARTS + 1)]
    jobs = [_pool().submit(share, cuts[part], cuts[part + 1], part) for part in range(PARTS)]
    for job in jobs:
        job.result()
