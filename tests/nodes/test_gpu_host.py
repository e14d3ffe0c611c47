"""Nodes on a ComfyUI with a GPU: devices of model parts and fusions, memory, errors, messages.

ComfyUI's modules are stand-ins that report a GPU; nothing is computed on it.
"""

from __future__ import annotations

import logging
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")
GIB = 1 << 30
NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


class HostOutOfMemory(RuntimeError):
    """ComfyUI's out-of-memory exception, on which it unloads models."""


class DynamicPatcher:
    """ModelPatcher of recent ComfyUI: it maps memory for the weights and rejects a size of 0."""

    def __init__(self, model: nn.Module, load_device: torch.device, offload_device: torch.device):
        self.model, self.load_device, self.offload_device = model, load_device, offload_device

    def model_size(self) -> int:
        """Size of the weights in bytes."""
        return sum(weight.numel() * weight.element_size() for weight in self.model.parameters())

    def load(self) -> None:
        """Maps memory for the weights."""
        if self.model_size() == 0:
            raise MemoryError("ModelVBAR: size 0")


class Host(SimpleNamespace):
    """Stand-in for ComfyUI that records its calls."""

    loaded: list
    freed: list
    texts: list


@pytest.fixture
def host(monkeypatch) -> Host:
    """ComfyUI with 20 GiB of free GPU memory."""
    log = Host(loaded=[], freed=[], texts=[], bars=[])

    def load_models_gpu(patchers, memory_required=0, force_full_load=False):
        for patcher in patchers:
            patcher.load()
            log.loaded.append((patcher, memory_required, force_full_load))

    management = ModuleType("comfy.model_management")
    vars(management).update(
        OOM_EXCEPTION=HostOutOfMemory,
        InterruptProcessingException=type("InterruptProcessingException", (Exception,), {}),
        get_torch_device=lambda: GPU,
        vae_device=lambda: GPU,
        unet_offload_device=lambda: CPU,
        vae_offload_device=lambda: CPU,
        text_encoder_offload_device=lambda: CPU,
        text_encoder_dtype=lambda device: torch.float16,
        vae_dtype=lambda device, allowed: allowed[0],
        is_device_cpu=lambda device: device.type == "cpu",
        load_models_gpu=load_models_gpu,
        minimum_inference_memory=lambda: GIB,
        free_memory=lambda size, device: log.freed.append((size, device)),
        get_free_memory=lambda device: 20 * GIB,
        soft_empty_cache=lambda: None,
        processing_interrupted=lambda: False,
        interrupt_current_processing=lambda value: None,
    )
    patcher, utils = ModuleType("comfy.model_patcher"), ModuleType("comfy.utils")
    patcher.ModelPatcher = patcher.CoreModelPatcher = DynamicPatcher
    utils.ProgressBar = lambda total: SimpleNamespace(update_absolute=lambda *args: None)
    comfy = ModuleType("comfy")
    comfy.model_management, comfy.model_patcher, comfy.utils = management, patcher, utils
    server, context = ModuleType("server"), ModuleType("comfy_execution.utils")
    page = SimpleNamespace(send_progress_text=lambda text, node: log.texts.append(text))
    server.PromptServer = SimpleNamespace(instance=page)
    context.get_executing_context = lambda: SimpleNamespace(node_id="7")
    modules = (comfy, management, patcher, utils, server, context, ModuleType("comfy_execution"))
    for module in modules:
        monkeypatch.setitem(sys.modules, module.__name__, module)
    log.management = management
    return log


# model parts


@pytest.fixture
def model(pack):
    """A model whose codec has no weights, like the built-in one."""
    core = pack("nova3d_core.diffusion.model")
    codec = pack("nova3d_core.diffusion.codecs.pixels").PixelCodec(2)
    assert next(codec.parameters(), None) is None
    return core.MultiviewModel(SimpleNamespace(), nn.Linear(2, 2), codec, nn.Linear(3, 3).half())


