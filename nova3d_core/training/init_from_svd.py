"""NOVA3D's starting point: SVD's weights, with alignment attention that does nothing yet.

At step 0 the grown network paints in both domains exactly what SVD paints at its usual frame rate
and motion: the paper's training starts from there with nothing lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ..diffusion.families import FAMILIES
from ..diffusion.network.config import CAMERA_TASK_DIM, UNetConfig
from ..diffusion.network.embeddings import sinusoidal_embedding
from ..diffusion.network.unet import VideoUNet
from ..errors import InputError

SVD_CONDITIONS = 3
"""Frame rate, motion and noise augmentation, of which the last one stays."""


def nova3d_unet_config(base: UNetConfig) -> UNetConfig:
    """The shape of the network that grows out of an SVD of shape `base`."""
    if base.add_embed_dim % SVD_CONDITIONS or base.domains != 1:
        raise InputError(
            f"a UNet that takes {base.add_embed_dim} numbers beside the noise level in "
            f"{base.domains} domain(s) is no SVD: NOVA3D cannot grow out of it.",
            "Start from svd_xt.safetensors or svd.safetensors.",
        )
    return replace(
        base,
        domains=2,
        alignment="gta",
        camera_task_dim=CAMERA_TASK_DIM,
        add_embed_dim=base.add_embed_dim // SVD_CONDITIONS,
    )


def nova3d_from_svd(svd: VideoUNet, seed: int = 0) -> VideoUNet:
    """A network in NOVA3D's shape that starts as SVD.

    Args:
        svd: a network of SVD's family; its weights are copied.
        seed: start of what has no counterpart in SVD (the first layer of the camera's MLP).

    Raises:
        InputError: the network is no SVD.
    """
    config = nova3d_unet_config(svd.config)
    like = next(svd.parameters())
    grown = VideoUNet(config, device="meta", dtype=like.dtype)
    grown.load_state_dict(_grown_weights(svd.state_dict(), config, seed), assign=True)
    return grown


def _grown_weights(svd: Mapping[str, Tensor], config: UNetConfig, seed: int) -> dict[str, Tensor]:
    """SVD's tensors by name, and the new ones."""
    weights = {name: tensor.clone() for name, tensor in svd.items()}
    weights.update(_folded_conditions(svd, config.add_embed_dim))
    for name, tensor in svd.items():
        if ".attn1." in name:
            start = torch.zeros_like if ".to_out." in name else torch.clone
            weights[name.replace(".attn1.", ".attn_align.")] = start(tensor)
        elif ".norm1." in name and ("transformer_blocks." in name or ".time_stack." in name):
            weights[name.replace(".norm1.", ".norm_align.")] = tensor.clone()
    like = svd["time_embed.0.weight"]
    generator = torch.Generator().manual_seed(seed)
    width, numbers = config.time_embed_dim, config.camera_task_dim
    first = torch.randn(width, numbers, generator=generator) / numbers**0.5
    weights["camera_task_emb.0.weight"] = first.to(like)
    weights["camera_task_emb.0.bias"] = like.new_zeros(width)
    weights["camera_task_emb.2.weight"] = like.new_zeros(width, width)
    weights["camera_task_emb.2.bias"] = like.new_zeros(width)
    return weights


def _folded_conditions(svd: Mapping[str, Tensor], size: int) -> dict[str, Tensor]:
    """The layer of SVD's three conditions with the first two at their usual values, as a bias.

    W [e(fps), e(motion), e(augmentation)] + b = W_3 e(augmentation) + (b + W_12 [e(6), e(127)]).
    """
    weight, bias = svd["label_emb.0.0.weight"], svd["label_emb.0.0.bias"]
    usual = FAMILIES["nova3d"]
    ids = torch.tensor([float(usual.fps_id), float(usual.motion_bucket_id)], device=weight.device)
    known = sinusoidal_embedding(ids, size).flatten().double()
    folded = bias.double() + weight[:, : 2 * size].double() @ known
    return {
        "label_emb.0.0.weight": weight[:, 2 * size :].clone(),
        "label_emb.0.0.bias": folded.to(bias.dtype),
    }
