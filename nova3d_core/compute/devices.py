"""Compute devices: names, free memory, out-of-memory errors, seeding."""

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
    "invalid buffer size",  # MPS: exceeds the maximum size of a buffer
    "failed to allocate",  # warp
    "bad_alloc",  # C++
    "bad allocation",
    "error code: <1455>",  # torch on Windows: the paging file is too small
)
"""Lower-case substrings of RuntimeError messages when a device runs out of memory."""
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
"""Lower-case substrings of RuntimeError messages when the host runs out of memory."""
_PAGING_FILE_TOO_SMALL = 1455
"""Windows error code for memory that cannot be committed; Python's errno is only EINVAL."""


def available_devices() -> tuple[str, ...]:
    """Names of the devices that PyTorch can use, e.g. ("cuda:0", "cuda:1", "cpu")."""
    names = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    xpu = getattr(torch, "xpu", None)
    if xpu is not None and xpu.is_available():
        names += [f"xpu:{index}" for index in range(xpu.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    return (*names, "cpu")


def resolve_device(name: str | torch.device) -> torch.device:
    """The device of this name, with a device index; tested by a small allocation.

    Raises:
        InputError: the device is not available; the hint lists the available ones.
    """
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise _unusable_device(name, "there is no such device type") from error
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type == "cuda":
        device = _checked_cuda(name, device)
    try:
        torch.zeros(1, device=device).cpu()  # also fails for meta tensors
    except Exception as error:  # missing backends raise various types
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise _unusable_device(name, lines[0][:200].rstrip(". ")) from error
    return device


def _checked_cuda(name: str | torch.device, device: torch.device) -> torch.device:
    """The CUDA or ROCm device with its index."""
    if torch.version.cuda is None and torch.version.hip is None:
        raise _unusable_device(name, "this PyTorch is built without CUDA")
    count = torch.cuda.device_count()
    if count == 0:
        raise _unusable_device(name, "PyTorch finds no GPU or no sufficiently recent driver")
    device = with_device_index(device)
    if device.index >= count:
        raise _unusable_device(name, f"there {'is' if count == 1 else 'are'} only {count}")
    return device


def with_device_index(device: torch.device) -> torch.device:
    """The device with an index: "cuda" becomes the current device, e.g. "cuda:0"."""
    if device.type != "cuda" or device.index is not None:
        return device
    return torch.device("cuda", torch.cuda.current_device() if torch.cuda.is_available() else 0)


def _unusable_device(name: str | torch.device, reason: str) -> InputError:
    shown = str(name) if len(str(name)) <= 40 else f"{str(name)[:40]}..."
    return InputError(
        f"device '{shown}' cannot be used: {reason}.",
        f"Available devices: {', '.join(available_devices())}.",
    )


def free_memory_bytes(device: torch.device) -> int | None:
    """Memory available to tensors on a device in bytes; None if unknown, as on the CPU."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + unused  # PyTorch's cache serves new tensors too
    if device.type == "xpu" and hasattr(torch.xpu, "mem_get_info"):
        return torch.xpu.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on the host or on a device, in any library.

    Besides PyTorch's OutOfMemoryError these are MemoryError, errno ENOMEM, and RuntimeErrors of
    drivers, BLAS libraries, the CPU allocator, MPS and warp, recognised by their messages.
    """
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return _is_system_out_of_memory(error)
    return _message_contains(error, (*_OUT_OF_MEMORY, *_OUT_OF_HOST_MEMORY))


def is_out_of_host_memory(error: BaseException) -> bool:
    """Whether an error means that host memory ran out, not a GPU's."""
    if isinstance(error, OSError):
        return _is_system_out_of_memory(error)
    return isinstance(error, MemoryError) or (
        is_out_of_memory(error) and _message_contains(error, _OUT_OF_HOST_MEMORY)
    )


def _is_system_out_of_memory(error: OSError) -> bool:
    """Whether a system call failed because memory ran out."""
    windows_code = getattr(error, "winerror", None)  # on Windows only
    return error.errno == errno.ENOMEM or windows_code == _PAGING_FILE_TOO_SMALL


def _message_contains(error: BaseException, parts: tuple[str, ...]) -> bool:
    """Whether a RuntimeError of another library contains one of these substrings."""
    if not isinstance(error, RuntimeError) or isinstance(error, Nova3DError):
        return False
    text = str(error).lower()
    return any(part in text for part in parts)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds the CPU's default generator within the `with` block and restores its state afterwards.

    Unlike `torch.manual_seed`, leaves the generators of GPUs untouched.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
