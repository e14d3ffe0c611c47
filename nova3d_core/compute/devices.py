"""Devices of this machine: names, free memory, random numbers, errors of memory that ran out."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..errors import InputError, Nova3DError

GIB = 1 << 30

_OUT_OF_MEMORY = (
    "out of memory",  # torch on CUDA, HIP, XPU and MPS; drivers' "CUDA error: out of memory"
    "outofmemory",  # hipErrorOutOfMemory
    "out_of_memory",  # CUDA_ERROR_OUT_OF_MEMORY, NVRTC_ERROR_OUT_OF_MEMORY
    "out_of_device_memory",  # Level Zero and Unified Runtime (XPU)
    "out_of_host_memory",
    "out_of_resources",
    "memoryallocation",  # cudaErrorMemoryAllocation
    "alloc_failed",  # CUBLAS_STATUS_ALLOC_FAILED; also cuDNN's, cuSOLVER's, cuSPARSE's, hipBLAS's
    "allocation_failed",  # cuDNN 9: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED
    "statusallocfailed",  # MIOpen
    "rocblas_status_memory_error",
    "invalid buffer size",  # MPS: larger than any buffer may be
    "failed to allocate",  # warp
    "bad_alloc",  # C++
    "bad allocation",
    "error code: <1455>",  # torch on Windows: the paging file is too small
)
"""Parts of what a RuntimeError says, in lower case, when a device's memory ran out."""
_OUT_OF_HOST_MEMORY = (
    "defaultcpuallocator",  # torch on the CPU
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "on device 'cpu'",  # warp
    "out_of_host_memory",
    "host_allocation_failed",
    "bad_alloc",
    "bad allocation",
    "error code: <1455>",
)
"""Parts of what a RuntimeError says when the host's memory ran out."""
_PAGING_FILE_TOO_SMALL = 1455
"""Windows' code for memory that it cannot commit; Python's errno for it is only EINVAL."""


def available_devices() -> tuple[str, ...]:
    """Names of the devices that PyTorch can use here, such as ("cuda:0", "cuda:1", "cpu")."""
    names = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    xpu = getattr(torch, "xpu", None)
    if xpu is not None and xpu.is_available():
        names += [f"xpu:{index}" for index in range(xpu.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    return (*names, "cpu")


def resolve_device(name: str | torch.device) -> torch.device:
    """The device of a name, with its index where there can be several; tried with one number.

    Raises:
        InputError: no such device; the hint lists those of this machine.
    """
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise _unusable_device(name, "there is no such kind of device") from error
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type == "cuda":
        device = _checked_cuda(name, device)
    try:
        torch.zeros(1, device=device).cpu()  # a meta tensor has no values to copy
    except Exception as error:  # each backend that is missing says so in a way of its own
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise _unusable_device(name, lines[0][:200].rstrip(". ")) from error
    return device


def _checked_cuda(name: str | torch.device, device: torch.device) -> torch.device:
    """The CUDA or ROCm device with its index."""
    if torch.version.cuda is None and torch.version.hip is None:
        raise _unusable_device(name, "this PyTorch is built without CUDA")
    count = torch.cuda.device_count()
    if count == 0:
        raise _unusable_device(name, "PyTorch finds no GPU, or no driver that is new enough")
    device = with_device_index(device)
    if device.index >= count:
        raise _unusable_device(name, f"there {'is' if count == 1 else 'are'} only {count}")
    return device


def with_device_index(device: torch.device) -> torch.device:
    """The device; "cuda" becomes the current one, such as "cuda:0"."""
    if device.type != "cuda" or device.index is not None:
        return device
    return torch.device("cuda", torch.cuda.current_device() if torch.cuda.is_available() else 0)


def _unusable_device(name: str | torch.device, reason: str) -> InputError:
    shown = str(name) if len(str(name)) <= 40 else f"{str(name)[:40]}..."
    return InputError(
        f"device '{shown}' cannot be used: {reason}.",
        f"Devices of this machine: {', '.join(available_devices())}.",
    )


def free_memory_bytes(device: torch.device) -> int | None:
    """Memory that tensors on a device can still take; None where that is unknown, as on the CPU."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + unused  # PyTorch's cache also serves new tensors
    if device.type == "xpu" and hasattr(torch.xpu, "mem_get_info"):
        return torch.xpu.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on the host or on a device, in any library.

    Next to PyTorch's OutOfMemoryError there are MemoryError, errno ENOMEM, and plain RuntimeErrors
    of drivers, BLAS libraries, the CPU allocator, MPS and warp, which only their texts tell apart.
    """
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return _is_no_memory_of_the_system(error)
    return _message_contains(error, (*_OUT_OF_MEMORY, *_OUT_OF_HOST_MEMORY))


def is_out_of_host_memory(error: BaseException) -> bool:
    """Whether an error says that the host's own memory ran out, not a GPU's."""
    if isinstance(error, OSError):
        return _is_no_memory_of_the_system(error)
    return isinstance(error, MemoryError) or (
        is_out_of_memory(error) and _message_contains(error, _OUT_OF_HOST_MEMORY)
    )


def _is_no_memory_of_the_system(error: OSError) -> bool:
    """Whether a system call failed for want of memory."""
    windows_code = getattr(error, "winerror", None)  # there on Windows only
    return error.errno == errno.ENOMEM or windows_code == _PAGING_FILE_TOO_SMALL


def _message_contains(error: BaseException, parts: tuple[str, ...]) -> bool:
    """Whether a RuntimeError that is not ours holds one of these texts."""
    if not isinstance(error, RuntimeError) or isinstance(error, Nova3DError):
        return False
    text = str(error).lower()
    return any(part in text for part in parts)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds the CPU's default generator within the block, and restores its state afterwards.

    Unlike `torch.manual_seed`, which would reseed every GPU's generator for good.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
