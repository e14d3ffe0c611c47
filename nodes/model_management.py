"""A multi-view model under the host's model management."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..nova3d_core.diffusion.model import CODEC, IMAGE_ENCODER, PARTS, UNET

if TYPE_CHECKING:
    from ..nova3d_core.diffusion.model import MultiviewModel

GIB = 1 << 30
SUPPORTED = (torch.float16, torch.bfloat16, torch.float32)
"""What the UNet's weights may be kept in, in the order in which SVD likes them."""
MOST_MEMORY_GIB = 8.0
LEAST_MEMORY_GIB = 0.5
"""Bounds of what a run may take beside the weights; more brings no speed."""


@dataclass(eq=False)
class HostedModel:
    """A model whose parts the host moves about; held by the socket, and by nothing else."""

    model: MultiviewModel
    """Its parts, on the CPU until they are brought."""
    patchers: dict[str, Any]
    """The host's ModelPatcher of each part that has weights. The others stay out of the host's
    hands: its memory maps refuse a size of 0."""
    devices: dict[str, torch.device]
    """Where each part runs."""
    dtype: torch.dtype
    """What the UNet computes in."""

    def memory_gib(self) -> float:
        """What a run may take beside the weights, so that the UNet need not be streamed for it."""
        from comfy import model_management

        patcher = self.patchers[UNET]
        device = patcher.load_device
        if model_management.is_device_cpu(device):
            bytes_left = model_management.get_free_memory(device) / 2
        else:
            bytes_left = (
                model_management.get_total_memory(device)
                - model_management.minimum_inference_memory()
                - 1.1 * patcher.model_size()
            )
        return min(max(bytes_left / GIB, LEAST_MEMORY_GIB), MOST_MEMORY_GIB)


class Held(nn.Module):
    """A part of a model as the host wants it: it hangs attributes of its own on what it moves.

    The part itself stays as it was, so that it can be copied.
    """

    def __init__(self, part: nn.Module):
        super().__init__()
        self.part = part


_HELD = {part: type(f"NOVA3D_{part}", (Held,), {}) for part in PARTS}
"""The host's log names models by their classes."""


def hosted(model: MultiviewModel, dtype: torch.dtype) -> HostedModel:
    """Puts the parts of a model, on the CPU, under the host's management.

    Args:
        model: its UNet is built of `host_operations`.
        dtype: what the UNet computes in.
    """
    from comfy import model_management, model_patcher

    # rebound when the host starts, so asked for now
    kind = getattr(model_patcher, "CoreModelPatcher", model_patcher.ModelPatcher)
    offload = {
        UNET: model_management.unet_offload_device(),
        CODEC: model_management.vae_offload_device(),
        IMAGE_ENCODER: model_management.text_encoder_offload_device(),
    }
    load = {
        UNET: model_management.get_torch_device(),
        CODEC: _vae_device(),
        IMAGE_ENCODER: model_management.get_torch_device(),
    }
    patchers = {
        part: kind(
            _HELD[part](model.part(part)), load_device=load[part], offload_device=offload[part]
        )
        for part in PARTS
        if _has_weights(model.part(part))
    }
    return HostedModel(model, patchers, load, dtype)


def _has_weights(part: nn.Module) -> bool:
    return next(part.parameters(), None) is not None


def _vae_device() -> torch.device:
    """Where the host runs VAEs: the CPU with --cpu-vae."""
    from comfy import model_management

    device_of = getattr(model_management, "vae_device", model_management.get_torch_device)
    return device_of()


@dataclass(eq=False)
class HostPlacement:
    """Brings each part to where the host computes; see `diffusion.model.Placement`."""

    hosted: HostedModel

    def bring(self, part: str, activation_bytes: int) -> tuple[torch.device, torch.dtype]:
        """Asks the host for the part, and for so much memory beside it.

        The UNet may come in pieces, which its layers then fetch themselves. The other parts are
        made of plain layers, which cannot, so they come whole.
        """
        from comfy import model_management

        if part not in self.hosted.patchers:  # a codec of pixels
            return self.hosted.devices[part], torch.float32
        patcher = self.hosted.patchers[part]
        whole = part != UNET
        model_management.load_models_gpu(
            [patcher], memory_required=activation_bytes, force_full_load=whole
        )
        if not whole:
            return patcher.load_device, self.hosted.dtype
        module = self.hosted.model.part(part)
        weight = next(module.parameters())
        if weight.device != patcher.load_device:  # some hosts leave plain layers where they are
            module.to(patcher.load_device)
        return patcher.load_device, weight.dtype


def host_operations() -> type:
    """The host's layers, which compute in the format of their input and can stream their weights.

    Where the host loads lazily, its own Linear has no weights before they are loaded. Ours says
    that it loads by itself, and then has them, on the meta device, as the loader expects.
    """
    from comfy import ops

    class Linear(ops.manual_cast.Linear):
        def _load_from_state_dict(self, *given: Any) -> None:
            nn.Linear._load_from_state_dict(self, *given)

    return type("Operations", (ops.manual_cast,), {"Linear": Linear})


def host_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attention by the kernels that the user chose for the host: q, k, v (N, L, C) -> (N, L, C).

    A cancel takes effect here, as one step of a large model takes minutes on a CPU.
    """
    from comfy import model_management
    from comfy.ldm.modules import attention

    model_management.throw_exception_if_processing_interrupted()
    return attention.optimized_attention(q, k, v, heads, attn_precision=torch.float32)


def unet_dtype(wanted: torch.dtype | None, own: torch.dtype, parameters: int) -> torch.dtype:
    """The number format to keep the UNet's weights in.

    Args:
        wanted: the user's choice; the host's rules if None.
        own: the file's.
        parameters: numbers in the file.
    """
    from comfy import model_management

    if wanted is not None:
        return wanted
    device = model_management.get_torch_device()
    chosen = model_management.unet_dtype(
        device=device, model_params=parameters, supported_dtypes=list(SUPPORTED), weight_dtype=own
    )
    if chosen in SUPPORTED:
        return chosen
    # a format that the host was told to use, and in which our layers cannot compute
    return torch.float32 if chosen.itemsize > 4 else torch.float16


def compute_dtype(weights: torch.dtype) -> torch.dtype:
    """What the UNet computes in, by the host's rules, with weights in this format."""
    from comfy import model_management

    device = model_management.get_torch_device()
    cast = model_management.unet_manual_cast(weights, device, list(SUPPORTED))
    return weights if cast is None else cast


def other_dtypes() -> dict[str, torch.dtype]:
    """Number formats of the parts that are made of plain layers, by the host's rules."""
    from comfy import model_management

    chosen = {CODEC: torch.float32, IMAGE_ENCODER: torch.float32}
    device, vae_device = model_management.get_torch_device(), _vae_device()
    if not model_management.is_device_cpu(vae_device):
        chosen[CODEC] = model_management.vae_dtype(vae_device, [torch.bfloat16, torch.float32])
    if not model_management.is_device_cpu(device):
        encoder = model_management.text_encoder_dtype(device)
        chosen[IMAGE_ENCODER] = encoder if encoder in SUPPORTED else torch.float16
    return chosen
