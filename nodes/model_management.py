"""Bridge between multi-view models and ComfyUI's model management (ModelPatcher)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..nova3d_core.diffusion.model import CODEC, CONDITIONER, IMAGE_ENCODER, PARTS, UNET
from ..nova3d_core.reconstruction.config import RECONSTRUCTION

if TYPE_CHECKING:
    from ..nova3d_core.diffusion.model import MultiviewModel
    from ..nova3d_core.reconstruction.model import ReconstructionModel

GIB = 1 << 30
UNET_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
"""Supported dtypes of the UNet's weights, in SVD's order of preference."""
MIN_ACTIVATION_BYTES = GIB // 2
"""Lower bound of the memory for activations: ComfyUI offloads weights to provide it."""


@dataclass(eq=False)
class ManagedModel:
    """A model whose parts ComfyUI moves between devices; only its socket value refers to it."""

    model: MultiviewModel | ReconstructionModel
    """Its parts, on the CPU until they are loaded to a device."""
    patchers: dict[str, Any]
    """ModelPatcher of each part that has weights. Parts without weights are not registered:
    ComfyUI's memory mapping rejects a size of 0."""
    devices: dict[str, torch.device]
    """Device on which each part runs."""
    dtype: torch.dtype
    """Dtype in which the UNet, or the reconstruction network, computes."""


class ManagedModule(nn.Module):
    """Wrapper of a model part, to which ComfyUI attaches attributes of its own.

    The part itself stays unchanged and can still be copied.
    """

    def __init__(self, part: nn.Module):
        super().__init__()
        self.part = part


STREAMED_PARTS = (UNET, RECONSTRUCTION)
"""Parts that consist of the host's layers, which stream weights that do not fit on the device."""
_MANAGED_CLASSES = {
    part: type(f"NOVA3D_{part}", (ManagedModule,), {})
    for part in (*PARTS, CONDITIONER, RECONSTRUCTION)
}
"""One subclass per part, because ComfyUI's log shows the class names."""


def manage_model(model: MultiviewModel, dtype: torch.dtype) -> ManagedModel:
    """Registers the parts of a model, on the CPU, with ComfyUI's model management.

    Args:
        model: its UNet is built from `host_operations`.
        dtype: dtype in which the UNet computes.
    """
    from comfy import model_management

    offload_devices = dict.fromkeys(model.parts, model_management.unet_offload_device()) | {
        CODEC: model_management.vae_offload_device(),
        IMAGE_ENCODER: model_management.text_encoder_offload_device(),
    }
    load_devices = dict.fromkeys(model.parts, model_management.get_torch_device())
    load_devices[CODEC] = _vae_device()
    patchers = {
        part: _patcher(part, model.part(part), load_devices[part], offload_devices[part])
        for part in model.parts
        if _has_weights(model.part(part))
    }
    return ManagedModel(model, patchers, load_devices, dtype)


def manage_reconstruction(model: ReconstructionModel, dtype: torch.dtype) -> ManagedModel:
    """Registers a reconstruction model; arguments as in `manage_model`."""
    from comfy import model_management

    device = model_management.get_torch_device()
    part, offload = model.part(RECONSTRUCTION), model_management.unet_offload_device()
    patchers = {RECONSTRUCTION: _patcher(RECONSTRUCTION, part, device, offload)}
    return ManagedModel(model, patchers, {RECONSTRUCTION: device}, dtype)


def _patcher(name: str, part: nn.Module, load: torch.device, offload: torch.device) -> Any:
    """ComfyUI's ModelPatcher of a part."""
    from comfy import model_patcher

    # looked up here because ComfyUI rebinds the name at start-up
    patcher_class = getattr(model_patcher, "CoreModelPatcher", model_patcher.ModelPatcher)
    return patcher_class(_MANAGED_CLASSES[name](part), load_device=load, offload_device=offload)


def _has_weights(part: nn.Module) -> bool:
    return next(part.parameters(), None) is not None


def _vae_device() -> torch.device:
    """ComfyUI's device for VAEs: the CPU with --cpu-vae."""
    from comfy import model_management

    get_device = getattr(model_management, "vae_device", model_management.get_torch_device)
    return get_device()


