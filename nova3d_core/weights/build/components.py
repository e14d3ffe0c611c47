"""Which networks a file holds: each is built on the meta device, with a plan of its weights.

Codec and image encoder are chosen from the file in one function each.
"""

from __future__ import annotations

import re
from types import ModuleType
from typing import Any

from ...diffusion.codecs.clip import ClipEncoder, build_clip
from ...diffusion.codecs.vae import VaeCodec, build_vae
from ...diffusion.network.unet import VideoUNet
from ...errors import InputError
from ..discovery.layouts import SGM_CLIP, Identity
from ..files.read import WeightFile
from ..infer_shapes import clip_config, nova3d_metadata, unet_config, vae_config
from ..keymaps.components import open_clip_source, sgm_vae_source
from ..keymaps.unet import KeyMap, TensorSource, sgm_unet_names
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
_POSITIONS = "vision_model.embeddings.position_ids"
"""A plain count that very old files hold."""
_OTHER_MODELS = ("first_stage_model.", "conditioner.", "model_ema.", "cond_stage_model.")
"""What may stand beside a UNet whose keys have no prefix."""


def unet_component(
    file: WeightFile,
    identity: Identity,
    operations: ModuleType | type,
    attention: Any = None,
) -> NetworkComponent:
    """The UNet of a file in the sgm or diffusers layout.

    Args:
        file: with a UNet inside.
        identity: what the file is.
        operations: where the UNet's layers come from.
        attention: what computes attention; torch's own kernels if None.

    Raises:
        InputError: the UNet is incomplete, or holds what is not known here.
    """
    prefix = identity.unet_prefix or ""
    outside = () if prefix else _OTHER_MODELS
    own = [
        name.removeprefix(prefix)
        for name in file
        if name.startswith(prefix) and not (outside and name.startswith(outside))
    ]
    names = sgm_unet_names(own) if identity.layout == "diffusers" else {name: name for name in own}
    key_map = {ours: TensorSource(prefix + theirs) for theirs, ours in names.items()}
    said = nova3d_metadata(file.header.metadata, str(file.path)).get("unet", {})
    shapes = {name: file.shapes[source.name] for name, source in key_map.items()}
    config = unet_config(shapes, said, str(file.path))
    unet = VideoUNet(config, operations=operations, attention=attention, device="meta")
    return _checked(NetworkComponent("UNet", unet, unet, file, key_map))


def codec_component(file: WeightFile) -> NetworkComponent:
    """The codec of a file that holds one, of whichever kind.

    Raises:
        InputError: it is incomplete, or holds what is not known here.
    """
    if has_pixel_codec(file):
        return pixel_codec_component(file)
    sgm = f"{FIRST_STAGE}decoder.conv_in.weight" in file
    return _checked(_sgm_vae(file) if sgm else _diffusers_vae(file))


def image_encoder_component(file: WeightFile) -> NetworkComponent:
    """The image encoder of a file that holds one, of whichever kind.

    Raises:
        InputError: it is incomplete, or holds what is not known here.
    """
    if has_small_encoder(file):
        return _checked(small_encoder_component(file))
    sgm = f"{SGM_CLIP}proj" in file
    prefixes = (SGM_CLIP,) if sgm else _DIFFUSERS_CLIP
    shapes = _clip_shapes(file) if sgm else file.shapes
    said = nova3d_metadata(file.header.metadata, str(file.path)).get("image_encoder", {})
    clip = build_clip(clip_config(shapes, said, str(file.path)))
    key_map = (
        clip_key_map(clip.state_dict())
        if sgm
        else {name: TensorSource(name) for name in clip.state_dict()}
    )
    left = unused_names((n for n in file if n != _POSITIONS), prefixes, key_map)
    return _checked(NetworkComponent("image encoder", ClipEncoder(clip), clip, file, key_map, left))


def clip_key_map(names: Any) -> KeyMap:
    """Where the sgm layout keeps each parameter of transformers' image encoder."""
    key_map = {}
    for name in names:
        source = open_clip_source(name)
        key_map[name] = TensorSource(SGM_CLIP + str(source.name), source.change, source.third)
    return key_map