def test_part_without_weights_is_not_registered(pack, host, model, monkeypatch):
    management, parts = pack("nodes.model_management"), pack("nova3d_core.diffusion.model")
    managed = management.manage_model(model, torch.float16)
    assert set(managed.patchers) == {parts.UNET, parts.IMAGE_ENCODER}
    load = management.HostModelPlacement(managed).load_to_device
    assert load(parts.CODEC, 100) == (GPU, torch.float32)
    assert host.loaded == []
    assert load(parts.UNET, 100) == (GPU, torch.float16)
    monkeypatch.setattr(nn.Linear, "to", lambda self, device: self)
    assert load(parts.IMAGE_ENCODER, 200) == (GPU, torch.float16)
    patchers = [managed.patchers[parts.UNET], managed.patchers[parts.IMAGE_ENCODER]]
    assert host.loaded == [(patchers[0], 100, False), (patchers[1], 200, True)]


def test_stand_in_rejects_a_part_without_weights(model):
    with pytest.raises(MemoryError):
        DynamicPatcher(model.codec, GPU, CPU).load()


def test_cpu_vae_option_keeps_the_codec_on_the_cpu(pack, host, model):
    management, parts = pack("nodes.model_management"), pack("nova3d_core.diffusion.model")
    model.codec = nn.Linear(2, 2)
    managed = management.manage_model(model, torch.float16)
    assert {patcher.load_device for patcher in managed.patchers.values()} == {GPU}
    assert management.plain_part_dtypes() == {
        parts.CODEC: torch.bfloat16,
        parts.IMAGE_ENCODER: torch.float16,
    }
    host.management.vae_device = lambda: CPU  # as with --cpu-vae
    managed = management.manage_model(model, torch.float16)
    devices = {part: patcher.load_device for part, patcher in managed.patchers.items()}
    assert devices == {parts.UNET: GPU, parts.CODEC: CPU, parts.IMAGE_ENCODER: GPU}
    assert management.plain_part_dtypes()[parts.CODEC] == torch.float32  # the fast dtype on CPUs
    load = management.HostModelPlacement(managed).load_to_device
    assert load(parts.CODEC, 100) == (CPU, torch.float32)


def test_activations_may_use_the_memory_beside_the_parts_weights(pack, host, model):
    """The decoder may use what other parts leave: a large GPU decodes all views together."""
    management, parts = pack("nodes.model_management"), pack("nova3d_core.diffusion.model")
    host.management.get_total_memory = lambda device: 24 * GIB
    placement = management.HostModelPlacement(management.manage_model(model, torch.float16))
    weights = placement.managed.patchers[parts.UNET].model_size()
    assert placement.activation_budget(parts.UNET) == int(23 * GIB - 1.1 * weights)
    assert placement.activation_budget(parts.CODEC) == 23 * GIB  # a pixel codec has no weights
    host.management.get_total_memory = lambda device: GIB
    assert placement.activation_budget(parts.UNET) == GIB // 2
    host.management.vae_device = lambda: CPU
    placement = management.HostModelPlacement(management.manage_model(model, torch.float16))
    assert placement.activation_budget(parts.CODEC) == 10 * GIB  # half of 20 GiB free


def test_without_a_vae_device_the_torch_device_is_used(pack, host, model):
    del host.management.vae_device
    model.codec = nn.Linear(2, 2)
    managed = pack("nodes.model_management").manage_model(model, torch.float16)
    assert {patcher.load_device for patcher in managed.patchers.values()} == {GPU}


# fusion device


@pytest.fixture
def warp_backend(pack, monkeypatch):
    """The pack's warp backend, before any device was tried."""
    module = pack("nova3d_core.compute.warp_backend")
    monkeypatch.setattr(module, "_kernel_errors", {})
    return module


@NO_CUDA
def test_fusion_runs_on_the_cpu_if_warp_cannot_use_the_gpu(
    pack, host, warp_backend, caplog, monkeypatch
):
    pytest.importorskip("warp")
    monkeypatch.setattr(
        warp_backend, "_load", lambda module, device: None
    )  # as on the GPU without a driver
    node_context = pack("nodes.runtime").node_context
    with (
        caplog.at_level(logging.WARNING),
        node_context(5.0, "auto", fusion_field="grid") as context,
    ):
        assert context.device == CPU and not context.has_gpu  # the preset auto becomes fast
        assert context.memory_gib == 0.0
        last = host.texts[-1]
    assert "the fusion runs on the CPU" in last and "NVIDIA driver" in last and "'fast'" in last
    assert host.freed == []  # no model was unloaded
    assert "the fusion runs on the CPU" in caplog.text
    assert any("compiling kernels" in text for text in host.texts)
    assert "compiling kernels" not in last