@dataclass(eq=False)
class HostModelPlacement:
    """Loads parts through ComfyUI's model management; see `diffusion.model.Placement`."""

    managed: ManagedModel

    def activation_budget(self, part: str) -> int:
        """Memory of the device that the part's own weights leave free, in bytes.

        ComfyUI offloads other models where needed, including the other parts of this one.
        """
        from comfy import model_management

        device = self.managed.devices[part]
        if model_management.is_device_cpu(device):
            return max(int(model_management.get_free_memory(device) / 2), MIN_ACTIVATION_BYTES)
        patcher = self.managed.patchers.get(part)
        left = (
            model_management.get_total_memory(device)
            - model_management.minimum_inference_memory()
            - (0 if patcher is None else 1.1 * patcher.model_size())
        )
        return max(int(left), MIN_ACTIVATION_BYTES)

    def load_to_device(self, part: str, activation_bytes: int) -> tuple[torch.device, torch.dtype]:
        """Loads a part and reserves memory for its activations.

        Parts of the host's layers may be loaded partially: they stream the remaining weights. The
        others consist of plain PyTorch layers, which cannot stream, and are loaded completely.
        """
        from comfy import model_management

        if part not in self.managed.patchers:  # a pixel codec has no weights
            return self.managed.devices[part], torch.float32
        patcher = self.managed.patchers[part]
        load_fully = part not in STREAMED_PARTS
        model_management.load_models_gpu(
            [patcher], memory_required=activation_bytes, force_full_load=load_fully
        )
        if not load_fully:
            return patcher.load_device, self.managed.dtype
        module = self.managed.model.part(part)
        weight = next(module.parameters())
        if weight.device != patcher.load_device:  # some versions do not move plain layers
            module.to(patcher.load_device)
        return patcher.load_device, weight.dtype


def host_operations() -> type:
    """ComfyUI's layers: they compute in the dtype of their input and can stream their weights.

    Where ComfyUI loads lazily, its Linear has no weights before loading. The subclass loads by
    itself and has weights on the meta device, as the core's loader requires.
    """
    from comfy import ops

    class LoadableLinear(ops.manual_cast.Linear):
        def _load_from_state_dict(self, *args: Any) -> None:
            nn.Linear._load_from_state_dict(self, *args)

    return type("Operations", (ops.manual_cast,), {"Linear": LoadableLinear})


def host_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attention by ComfyUI's selected kernel: q, k, v (N, L, C) -> (N, L, C).

    Checks for a cancel, because one step of a large model takes minutes on a CPU.
    """
    from comfy import model_management
    from comfy.ldm.modules import attention

    model_management.throw_exception_if_processing_interrupted()
    return attention.optimized_attention(q, k, v, heads, attn_precision=torch.float32)


def unet_dtype(
    requested: torch.dtype | None, file_dtype: torch.dtype, parameter_count: int
) -> torch.dtype:
    """Dtype in which the UNet's weights are kept.

    Args:
        requested: the user's choice; None applies ComfyUI's rules.
        file_dtype: dtype of the checkpoint.
        parameter_count: number of values in the checkpoint.
    """
    from comfy import model_management

    if requested is not None:
        return requested
    chosen = model_management.unet_dtype(
        device=model_management.get_torch_device(),
        model_params=parameter_count,
        supported_dtypes=list(UNET_DTYPES),
        weight_dtype=file_dtype,
    )
    if chosen in UNET_DTYPES:
        return chosen
    # a dtype from ComfyUI's command line in which our layers cannot compute, such as fp8 or fp64
    return torch.float32 if chosen.itemsize > 4 else torch.float16


def compute_dtype(weight_dtype: torch.dtype) -> torch.dtype:
    """Dtype in which the UNet computes, by ComfyUI's rules for weights of this dtype."""
    from comfy import model_management

    device = model_management.get_torch_device()
    cast = model_management.unet_manual_cast(weight_dtype, device, list(UNET_DTYPES))
    return weight_dtype if cast is None else cast


def plain_part_dtypes() -> dict[str, torch.dtype]:
    """Dtypes of the parts that consist of plain PyTorch layers, by ComfyUI's rules."""
    from comfy import model_management

    dtypes = {CODEC: torch.float32, IMAGE_ENCODER: torch.float32}
    device, vae_device = model_management.get_torch_device(), _vae_device()
    if not model_management.is_device_cpu(vae_device):
        dtypes[CODEC] = model_management.vae_dtype(vae_device, [torch.bfloat16, torch.float32])
    if not model_management.is_device_cpu(device):
        encoder_dtype = model_management.text_encoder_dtype(device)
        dtypes[IMAGE_ENCODER] = encoder_dtype if encoder_dtype in UNET_DTYPES else torch.float16
    return dtypes
