"""Initialises the UNets of other families from SVD's weights.

NOVA3D's alignment attention starts as the identity, and SV3D's camera conditions have no effect. At
step 0 all networks give exactly SVD's output at their family's frame rate and motion bucket, NOVA3D
in both domains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ..diffusion.families import FAMILIES, Family
from ..diffusion.network.config import CAMERA_TASK_DIM, UNetConfig
from ..diffusion.network.embeddings import sinusoidal_embedding
from ..diffusion.network.unet import VideoUNet
from ..errors import InputError

SVD_CONDITIONS = 3
"""Frame rate, motion bucket and noise augmentation, of which NOVA3D and SV3D keep only the last."""
FROM_SVD = ("nova3d", "sv3d_u", "sv3d_p", "v3d")
"""Families that can be initialised from SVD."""


def unet_from_svd(svd: VideoUNet, family: Family, seed: int = 0) -> VideoUNet:
    """The UNet of a family in `FROM_SVD`, initialised from SVD.

    Args:
        svd: an SVD UNet; its weights are copied.
        family: the family to train.
        seed: random seed of layers without a counterpart in SVD.

    Raises:
        InputError: the network is not an SVD.
    """
    if family.name == "nova3d":
        return nova3d_from_svd(svd, seed)
    size = _embed_size(svd.config)
    if family.name == "v3d":  # SVD's own architecture
        return _with_condition_layer(svd, svd.state_dict()["label_emb.0.0.weight"], None)
    folded = _fold_conditions(svd.state_dict(), size)
    weight = folded["label_emb.0.0.weight"]
    if family.name == "sv3d_p":
        weight = _with_angle_columns(weight, size)
    return _with_condition_layer(svd, weight, folded["label_emb.0.0.bias"])


def sv3d_p_from_u(unet: VideoUNet) -> VideoUNet:
    """SV3D p's UNet, initialised from SV3D u's: the angles have no effect at first."""
    weight = unet.state_dict()["label_emb.0.0.weight"]
    return _with_condition_layer(unet, _with_angle_columns(weight, weight.shape[1]), None)


def _with_angle_columns(weight: Tensor, size: int) -> Tensor:
    """A layer (E, A) with zero columns for two angles of twice the size of a scalar's embedding."""
    return torch.cat([weight, weight.new_zeros(len(weight), 4 * size)], dim=1)


def _with_condition_layer(unet: VideoUNet, weight: Tensor, bias: Tensor | None) -> VideoUNet:
    """A copy of a UNet with another first layer of the added conditions."""
    state = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    state["label_emb.0.0.weight"] = weight.clone()
    if bias is not None:
        state["label_emb.0.0.bias"] = bias.clone()
    config = replace(unet.config, add_embed_dim=weight.shape[1])
    result = VideoUNet(config, device="meta", dtype=weight.dtype)
    result.load_state_dict(state, assign=True)
    return result


def _embed_size(base: UNetConfig) -> int:
    """Length of the embedding of one of SVD's conditions."""
    if base.add_embed_dim % SVD_CONDITIONS or base.domains != 1:
        raise InputError(
            f"a UNet with added embeddings of {base.add_embed_dim} channels and {base.domains} "
            "domain(s) is not an SVD; no other model can be initialised from it.",
            "Start from svd_xt.safetensors or svd.safetensors.",
        )
    return base.add_embed_dim // SVD_CONDITIONS


def nova3d_unet_config(base: UNetConfig) -> UNetConfig:
    """Architecture of the NOVA3D UNet that is initialised from an SVD UNet `base`."""
    size = _embed_size(base)
    return replace(
        base,
        domains=2,
        alignment="gta",
        camera_task_dim=CAMERA_TASK_DIM,
        add_embed_dim=size,
    )


def nova3d_from_svd(svd: VideoUNet, seed: int = 0) -> VideoUNet:
    """A NOVA3D UNet that is initialised from SVD.

    Args:
        svd: an SVD UNet; its weights are copied.
        seed: random seed of the layer without a counterpart in SVD, the first of the camera MLP.

    Raises:
        InputError: the network is not an SVD.
    """
    config = nova3d_unet_config(svd.config)
    dtype = next(svd.parameters()).dtype
    nova3d = VideoUNet(config, device="meta", dtype=dtype)
    nova3d.load_state_dict(_nova3d_weights(svd.state_dict(), config, seed), assign=True)
    return nova3d


def _nova3d_weights(svd: Mapping[str, Tensor], config: UNetConfig, seed: int) -> dict[str, Tensor]:
    """SVD's weights plus the new ones, by name."""
    weights = {name: tensor.clone() for name, tensor in svd.items()}
    weights.update(_fold_conditions(svd, config.add_embed_dim))
    for name, tensor in svd.items():
        if ".attn1." in name:
            initialise = torch.zeros_like if ".to_out." in name else torch.clone
            weights[name.replace(".attn1.", ".attn_align.")] = initialise(tensor)
        elif ".norm1." in name and ("transformer_blocks." in name or ".time_stack." in name):
            weights[name.replace(".norm1.", ".norm_align.")] = tensor.clone()
    like = svd["time_embed.0.weight"]
    generator = torch.Generator().manual_seed(seed)
    width, task_dim = config.time_embed_dim, config.camera_task_dim
    first = torch.randn(width, task_dim, generator=generator) / task_dim**0.5
    weights["camera_task_emb.0.weight"] = first.to(like)
    weights["camera_task_emb.0.bias"] = like.new_zeros(width)
    weights["camera_task_emb.2.weight"] = like.new_zeros(width, width)
    weights["camera_task_emb.2.bias"] = like.new_zeros(width)
    return weights


def _fold_conditions(svd: Mapping[str, Tensor], size: int) -> dict[str, Tensor]:
    """Folds SVD's frame rate and motion conditions, at their default values, into the bias.

    W [e(fps), e(motion), e(augmentation)] + b = W_3 e(augmentation) + (b + W_12 [e(6), e(127)]).
    """
    weight, bias = svd["label_emb.0.0.weight"], svd["label_emb.0.0.bias"]
    family = FAMILIES["nova3d"]
    ids = torch.tensor([float(family.fps_id), float(family.motion_bucket_id)], device=weight.device)
    embeds = sinusoidal_embedding(ids, size).flatten().double()
    folded = bias.double() + weight[:, : 2 * size].double() @ embeds
    return {
        "label_emb.0.0.weight": weight[:, 2 * size :].clone(),
        "label_emb.0.0.bias": folded.to(bias.dtype),
    }
