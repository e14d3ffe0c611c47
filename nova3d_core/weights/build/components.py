"""Builds the networks of a file on the meta device, each with the key map of its weights.

`codec_component` and `image_encoder_component` choose the kind that the file holds.
"""

from __future__ import annotations

import re
from dataclasses import replace
from types import ModuleType
from typing import Any

from ...diffusion.codecs.clip import ClipEncoder, OpenAiClipEncoder, build_clip
from ...diffusion.codecs.vae import VaeCodec, build_vae
from ...diffusion.network.feedback_unet import FeedbackUNet
from ...diffusion.network.token_transformer import TokenTransformer
from ...diffusion.network.unet import VideoUNet
from ...diffusion.network.unet_2d import MultiviewUNet2D
from ...errors import InputError
from ..discovery.layouts import SGM_CLIP, Identity
from ..discovery.layouts_2d import FAMILY_BY_CLASS_DIM, current_name
from ..files.read import WeightFile
from ..infer_shapes import (
    clip_config,
    nova3d_metadata,
    token_transformer_config,
    unet_2d_config,
    unet_config,
    vae_config,
)
from ..keymaps.components import open_clip_source, sgm_vae_source
from ..keymaps.unet import KeyMap, TensorSource, ouroboros3d_unet_names, sgm_unet_names
from .load_state import NetworkComponent, check_component, unused_names
from .small_components import (
    has_pixel_codec,
    has_small_encoder,
    pixel_codec_component,
    small_encoder_component,
)

FIRST_STAGE = "first_stage_model."
_CONDITION_ENCODER = re.compile(r"(conditioner\.embedders\.\d+\.encoder\.)encoder\.conv_in\.weight")
_DIFFUSERS_CLIP = ("vision_model.", "visual_projection.")
_OLD_VAE_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
_POSITION_IDS = "vision_model.embeddings.position_ids"
"""A buffer 0, 1, 2, ... that old transformers versions saved."""
_OTHER_PREFIXES = ("first_stage_model.", "conditioner.", "model_ema.", "cond_stage_model.")
"""Prefixes of other parts in a file whose UNet keys have no prefix."""
_PATCH_EMBED = "patch_embed.weight"
"""The first layer of a token transformer."""


def unet_component(
    file: WeightFile,
    identity: Identity,
    operations: ModuleType | type,
    attention: Any = None,
) -> NetworkComponent:
    """The UNet of a file in the sgm or diffusers layout.

    Args:
        file: an open file that holds a UNet.
        identity: of the file.
        operations: namespace of layer classes, as in `diffusion.network.operations`.
        attention: attention function; torch's scaled_dot_product_attention if None.

    Raises:
        InputError: keys are missing or unexpected, or shapes differ.
    """
    if identity.family in FAMILY_BY_CLASS_DIM.values():
        return _unet_2d_component(file, identity, operations, attention)
    key_map = _unet_key_map(file, identity)
    metadata = nova3d_metadata(file.header.metadata, str(file.path)).get("unet", {})
    shapes = {name: file.shapes[source.name] for name, source in key_map.items()}
    if _PATCH_EMBED in shapes:
        config = token_transformer_config(metadata, str(file.path))
        network = TokenTransformer(config, operations, attention, device="meta")
        return _validate(NetworkComponent("transformer", network, network, file, key_map))
    config = unet_config(shapes, metadata, str(file.path))
    unet_class = FeedbackUNet if config.feedback_factor else VideoUNet
    unet = unet_class(config, operations=operations, attention=attention, device="meta")
    return _validate(NetworkComponent("UNet", unet, unet, file, key_map))


def _unet_key_map(file: WeightFile, identity: Identity) -> KeyMap:
    """The source of each parameter of a video UNet."""
    if identity.family == "ouroboros3d" and identity.layout == "diffusers":
        names = ouroboros3d_unet_names(file)
        return {own: TensorSource(public) for public, own in names.items()}
    prefix = identity.unet_prefix or ""
    excluded = () if prefix else _OTHER_PREFIXES
    own = [
        name.removeprefix(prefix)
        for name in file
        if name.startswith(prefix) and not (excluded and name.startswith(excluded))
    ]
    names = sgm_unet_names(own) if identity.layout == "diffusers" else {name: name for name in own}
    return {sgm: TensorSource(prefix + own_name) for own_name, sgm in names.items()}


