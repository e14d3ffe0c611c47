"""The original (sgm, open_clip) keys of the parameters of the VAE and the image encoder."""

from __future__ import annotations

import re

from .unet import TensorSource

_VAE_LAYERS = {
    "conv_norm_out": "norm_out",
    "time_conv_out": "conv_out.time_mix_conv",
}
_VAE_TEMPORAL_LAYERS = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
}
_VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
_CLIP_TOP_LEVEL = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.patch_embedding.weight": "conv1.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "pre_layrnorm.weight": "ln_pre.weight",
    "pre_layrnorm.bias": "ln_pre.bias",
    "post_layernorm.weight": "ln_post.weight",
    "post_layernorm.bias": "ln_post.bias",
}
_CLIP_LAYERS = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_QKV = ("q", "k", "v")


def sgm_vae_source(name: str, levels: int) -> TensorSource:
    """The sgm source of a parameter of diffusers' VAEs.

    Args:
        name: the parameter in AutoencoderKL or AutoencoderKLTemporalDecoder.
        levels: number of resolution levels; sgm counts them from the finest in both halves.

    Returns:
        The source, without the prefix that encoder, decoder or quant_conv have in the file.
    """
    half, _, rest = name.partition(".")
    if half in ("quant_conv", "post_quant_conv"):
        return TensorSource(name)
    attention = re.fullmatch(r"mid_block\.attentions\.0\.(.+)\.(weight|bias)", rest)
    if attention:
        layer = _VAE_ATTENTION.get(attention[1], attention[1])
        matrix = attention[2] == "weight" and layer != "norm"
        transform = "matrix" if matrix else "none"
        return TensorSource(f"{half}.mid.attn_1.{layer}.{attention[2]}", transform)
    stem, _, last = rest.rpartition(".")
    if stem in _VAE_LAYERS:
        return TensorSource(f"{half}.{_VAE_LAYERS[stem]}.{last}")
    block = re.fullmatch(
        r"(?:(down|up)_blocks\.(\d+)|mid_block)\.(resnets|downsamplers|upsamplers)\.(\d+)\.(.+)",
        rest,
    )
    if block is None:
        return TensorSource(name)
    direction, level, kind, index, layer = block.groups()
    if direction is None:
        return TensorSource(f"{half}.mid.block_{int(index) + 1}.{_sgm_vae_res(layer)}")
    position = int(level) if direction == "down" else levels - 1 - int(level)
    if kind == "resnets":
        return TensorSource(f"{half}.{direction}.{position}.block.{index}.{_sgm_vae_res(layer)}")
    return TensorSource(f"{half}.{direction}.{position}.{direction}sample.{layer}")


def _sgm_vae_res(layer: str) -> str:
    """The sgm key of a residual block's layer, with or without temporal layers."""
    if layer == "time_mixer.mix_factor":
        return "mix_factor"
    block, _, rest = layer.partition(".")
    if block == "temporal_res_block":
        stem, _, last = rest.partition(".")
        return f"time_stack.{_VAE_TEMPORAL_LAYERS.get(stem, stem)}.{last}"
    if block == "spatial_res_block":
        layer = rest
    return layer.replace("conv_shortcut.", "nin_shortcut.", 1)


def open_clip_source(name: str) -> TensorSource:
    """The open_clip source of a parameter of transformers' CLIPVisionModelWithProjection.

    Returns:
        The source, without open_clip's prefix `visual.`.
    """
    if name == "visual_projection.weight":
        return TensorSource("proj", "transpose")
    rest = name.removeprefix("vision_model.")
    if rest in _CLIP_TOP_LEVEL:
        return TensorSource(_CLIP_TOP_LEVEL[rest])
    layer = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", rest)
    if layer is None:
        return TensorSource(name)
    index, stem, last = layer.groups()
    block = f"transformer.resblocks.{index}"
    fused = re.fullmatch(r"self_attn\.([qkv])_proj", stem)
    if fused:
        return TensorSource(f"{block}.attn.in_proj_{last}", qkv_index=_QKV.index(fused[1]))
    return TensorSource(f"{block}.{_CLIP_LAYERS.get(stem, stem)}.{last}")
