"""The codec without weights and the small image encoder, as our own files keep them.

The codec is a few numbers in the metadata; the encoder's tensors stand below `image_encoder.`.
"""

from __future__ import annotations

from typing import Any

import torch

from ...diffusion.codecs.pixels import PixelCodec
from ...diffusion.codecs.small_encoder import SmallEncoder
from ...diffusion.model import Codec, ImageEncoder
from ...errors import InputError
from ..discovery.layouts import PIXELS, SMALL_ENCODER_PREFIX
from ..files.read import WeightFile
from ..infer_shapes import nova3d_metadata
from ..keymaps.unet import TensorSource
from .load_state import NetworkComponent, unused_names


def codec_metadata(codec: Codec) -> dict[str, Any]:
    """What a file's metadata say of a codec."""
    if isinstance(codec, PixelCodec):
        return {"kind": PIXELS, **codec.settings()}
    return {"kind": "vae"}


def image_encoder_metadata(encoder: ImageEncoder) -> dict[str, Any]:
    """What a file's metadata say of an image encoder."""
    if isinstance(encoder, SmallEncoder):
        return {"kind": "small", **encoder.settings()}
    return {"kind": "clip", "heads": encoder.clip.config.num_attention_heads}


def has_pixel_codec(file: WeightFile) -> bool:
    """Whether the file's latents are pixels."""
    return _said(file).get("kind") == PIXELS


def has_small_encoder(file: WeightFile) -> bool:
    """Whether the file holds a small image encoder."""
    return f"{SMALL_ENCODER_PREFIX}stem.weight" in file


def pixel_codec_component(file: WeightFile) -> NetworkComponent:
    """The codec that the metadata describe; it needs no tensor.

    Raises:
        InputError: they describe none.
    """
    settings = {name: value for name, value in _said(file).items() if name != "kind"}
    try:
        codec = PixelCodec(**settings)
    except (TypeError, ValueError, InputError) as error:
        raise InputError(
            f"{file.path} is damaged: its metadata describe no pixel codec ({error}).",
            "Save the model again.",
        ) from error
    return NetworkComponent("codec", codec, codec, file, {})


def small_encoder_component(file: WeightFile) -> NetworkComponent:
    """The small image encoder on the meta device, with the plan of its weights.

    Raises:
        InputError: a tensor that tells its shape is missing.
    """
    widths = {}
    for name in ("stem", "head"):
        shape = file.shapes.get(f"{SMALL_ENCODER_PREFIX}{name}.weight")
        if not shape:
            raise InputError(
                f"{file.path} is incomplete: the image encoder lacks its {name}.",
                "Save the model again.",
            )
        widths[name] = shape[0]
    with torch.device("meta"):
        encoder = SmallEncoder(channels=widths["stem"], embed_dim=widths["head"])
    key_map = {name: TensorSource(SMALL_ENCODER_PREFIX + name) for name in encoder.state_dict()}
    left = unused_names(file, (SMALL_ENCODER_PREFIX,), key_map)
    return NetworkComponent("image encoder", encoder, encoder, file, key_map, left)


def _said(file: WeightFile) -> dict[str, Any]:
    said = nova3d_metadata(file.header.metadata, str(file.path)).get("codec", {})
    return said if isinstance(said, dict) else {}