def _unet_2d_component(
    file: WeightFile, identity: Identity, operations: ModuleType | type, attention: Any
) -> NetworkComponent:
    """The UNet of Wonder3D or Wonder3D++, whose keys are those of our network."""
    prefix = identity.unet_prefix or ""
    key_map = {
        current_name(name.removeprefix(prefix)): TensorSource(name)
        for name in file
        if name.startswith(prefix)
    }
    metadata = nova3d_metadata(file.header.metadata, str(file.path)).get("unet", {})
    shapes = {name: file.shapes[source.name] for name, source in key_map.items()}
    config = unet_2d_config(shapes, metadata, str(file.path))
    unet = MultiviewUNet2D(config, operations=operations, attention=attention, device="meta")
    return _validate(NetworkComponent("UNet", unet, unet, file, key_map))


def codec_component(file: WeightFile) -> NetworkComponent:
    """The codec of a file: a VAE in either layout, or a pixel codec.

    Raises:
        InputError: keys are missing or unexpected, or shapes differ.
    """
    if has_pixel_codec(file):
        return pixel_codec_component(file)
    sgm = f"{FIRST_STAGE}decoder.conv_in.weight" in file
    return _validate(_sgm_vae(file) if sgm else _diffusers_vae(file))


def image_encoder_component(file: WeightFile, family: str = "svd") -> NetworkComponent:
    """The image encoder of a file: CLIP in either layout, or the small encoder.

    Args:
        file: an open file that holds one.
        family: of the model; Wonder3D's encoder is OpenAI's CLIP, the others' LAION's.

    Raises:
        InputError: keys are missing or unexpected, or shapes differ.
    """
    if has_small_encoder(file):
        return _validate(small_encoder_component(file))
    sgm = f"{SGM_CLIP}proj" in file
    prefixes = (SGM_CLIP,) if sgm else _DIFFUSERS_CLIP
    shapes = _clip_shapes(file) if sgm else file.shapes
    metadata = nova3d_metadata(file.header.metadata, str(file.path)).get("image_encoder", {})
    encoder_class = OpenAiClipEncoder if family in FAMILY_BY_CLASS_DIM.values() else ClipEncoder
    config = clip_config(shapes, metadata, str(file.path))
    clip = build_clip(replace(config, hidden_act=encoder_class.hidden_act))
    key_map = (
        clip_key_map(clip.state_dict())
        if sgm
        else {name: TensorSource(name) for name in clip.state_dict()}
    )
    unused = unused_names((n for n in file if n != _POSITION_IDS), prefixes, key_map)
    encoder = encoder_class(clip)
    return _validate(NetworkComponent("image encoder", encoder, clip, file, key_map, unused))


def clip_key_map(names: Any) -> KeyMap:
    """The sgm key map of transformers' CLIPVisionModelWithProjection."""
    key_map = {}
    for name in names:
        source = open_clip_source(name)
        key_map[name] = replace(source, name=SGM_CLIP + str(source.name))
    return key_map


def vae_key_map(names: Any, levels: int, encoder: str, quant_layers: set[str]) -> KeyMap:
    """The sgm key map of diffusers' VAEs.

    Args:
        names: of the parameters.
        levels: number of the VAE's resolution levels.
        encoder: prefix of the keys of the encoder and of quant_conv.
        quant_layers: those of quant_conv and post_quant_conv that the file holds; the others
            are identities, because they were folded into their neighbours.
    """
    key_map = {}
    for name in names:
        half = name.split(".")[0]
        source = sgm_vae_source(name, levels)
        prefix = encoder if half in ("encoder", "quant_conv") else FIRST_STAGE
        if half in ("quant_conv", "post_quant_conv") and half not in quant_layers:
            key_map[name] = TensorSource(None)
        else:
            key_map[name] = replace(source, name=prefix + str(source.name))
    return key_map


