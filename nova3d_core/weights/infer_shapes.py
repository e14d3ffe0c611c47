"""Widths and depths of the networks in a file, from the shapes of their tensors.

What no shape tells (the width of attention heads, the groups of norms) stands in the metadata of
our own files; other files have SVD's.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from ..diffusion.codecs.clip_config import ClipConfig
from ..diffusion.codecs.vae_config import VaeConfig
from ..diffusion.network.config import Alignment, UNetConfig
from ..errors import InputError
from ..io.files.containment import quote_value
from ..io.files.json_text import parse_json
from .discovery.layouts import METADATA_KEY
from .keymaps.unet import Shape

C = TypeVar("C")
CLIP_HEAD_CHANNELS = (80, 64)
"""Heads of ViT-H, then of other vision transformers."""


def nova3d_metadata(metadata: Mapping[str, str], source: str) -> dict[str, Any]:
    """What one of our files says of itself; {} for others.

    Raises:
        InputError: it is no table.
    """
    try:
        said = parse_json(metadata.get(METADATA_KEY, "{}"), METADATA_KEY)
    except InputError:
        said = None
    if not isinstance(said, dict):
        raise InputError(
            f"{source} is damaged: its metadata '{METADATA_KEY}' is no JSON table.",
            "Save the model again, or remove that entry.",
        )
    return said


def _explained(part: str) -> Callable[[Callable[..., C]], Callable[..., C]]:
    """Names the file, the last argument, where shapes of a damaged one fit no network."""

    def explained(read: Callable[..., C]) -> Callable[..., C]:
        @functools.wraps(read)
        def wrapped(*arguments: Any) -> C:
            source = str(arguments[-1])
            try:
                return read(*arguments)
            except InputError as error:
                if source in error.message:
                    raise
                reason = error.message
            except (IndexError, ValueError, ZeroDivisionError, TypeError) as error:
                reason = f"shapes without a meaning ({error})."
            raise InputError(
                f"{source} is damaged, or no model known here. Its {part}: {reason}",
                "Check what was downloaded, or download it again.",
            )

        return wrapped

    return explained


@_explained("UNet")
def unet_config(shapes: Mapping[str, Shape], said: Mapping[str, Any], source: str) -> UNetConfig:
    """The UNet's shape.

    Args:
        shapes: its tensors in the sgm layout, without prefix.
        said: what the file's metadata say of the UNet; {} without.
        source: the file, for messages.

    Raises:
        InputError: a tensor that tells the shape is missing, or the shapes fit no UNet of ours.
    """

    def shape(name: str) -> Shape:
        return _shape(shapes, name, "UNet", source)

    first = shape("input_blocks.0.0.weight")
    count = 1 + max(_indices(shapes, r"input_blocks\.(\d{1,4})\."), default=0)
    halving = [i for i in range(count) if f"input_blocks.{i}.0.op.weight" in shapes]
    num_res_blocks = (halving[0] if halving else count) - 1
    starts = [1, *(i + 1 for i in halving)]
    widths = [shape(f"input_blocks.{i}.0.out_layers.3.weight")[0] for i in starts]
    context = shape("middle_block.1.transformer_blocks.0.attn2.to_k.weight")[1]
    camera_task = shapes.get("camera_task_emb.0.weight", (0, 0))[1]
    alignment = _alignment(shapes)
    domains = 2 if alignment != "none" or camera_task else 1
    return UNetConfig(
        in_channels=first[1],
        out_channels=shape("out.2.weight")[0],
        model_channels=first[0],
        channel_mult=tuple(width // first[0] for width in widths),
        num_res_blocks=num_res_blocks,
        attention_levels=tuple(f"input_blocks.{i}.1.proj_in.weight" in shapes for i in starts),
        num_head_channels=_number(said, "num_head_channels", UNetConfig.num_head_channels, source),
        context_dim=context,
        add_embed_dim=shape("label_emb.0.0.weight")[1],
        domains=_number(said, "domains", domains, source),
        alignment=alignment,
        camera_task_dim=camera_task,
        norm_num_groups=_number(said, "norm_num_groups", UNetConfig.norm_num_groups, source),
    )


def _alignment(shapes: Iterable[str]) -> Alignment:
    """Which blocks the domains meet in; tensors tell, whatever the metadata say."""
    aligned = [name for name in shapes if ".attn_align." in name]
    if any(".time_stack." in name for name in aligned):
        return "gta"
    return "spatial" if aligned else "none"


@_explained("VAE")
def vae_config(shapes: Mapping[str, Shape], prefix: str, temporal: bool, source: str) -> VaeConfig:
    """The VAE's shape, from its encoder in either layout.

    Args:
        shapes: the file's tensors.
        prefix: what stands before "encoder.".
        temporal: whether the decoder has layers across images.
        source: the file, for messages.

    Raises:
        InputError: a tensor that tells the shape is missing.
    """
    start = re.escape(prefix) + r"encoder\."
    sgm = f"{prefix}encoder.down.0.block.0.conv1.weight" in shapes
    block = r"down\.{}\.block\.{}\." if sgm else r"down_blocks\.{}\.resnets\.{}\."
    levels = 1 + max(_indices(shapes, start + block.format(r"(\d{1,4})", r"\d+")), default=-1)
    layers = 1 + max(_indices(shapes, start + block.format("0", r"(\d{1,4})")), default=-1)
    name = prefix + "encoder." + block.replace("\\", "") + "conv1.weight"
    widths = [_shape(shapes, name.format(i, 0), "VAE", source)[0] for i in range(levels)]
    latent = _shape(shapes, f"{prefix}encoder.conv_out.weight", "VAE", source)[0] // 2
    return VaeConfig(tuple(widths), layers, latent, temporal)


@_explained("image encoder")
def clip_config(shapes: Mapping[str, Shape], said: Mapping[str, Any], source: str) -> ClipConfig:
    """The image encoder's shape.

    Args:
        shapes: its tensors named as in transformers.
        said: what the file's metadata say of the image encoder; {} without.
        source: the file, for messages.

    Raises:
        InputError: a tensor that tells the shape is missing, or the heads cannot be told.
    """

    def shape(name: str) -> Shape:
        return _shape(shapes, name, "image encoder", source)

    out_channels, channels = shape("visual_projection.weight")
    patch = shape("vision_model.embeddings.patch_embedding.weight")[-1]
    places = shape("vision_model.embeddings.position_embedding.weight")[0] - 1
    layers = 1 + max(_indices(shapes, r"vision_model\.encoder\.layers\.(\d{1,4})\."), default=-1)
    usual = next((c for c in CLIP_HEAD_CHANNELS if channels % c == 0), channels)
    heads = _number(said, "heads", channels // usual, source)
    if channels % heads or math.isqrt(places) ** 2 != places:
        raise InputError(
            f"{source} holds an image encoder of {channels} channels, {heads} heads and {places} "
            "places, which is no vision transformer known here.",
        )
    inner = shape("vision_model.encoder.layers.0.mlp.fc1.weight")[0] if layers else 4 * channels
    size = math.isqrt(places) * patch
    return ClipConfig(channels, inner, layers, heads, out_channels, size, patch)


def _shape(shapes: Mapping[str, Shape], name: str, part: str, source: str) -> Shape:
    if not shapes.get(name):
        raise InputError(
            f"{source} is incomplete: the {part} lacks '{name}'.",
            "If it is one shard of several, join them; otherwise download it again.",
        )
    return shapes[name]


def _indices(names: Iterable[str], pattern: str) -> list[int]:
    """The number in every name that starts with the pattern."""
    matcher = re.compile(pattern)
    return [int(match[1]) for name in names if (match := matcher.match(name))]


def _number(said: Mapping[str, Any], name: str, usual: int, source: str) -> int:
    value = said.get(name, usual)
    if type(value) is not int or value < 1:
        raise InputError(f"{source} is damaged: its metadata say {name} = {quote_value(value)}.")
    return value
