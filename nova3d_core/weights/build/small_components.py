"""The pixel codec and the small image encoder of our own files.

The codec has no weights, only settings in the metadata; the encoder's keys start with
`image_encoder.`.
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
    """A codec's entry in a file's metadata."""
    if isinstance(codec, PixelCodec):
        return {"kind": PIXELS, **codec.settings()}
    return {"kind": "vae"}


def image_encoder_metadata(encoder: ImageEncoder) -> dict[str, Any]:
    """An image encoder's entry in a file's metadata."""
    if isinstance(encoder, SmallEncoder):
        return {"kind": "small", **encoder.settings()}
    return {"kind": "clip", "heads": encoder.clip.config.num_attention_heads}


def has_pixel_codec(file: WeightFile) -> bool:
    """Whether the file's codec is a pixel codec."""
    return _stored_codec(file).get("kind") == PIXELS


def has_small_encoder(file: WeightFile) -> bool:
    """Whether the file holds a small image encoder."""
    return f"{SMALL_ENCODER_PREFIX}stem.weight" in file


def pixel_codec_component(file: WeightFile) -> NetworkComponent:
    """The pixel codec of the metadata, which has no tensors.

    Raises:
        InputError: the metadata contains no valid settings.
    """
    settings = {name: value for name, value in _stored_codec(file).items() if name != "kind"}
    try:
        codec = PixelCodec(**settings)
    except (TypeError, ValueError, InputError) as error:
        raise InputError(
            f"{file.path} is damaged: its metadata contains no valid pixel codec ({error}).",
            "Save the model again.",
        ) from error
    return NetworkComponent("codec", codec, codec, file, {})


def small_encoder_component(file: WeightFile) -> NetworkComponent:
    """The small image encoder on the meta device, with the key map of its weights.

    Raises:
        InputError: a tensor that its config is inferred from is missing.
    """
    widths = {}
    for name in ("stem", "head"):
        shape = file.shapes.get(f"{SMALL_ENCODER_PREFIX}{name}.weight")
        if not shape:
            raise InputError(
                f"{file.path} is incomplete: the image encoder has no {name}.",
                "Save the model again.",
            )
        widths[name] = shape[0]
    with torch.device("meta"):
        encoder = SmallEncoder(channels=widths["stem"], embed_dim=widths["head"])
    key_map = {name: TensorSource(SMALL_ENCODER_PREFIX + name) for name in encoder.state_dict()}
    unused = unused_names(file, (SMALL_ENCODER_PREFIX,), key_map)
    return NetworkComponent("image encoder", encoder, encoder, file, key_map, unused)


def _stored_codec(file: WeightFile) -> dict[str, Any]:
    stored = nova3d_metadata(file.header.metadata, str(file.path)).get("codec", {})
    return stored if isinstance(stored, dict) else {}