def _sgm_vae(file: WeightFile) -> NetworkComponent:
    """The first stage's decoder, with the encoder of the conditioning image's latents.

    Most checkpoints hold two encoders: the conditioner's, with a quant_conv, and the first
    stage's own. SV3D's have only the former, V3D's only the latter.
    """
    encoders = [match[1] for name in file if (match := _CONDITION_ENCODER.fullmatch(name))]
    encoder = encoders[0] if encoders else FIRST_STAGE
    temporal = f"{FIRST_STAGE}decoder.conv_out.time_mix_conv.weight" in file
    config = vae_config(file.shapes, encoder, temporal, str(file.path))
    vae = build_vae(config)
    quant_layers = {
        half
        for half, prefix in (("quant_conv", encoder), ("post_quant_conv", FIRST_STAGE))
        if f"{prefix}{half}.weight" in file
    }
    key_map = vae_key_map(vae.state_dict(), len(config.block_out_channels), encoder, quant_layers)
    unused = unused_names(file, (f"{FIRST_STAGE}decoder.", f"{encoder}encoder."), key_map)
    return NetworkComponent("VAE", VaeCodec(vae), vae, file, key_map, unused)


def _diffusers_vae(file: WeightFile) -> NetworkComponent:
    temporal = "decoder.time_conv_out.weight" in file
    vae = build_vae(vae_config(file.shapes, "", temporal, str(file.path)))
    key_map = {name: _diffusers_vae_source(name, file) for name in vae.state_dict()}
    unused = unused_names(
        file, ("encoder.", "decoder.", "quant_conv.", "post_quant_conv."), key_map
    )
    return NetworkComponent("VAE", VaeCodec(vae), vae, file, key_map, unused)


def _diffusers_vae_source(name: str, file: WeightFile) -> TensorSource:
    """The source of a VAE parameter; files written before diffusers 0.18 name attention layers so:
    query, key, value, proj_attn."""
    if name in file:
        return TensorSource(name)
    if "quant_conv." in name:
        return TensorSource(None)
    for new, old in _OLD_VAE_ATTENTION.items():
        if f".{new}." in name and (renamed := name.replace(f".{new}.", f".{old}.")) in file:
            return TensorSource(renamed)
    return TensorSource(name)


def _clip_shapes(file: WeightFile) -> dict[str, tuple[int, ...]]:
    """The shapes that determine the image encoder's config, keyed as in transformers."""
    blocks = [
        int(match[1])
        for name in file
        if (match := re.match(re.escape(SGM_CLIP) + r"transformer\.resblocks\.(\d+)\.", name))
    ]
    names = [
        "visual_projection.weight",
        "vision_model.embeddings.patch_embedding.weight",
        "vision_model.embeddings.position_embedding.weight",
        *(f"vision_model.encoder.layers.{i}.mlp.fc1.weight" for i in sorted(set(blocks))),
    ]
    shapes = file.shapes
    key_map = clip_key_map(names)
    return {
        name: source.parameter_shape(shapes[source.name])
        for name, source in key_map.items()
        if source.name in shapes
    }


def _validate(component: NetworkComponent) -> NetworkComponent:
    check_component(component)
    return component


def check_latents(
    unet: VideoUNet | MultiviewUNet2D, codec: NetworkComponent, features: int = 0
) -> None:
    """Raises InputError unless the UNet's channels match those of the codec's latents.

    Args:
        unet: its input channels are those of two latents and the features.
        codec: provides the latents.
        features: channels of a conditioner.
    """
    channels, config = codec.module.latent_channels, unet.config
    if (config.in_channels, config.out_channels) != (2 * channels + features, channels):
        raise InputError(
            f"the {codec.label} in {codec.file.path} has latents of {channels} channels, but the "
            f"UNet has {config.in_channels} input and {config.out_channels} output channels.",
            f"Use the {codec.label} that belongs to the UNet.",
        )


def check_context(unet: VideoUNet | MultiviewUNet2D, encoder: NetworkComponent) -> None:
    """Raises InputError unless the image embedding has the UNet's cross-attention width."""
    channels, expected = encoder.module.embed_dim, unet.config.context_dim
    if channels != expected:
        raise InputError(
            f"the image encoder in {encoder.file.path} has embeddings of {channels} channels, the "
            f"UNet expects {expected}.",
            "Use the image encoder that belongs to the UNet.",
        )