def test_fusion_on_the_gpu_uses_the_available_memory(pack, host, warp_backend, monkeypatch):
    monkeypatch.setattr(warp_backend, "_load_kernels", lambda device, kernels, progress: None)
    with pack("nodes.runtime").node_context(5.0, "auto", fusion_field="grid") as context:
        assert context.device == GPU and context.has_gpu
        assert context.memory_gib == 19.0  # 20 GiB free, 1 reserved by ComfyUI
    assert host.freed == [(6 * GIB, GPU)]
    assert host.texts == []


def test_memory_limit_has_a_lower_bound(pack, host, warp_backend):
    host.management.get_free_memory = lambda device: GIB // 2
    with pack("nodes.runtime").node_context(5.0, "auto", fusion_field="hashgrid") as context:
        assert context.device == GPU and context.memory_gib == 0.5


def test_device_cpu_frees_no_gpu_memory(pack, host, warp_backend):
    with pack("nodes.runtime").node_context(5.0, "cpu", fusion_field="grid") as context:
        assert context.device == CPU
    assert host.freed == []
    assert not any("CPU" in text for text in host.texts)


def test_node_text_keeps_warnings_while_kernels_compile(pack, host):
    runtime = pack("nodes.runtime")
    core_logger = logging.getLogger(pack("nova3d_core").__name__)
    with runtime.node_context() as context:
        core_logger.getChild("fusion").warning("first")
        context.progress.update("compiling kernels", 0, 2)
        context.progress.update("compiling kernels", 1, 2)
        core_logger.getChild("fusion").warning("second")
        context.progress.update("compiling kernels", 2, 2)
        context.progress.update("fusing", 1, 9)
    line = "compiling kernels: once for each device"
    assert host.texts == [
        "first", f"first\n{line}", f"first\nsecond\n{line}", "first\nsecond"
    ]  # fmt: skip


def test_status_without_warnings_is_replaced_by_a_blank(pack, host):
    """The page ignores an empty text, which would leave the status on the node."""
    with pack("nodes.runtime").node_context() as context:
        context.progress.update("compiling kernels", 0, 2)
        context.progress.update("compiling kernels", 2, 2)
        context.progress.update("fusing", 1, 9)
    assert host.texts == ["compiling kernels: once for each device", " "]


# errors


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory."),
        getattr(torch, "AcceleratorError", RuntimeError)("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("HIP out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"),
        RuntimeError("XPU out of memory. Tried to allocate 4.00 GiB."),
        RuntimeError("Failed to allocate 4294967296 bytes on device 'cuda:0'"),
    ],
    ids=lambda error: str(error)[:24],
)
@pytest.mark.parametrize("context", ["node_context", "sampling_context"])
def test_gpu_out_of_memory_becomes_comfyuis_exception(pack, host, context, error):
    runtime = pack("nodes.runtime")
    with pytest.raises(HostOutOfMemory) as caught, getattr(runtime, context)():
        raise error
    assert str(error) in str(caught.value) and caught.value.__cause__ is error
    assert ("fp16" if context == "sampling_context" else "'draft'") in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
    ids=["MemoryError", "DefaultCPUAllocator"],
)
def test_cpu_out_of_memory_unloads_nothing_and_gives_advice(pack, host, error):
    with pytest.raises(RuntimeError, match="memory ran out") as caught:  # noqa: SIM117
        with pack("nodes.runtime").node_context():
            raise error
    assert not isinstance(caught.value, HostOutOfMemory)
    assert "'draft'" in str(caught.value)


def test_other_errors_are_not_translated(pack, host):
    error = RuntimeError("CUDA error: device-side assert triggered")
    with pytest.raises(RuntimeError) as caught, pack("nodes.runtime").node_context():
        raise error
    assert caught.value is error
