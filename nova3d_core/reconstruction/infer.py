"""Infers LGM's config from the tensor shapes of a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..weights.infer_shapes import (
    leading_indices,
    metadata_int,
    required_shape,
    translate_shape_errors,
)
from ..weights.keymaps.unet import Shape
from .config import LgmConfig

_ATTENTION = "attns.0.attn.qkv.weight"


@translate_shape_errors("reconstruction model")
def lgm_config(shapes: Mapping[str, Shape], metadata: Mapping[str, Any], source: str) -> LgmConfig:
    """Infers the config of LGM's U-Net.

    Args:
        shapes: of the file's tensors.
        metadata: the entry "reconstruction" of the file's own metadata; {} if there is none. It
            holds what shapes do not determine, the numbers of heads and of norm groups.
        source: the file, for messages.

    Raises:
        InputError: a required tensor is missing, or the shapes fit no such network.
    """

    def shape(name: str) -> Shape:
        return required_shape(shapes, name, "reconstruction model", source)

    def levels(blocks: str) -> list[str]:
        count = 1 + max(leading_indices(shapes, rf"unet\.{blocks}\.(\d{{1,4}})\."), default=-1)
        return [f"unet.{blocks}.{level}." for level in range(count)]

    down, up = levels("down_blocks"), levels("up_blocks")
    first = shape("unet.conv_in.weight")
    layers = 1 + max(
        leading_indices(shapes, r"unet\.down_blocks\.0\.nets\.(\d{1,4})\."), default=-1
    )
    has_time = "unet.time_embed.0.weight" in shapes
    return LgmConfig(
        in_channels=first[1],
        out_channels=shape("conv.weight")[0],
        down_widths=tuple(shape(f"{level}nets.0.conv1.weight")[0] for level in down),
        down_attention=tuple(level + _ATTENTION in shapes for level in down),
        mid_attention=f"unet.mid_block.{_ATTENTION}" in shapes,
        up_widths=tuple(shape(f"{level}nets.0.conv1.weight")[0] for level in up),
        up_attention=tuple(level + _ATTENTION in shapes for level in up),
        layers_per_block=layers,
        num_heads=metadata_int(metadata, "num_heads", LgmConfig.num_heads, source),
        norm_num_groups=metadata_int(
            metadata, "norm_num_groups", LgmConfig.norm_num_groups, source
        ),
        time_channels=shape("unet.time_embed.0.weight")[1] if has_time else 0,
    )
