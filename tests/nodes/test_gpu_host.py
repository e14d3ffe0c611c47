"""What the nodes ask of a host with a GPU: where parts and fusions go, errors, memory, notes.

The host's modules are stand-ins that say they have a card; nothing is computed on it.
"""

from __future__ import annotations

import logging
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

CPU, CARD = torch.device("cpu"), torch.device("cuda:0")
GIB = 1 << 30
NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


class HostOutOfMemory(RuntimeError):
    """The host's own error, upon which it unloads models."""


class DynamicPatcher:
    """The newest host's patcher: it maps memory for a part's weights, which refuses a size of 0."""

    def __init__(self, model: nn.Module, load_device: torch.device, offload_device: torch.device):
        self.model, self.load_device, self.offload_device = model, load_device, offload_device

    def model_size(self) -> int:
        """Bytes of the weights."""
        return sum(each.numel() * each.element_size() for each in self.model.parameters())

    def load(self) -> None:
        """Maps the memory."""
        if self.model_size() == 0:
            raise MemoryError("ModelVBAR: size 0")


class Host(SimpleNamespace):
    """The stand-in and what was asked of it."""

    loaded: list
    freed: list
    texts: list


@pytest.fixture
def host(monkeypatch) -> Host:
    """A host with a card of 24 GiB, of which 20 are free."""
    log = Host(loaded=[], freed=[], texts=[], bars=[])

    def load_models_gpu(patchers, memory_required=0, force_full_load=False):
        for patcher in patchers:
            patcher.load()
            log.loaded.append((patcher, memory_required, force_full_load))

    management = ModuleType("comfy.model_management")
    vars(management).update(
        OOM_EXCEPTION=HostOutOfMemory,
        InterruptProcessingException=type("InterruptProcessingException", (Exception,), {}),
        get_torch_device=lambda: CARD,
        vae_device=lambda: CARD,
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
    utils.ProgressBar = lambda total: SimpleNamespace(update_absolute=lambda *given: None)
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


# A1 and B8: the parts of a model


@pytest.fixture
def model(pack):
    """A model whose codec has no weights, as the built-in one's."""
    core = pack("nova3d_core.diffusion.model")
    codec = pack("nova3d_core.diffusion.codecs.pixels").PixelCodec(2)
    assert next(codec.parameters(), None) is None
    return core.MultiviewModel(SimpleNamespace(), nn.Linear(2, 2), codec, nn.Linear(3, 3).half())


def test_a_part_without_weights_is_never_handed_to_the_host(pack, host, model, monkeypatch):
    placement, parts = pack("nodes.model_management"), pack("nova3d_core.diffusion.model")
    hosted = placement.manage_model(model, torch.float16)
    assert set(hosted.patchers) == {parts.UNET, parts.IMAGE_ENCODER}
    load_to_device = placement.HostModelPlacement(hosted).load_to_device
    assert load_to_device(parts.CODEC, 100) == (CARD, torch.float32)
    assert host.loaded == []
    assert load_to_device(parts.UNET, 100) == (CARD, torch.float16)
    monkeypatch.setattr(nn.Linear, "to", lambda self, device: self)
    assert load_to_device(parts.IMAGE_ENCODER, 200) == (CARD, torch.float16)
    patchers = [hosted.patchers[parts.UNET], hosted.patchers[parts.IMAGE_ENCODER]]
    assert host.loaded == [(patchers[0], 100, False), (patchers[1], 200, True)]


def test_the_stand_in_refuses_a_part_without_weights(model):
    with pytest.raises(MemoryError):
        DynamicPatcher(model.codec, CARD, CPU).load()


def test_cpu_vae_keeps_the_codec_on_the_cpu(pack, host, model):
    placement, parts = pack("nodes.model_management"), pack("nova3d_core.diffusion.model")
    model.codec = nn.Linear(2, 2)
    hosted = placement.manage_model(model, torch.float16)
    assert {each.load_device for each in hosted.patchers.values()} == {CARD}
    assert placement.plain_part_dtypes() == {
        parts.CODEC: torch.bfloat16,
        parts.IMAGE_ENCODER: torch.float16,
    }
    host.management.vae_device = lambda: CPU  # what --cpu-vae does
    hosted = placement.manage_model(model, torch.float16)
    devices = {part: patcher.load_device for part, patcher in hosted.patchers.items()}
    assert devices == {parts.UNET: CARD, parts.CODEC: CPU, parts.IMAGE_ENCODER: CARD}
    assert placement.plain_part_dtypes()[parts.CODEC] == torch.float32  # what CPUs are quick in
    load_to_device = placement.HostModelPlacement(hosted).load_to_device
    assert load_to_device(parts.CODEC, 100) == (CPU, torch.float32)


def test_a_host_without_a_device_for_vaes_uses_its_own(pack, host, model):
    del host.management.vae_device
    model.codec = nn.Linear(2, 2)
    hosted = pack("nodes.model_management").manage_model(model, torch.float16)
    assert {each.load_device for each in hosted.patchers.values()} == {CARD}


# A2, A3, B6: fusions


@pytest.fixture
def launch(pack, monkeypatch):
    """The pack's own copy, no device tried yet."""
    module = pack("nova3d_core.compute.warp_backend")
    monkeypatch.setattr(module, "_kernel_errors", {})
    return module


@NO_CUDA
def test_a_fusion_that_warp_cannot_do_on_the_card_is_done_on_the_cpu(
    pack, host, launch, caplog, monkeypatch
):
    pytest.importorskip("warp")
    monkeypatch.setattr(launch, "_load", lambda module, device: None)  # on the CPU it would
    node_context = pack("nodes.runtime").node_context
    with caplog.at_level(logging.WARNING), node_context(5.0, "auto", fusion_field="grid") as work:
        assert work.device == CPU and not work.has_gpu  # so that auto takes the preset fast
        assert work.memory_gib == 0.0
        last = host.texts[-1]
    assert "the fusion runs on the CPU" in last and "NVIDIA driver" in last and "'fast'" in last
    assert host.freed == []  # no model is unloaded for it
    assert "the fusion runs on the CPU" in caplog.text
    assert any("compiling kernels" in text for text in host.texts)
    assert "compiling kernels" not in last


def test_a_fusion_on_the_card_may_take_what_the_host_leaves(pack, host, launch, monkeypatch):
    monkeypatch.setattr(launch, "_load_kernels", lambda device, kernels, progress: None)
    with pack("nodes.runtime").node_context(5.0, "auto", fusion_field="grid") as work:
        assert work.device == CARD and work.has_gpu
        assert work.memory_gib == 19.0  # 20 free, 1 for the host itself
    assert host.freed == [(6 * GIB, CARD)]
    assert host.texts == []


def test_a_full_card_still_leaves_a_little(pack, host, launch):
    host.management.get_free_memory = lambda device: GIB // 2
    with pack("nodes.runtime").node_context(5.0, "auto", fusion_field="hashgrid") as work:
        assert work.device == CARD and work.memory_gib == 0.5


def test_the_cpu_stays_the_cpu(pack, host, launch):
    with pack("nodes.runtime").node_context(5.0, "cpu", fusion_field="grid") as work:
        assert work.device == CPU
    assert host.freed == []
    assert not any("CPU" in text for text in host.texts)


def test_warnings_stay_on_the_node_while_kernels_compile(pack, host):
    runtime = pack("nodes.runtime")
    core = logging.getLogger(pack("nova3d_core").__name__)
    with runtime.node_context() as work:
        core.getChild("fusion").warning("first")
        work.progress.update("compiling kernels", 0, 2)
        work.progress.update("compiling kernels", 1, 2)
        core.getChild("fusion").warning("second")
        work.progress.update("compiling kernels", 2, 2)
        work.progress.update("fusing", 1, 9)
    line = "compiling kernels: once for each device"
    assert host.texts == [
        "first", f"first\n{line}", f"first\nsecond\n{line}", "first\nsecond"
    ]  # fmt: skip


# B5: errors


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
def test_a_full_card_is_the_hosts_own_error_in_every_form(pack, host, context, error):
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
def test_a_full_host_unloads_nothing_and_says_what_to_lower(pack, host, error):
    with pytest.raises(RuntimeError, match="memory ran out") as caught:  # noqa: SIM117
        with pack("nodes.runtime").node_context():
            raise error
    assert not isinstance(caught.value, HostOutOfMemory)
    assert "'draft'" in str(caught.value)


def test_other_errors_stay_what_they_are(pack, host):
    error = RuntimeError("CUDA error: device-side assert triggered")
    with pytest.raises(RuntimeError) as caught, pack("nodes.runtime").node_context():
        raise error
    assert caught.value is error