def vae_key_map(names: Any, levels: int, encoder: str, quantised: set[str]) -> KeyMap:
    """Where the sgm layout keeps each parameter of diffusers' VAEs.

    Args:
        names: of the parameters.
        levels: the VAE's widths.
        encoder: what stands before the encoder's and quant_conv's keys.
        quantised: of quant_conv and post_quant_conv, those that the file holds; the others were
            folded into their neighbours and do nothing.
    """
    key_map = {}
    for name in names:
        half = name.split(".")[0]
        source = sgm_vae_source(name, levels)
        prefix = encoder if half in ("encoder", "quant_conv") else FIRST_STAGE
        if half in ("quant_conv", "post_quant_conv") and half not in quantised:
            key_map[name] = TensorSource(None)
        else:
            key_map[name] = TensorSource(prefix + str(source.name), source.change)
    return key_map


def _sgm_vae(file: WeightFile) -> NetworkComponent:
    """The first stage's decoder, with the encoder that made the input image's latents.

    Most checkpoints hold two encoders: one that the conditions go through, with a quant_conv, and
    the first stage's own. SV3D's have the former only, V3D's the latter.
    """
    encoders = [match[1] for name in file if (match := _CONDITION_ENCODER.fullmatch(name))]
    encoder = encoders[0] if encoders else FIRST_STAGE
    temporal = f"{FIRST_STAGE}decoder.conv_out.time_mix_conv.weight" in file
    config = vae_config(file.shapes, encoder, temporal, str(file.path))
    vae = build_vae(config)
    quantised = {
        half
        for half, prefix in (("quant_conv", encoder), ("post_quant_conv", FIRST_STAGE))
        if f"{prefix}{half}.weight" in file
    }
    key_map = vae_key_map(vae.state_dict(), len(config.block_out_channels), encoder, quantised)
    left = unused_names(file, (f"{FIRST_STAGE}decoder.", f"{encoder}encoder."), key_map)
    return NetworkComponent("VAE", VaeCodec(vae), vae, file, key_map, left)


def _diffusers_vae(file: WeightFile) -> NetworkComponent:
    temporal = "decoder.time_conv_out.weight" in file
    vae = build_vae(vae_config(file.shapes, "", temporal, str(file.path)))
    key_map = {
        name: TensorSource(name if name in file or "quant_conv." not in name else None)
        for name in vae.state_dict()
    }
    left = unused_names(file, ("encoder.", "decoder.", "quant_conv.", "post_quant_conv."), key_map)
    return NetworkComponent("VAE", VaeCodec(vae), vae, file, key_map, left)


def _clip_shapes(file: WeightFile) -> dict[str, tuple[int, ...]]:
    """The shapes that tell the image encoder's, named as in transformers."""
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
    found = file.shapes
    key_map = clip_key_map(names)
    return {
        name: source.shape(found[source.name])
        for name, source in key_map.items()
        if source.name in found
    }


def _checked(part: NetworkComponent) -> NetworkComponent:
    check_component(part)
    return part


def check_latents(unet: VideoUNet, codec: NetworkComponent) -> None:
    """Raises InputError unless the codec's latents are what the UNet paints."""
    made, config = codec.module.latent_channels, unet.config
    if (config.in_channels, config.out_channels) != (2 * made, made):
        raise InputError(
            f"the {codec.label} in {codec.file.path} makes latents of {made} numbers, the UNet "
            f"takes {config.in_channels} and paints {config.out_channels}.",
            f"Take the {codec.label} that belongs to the UNet.",
        )


def check_context(unet: VideoUNet, encoder: NetworkComponent) -> None:
    """Raises InputError unless the image encoder's embedding is what the UNet attends to."""
    made, taken = encoder.module.embed_dim, unet.config.context_dim
    if made != taken:
        raise InputError(
            f"the image encoder in {encoder.file.path} makes {made} numbers, the UNet takes "
            f"{taken}.",
            "Take the image encoder that belongs to the UNet.",
        )
