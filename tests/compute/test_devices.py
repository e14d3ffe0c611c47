"""Device names, out-of-memory errors of all libraries, and seeding without GPUs."""

from __future__ import annotations

import errno

import numpy as np
import pytest
import torch

from nova3d_core.compute import devices
from nova3d_core.compute.devices import (
    available_devices,
    free_memory_bytes,
    is_out_of_host_memory,
    is_out_of_memory,
    resolve_device,
    seeded,
)
from nova3d_core.errors import InputError, StageError

NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")
AcceleratorError = getattr(torch, "AcceleratorError", RuntimeError)

ON_A_DEVICE = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be reported later."),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("HIP out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("HIP error: hipErrorOutOfMemory"),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("cudaErrorMemoryAllocation"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("CUDA error: HIPBLAS_STATUS_ALLOC_FAILED when calling `hipblasCreate(handle)`"),
    RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB, max allowed: 9.07 GB)."),
    RuntimeError("Invalid buffer size: 24.00 GB"),
    RuntimeError("XPU out of memory. Tried to allocate 4.00 GiB."),
    RuntimeError("level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)"),
    RuntimeError("Failed to allocate 4294967296 bytes on device 'cuda:0'"),
    RuntimeError("CUDA driver error: CUDA_ERROR_OUT_OF_MEMORY"),
    RuntimeError("nvrtc: NVRTC_ERROR_OUT_OF_MEMORY"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("miopenStatusAllocFailed"),
]


class WindowsError1455(OSError):
    """The paging file is too small, as Windows raises it: errno is EINVAL, `winerror` 1455."""

    winerror = 1455


ON_THE_HOST = [
    MemoryError(),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: not enough memory"
    ),
    RuntimeError("Failed to allocate 4294967296 bytes on device 'cpu'"),
    RuntimeError("std::bad_alloc"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
    RuntimeError("Couldn't open shared file mapping: <torch_1_2>, error code: <1455>"),
    WindowsError1455(errno.EINVAL, "The paging file is too small for this operation"),
]
OTHERS = [
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("CUDA error: invalid device ordinal"),
    RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
    KeyError("out of memory"),
    ValueError("out of memory"),
    FileNotFoundError(errno.ENOENT, "No such file", "out of memory.png"),
    OSError(errno.EINVAL, "Invalid argument"),
    InputError("out of memory.png cannot be read."),
    StageError("fusing", "memory ran out even with few rays at once."),
    KeyboardInterrupt(),
]


@pytest.mark.parametrize("error", ON_A_DEVICE, ids=lambda error: str(error)[:40])
def test_recognises_out_of_memory_on_a_device(error):
    assert is_out_of_memory(error) and not is_out_of_host_memory(error)


@pytest.mark.parametrize("error", ON_THE_HOST, ids=lambda error: str(error)[:40])
def test_recognises_out_of_memory_on_the_host(error):
    assert is_out_of_memory(error) and is_out_of_host_memory(error)


@pytest.mark.parametrize("error", OTHERS, ids=lambda error: str(error)[:40])
def test_other_errors_are_not_out_of_memory(error):
    assert not is_out_of_memory(error) and not is_out_of_host_memory(error)


@pytest.mark.parametrize("library", ["torch", "numpy", "warp"])
def test_recognises_errors_of_installed_libraries(library):
    def allocate():
        if library == "torch":
            return torch.empty(1 << 55)
        if library == "numpy":
            return np.ones(1 << 55)
        wp = pytest.importorskip("warp")
        return wp.empty(1 << 30, dtype=wp.types.matrix((1000, 1000), float), device="cpu")

    with pytest.raises((RuntimeError, MemoryError)) as caught:
        allocate()
    assert is_out_of_memory(caught.value) and is_out_of_host_memory(caught.value)


def test_cpu_is_the_last_available_device():
    names = available_devices()
    assert names[-1] == "cpu" and len(set(names)) == len(names)
    assert [str(resolve_device(name)) for name in names] == list(names)
    assert resolve_device("cpu:0") == torch.device("cpu")


@pytest.mark.parametrize(
    "name",
    [
        "toaster",
        "cuda:x",
        "cuda:-1",
        "CUDA",
        "",
        "meta",
        "hpu",
        "vulkan",
        "x" * 1000,
        pytest.param("cuda", marks=NO_CUDA),
        pytest.param("cuda:1", marks=NO_CUDA),
        "cuda:99",
    ],
)
def test_unavailable_device_is_an_error_that_lists_the_available_ones(name):
    with pytest.raises(InputError) as caught:
        resolve_device(name)
    message = str(caught.value)
    assert f"device '{name[:40]}" in message
    assert message.endswith(f"Available devices: {', '.join(available_devices())}.")
    assert len(message) < 500 and "\n" not in message


def test_device_index_out_of_range_is_an_error_that_lists_all_gpus(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError) as caught:
        resolve_device("cuda:2")
    assert caught.value.message == "device 'cuda:2' cannot be used: there are only 2."
    assert caught.value.hint.startswith("Available devices: cuda:0, cuda:1, ")


def test_missing_driver_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(InputError, match="PyTorch finds no GPU or no sufficiently"):
        resolve_device("cuda")


def test_free_memory_includes_pytorchs_unused_cache(monkeypatch):
    assert free_memory_bytes(torch.device("cpu")) is None
    gpu = torch.device("cuda:0")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 << 30, 24 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 6 << 30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 4 << 30)
    assert free_memory_bytes(gpu) == 12 << 30


def test_seeded_block_affects_only_the_cpu_generator(monkeypatch):
    def fail(seed):
        raise AssertionError("the generator of a GPU was seeded")

    torch.manual_seed(7)
    expected = torch.rand(5)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    for backend in (torch.cuda, torch.mps, getattr(torch, "xpu", torch.cuda)):
        for name in ("manual_seed", "manual_seed_all"):
            if hasattr(backend, name):
                monkeypatch.setattr(backend, name, fail)
    monkeypatch.setattr(devices.torch, "manual_seed", fail)
    with seeded(7):
        assert torch.equal(torch.rand(5), expected)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("what", ["hash grid", "train module"])
def test_initialising_networks_does_not_seed_gpus(what, monkeypatch):
    seeds = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    if what == "hash grid":
        from nova3d_core.fusion.fields.hashgrid.field import HashGridField
        from nova3d_core.sdf_grid import SdfGrid

        values = torch.ones(9, 9, 9)
        values[3:6, 3:6, 3:6] = -1.0
        HashGridField(SdfGrid(values, torch.zeros(3), 0.1), max_resolution=32)
    else:
        from nova3d_core.diffusion.families import FAMILIES
        from nova3d_core.training.presets import read_train_config
        from nova3d_core.training.train_module import init_train_module

        config = read_train_config("mini")
        init_train_module(config.network, FAMILIES[config.family], 0)
    assert seeds == []
