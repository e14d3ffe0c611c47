"""Infers network configs (widths, depths) from the tensor shapes of a file.

What shapes do not determine (channels per attention head, size of norm groups) is read from the
metadata of our own files; all others have SVD's values.
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
from ..diffusion.network.token_transformer_config import TokenTransformerConfig
from ..diffusion.network.unet_2d_config import UNet2DConfig
from ..errors import InputError
from ..io.files.containment import quote_value
from ..io.files.json_text import parse_json
from ..io.settings import config_from_dict
from .discovery.layouts import METADATA_KEY
from .keymaps.unet import Shape

C = TypeVar("C")
_FEEDBACK_INPUT = "cond_encoder.0.conv_in.weight"
"""Its input channels are 3 colours of f x f pixels."""
CLIP_HEAD_CHANNELS = (80, 64)
"""Channels per head of ViT-H, then of other vision transformers."""


def nova3d_metadata(metadata: Mapping[str, str], source: str) -> dict[str, Any]:
    """The metadata that this package stores in its own files; {} for other files.

    Raises:
        InputError: the entry is not a JSON object.
    """
    try:
        entry = parse_json(metadata.get(METADATA_KEY, "{}"), METADATA_KEY)
    except InputError:
        entry = None
    if not isinstance(entry, dict):
        raise InputError(
            f"{source} is damaged: its metadata entry '{METADATA_KEY}' is not a JSON object.",
            "Save the model again, or remove that entry.",
        )
    return entry


def translate_shape_errors(part: str) -> Callable[[Callable[..., C]], Callable[..., C]]:
    """Decorator: an InputError that names the file, the last argument, if shapes fit no network."""

    def decorate(infer: Callable[..., C]) -> Callable[..., C]:
        @functools.wraps(infer)
        def wrapped(*arguments: Any) -> C:
            source = str(arguments[-1])
            try:
                return infer(*arguments)
            except InputError as error:
                if source in error.message:
                    raise
                reason = error.message
            except (IndexError, ValueError, ZeroDivisionError, TypeError) as error:
                reason = f"inconsistent tensor shapes ({error})."
            raise InputError(
                f"{source} is damaged or not a supported model. {part}: {reason}",
                "Check the downloaded file, or download it again.",
            )

        return wrapped

    return decorate


@translate_shape_errors("UNet")
def unet_config(
    shapes: Mapping[str, Shape], metadata: Mapping[str, Any], source: str
) -> UNetConfig:
    """Infers the UNet's config.

    Args:
        shapes: of its tensors, keyed in the sgm layout without prefix.
        metadata: the UNet's entry in the file's metadata; {} if there is none.
        source: the file, for messages.

    Raises:
        InputError: a required tensor is missing, or the shapes fit no supported UNet.
    """

    def shape(name: str) -> Shape:
        return required_shape(shapes, name, "UNet", source)

    first = shape("input_blocks.0.0.weight")
    count = 1 + max(leading_indices(shapes, r"input_blocks\.(\d{1,4})\."), default=0)
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
        num_head_channels=metadata_int(
            metadata, "num_head_channels", UNetConfig.num_head_channels, source
        ),
        context_dim=context,
        add_embed_dim=shape("label_emb.0.0.weight")[1],
        domains=metadata_int(metadata, "domains", domains, source),
        alignment=alignment,
        camera_task_dim=camera_task,
        norm_num_groups=metadata_int(
            metadata, "norm_num_groups", UNetConfig.norm_num_groups, source
        ),
        feedback_factor=math.isqrt(shapes.get(_FEEDBACK_INPUT, (0, 0))[1] // 3),
    )


def token_transformer_config(metadata: Any, source: str) -> TokenTransformerConfig:
    """The config of a token transformer, all of which is in the metadata of our own files.

    Raises:
        InputError: the metadata contain no valid config.
    """
    try:
        return config_from_dict(metadata, TokenTransformerConfig, "the transformer")
    except InputError as error:
        raise InputError(
            f"{source} is damaged: its metadata describe no token transformer ({error.message}).",
            "Save the model again.",
        ) from error


@translate_shape_errors("UNet")
def unet_2d_config(
    shapes: Mapping[str, Shape], metadata: Mapping[str, Any], source: str
) -> UNet2DConfig:
    """Infers the config of Wonder3D's 2D UNet; arguments and errors as in `unet_config`."""

    def shape(name: str) -> Shape:
        return required_shape(shapes, name, "UNet", source)

    first = shape("conv_in.weight")
    levels = range(1 + max(leading_indices(shapes, r"down_blocks\.(\d{1,4})\."), default=-1))
    widths = [shape(f"down_blocks.{i}.resnets.0.conv1.weight")[0] for i in levels]
    layers = 1 + max(leading_indices(shapes, r"down_blocks\.0\.resnets\.(\d{1,4})\."), default=-1)
    attention = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    return UNet2DConfig(
        in_channels=first[1],
        out_channels=shape("conv_out.weight")[0],
        model_channels=first[0],
        channel_mult=tuple(width // first[0] for width in widths),
        num_res_blocks=layers,
        attention_levels=tuple(
            f"down_blocks.{i}.attentions.0.norm.weight" in shapes for i in levels
        ),
        num_heads=metadata_int(metadata, "num_heads", UNet2DConfig.num_heads, source),
        context_dim=shape(attention)[1],
        camera_task_dim=shape("class_embedding.linear_1.weight")[1],
        norm_num_groups=metadata_int(
            metadata, "norm_num_groups", UNet2DConfig.norm_num_groups, source
        ),
    )


def _alignment(shapes: Iterable[str]) -> Alignment:
    """The blocks with cross-domain attention, from the keys alone; metadata are not trusted."""
    aligned = [name for name in shapes if ".attn_align." in name]
    if any(".time_stack." in name for name in aligned):
        return "gta"
    return "spatial" if aligned else "none"


@translate_shape_errors("VAE")
def vae_config(shapes: Mapping[str, Shape], prefix: str, temporal: bool, source: str) -> VaeConfig:
    """Infers the VAE's config from its encoder, in either layout.

    Args:
        shapes: of the file's tensors.
        prefix: of the keys, before "encoder.".
        temporal: whether the decoder has temporal layers.
        source: the file, for messages.

    Raises:
        InputError: a required tensor is missing.
    """
    start = re.escape(prefix) + r"encoder\."
    sgm = f"{prefix}encoder.down.0.block.0.conv1.weight" in shapes
    block = r"down\.{}\.block\.{}\." if sgm else r"down_blocks\.{}\.resnets\.{}\."
    levels = 1 + max(
        leading_indices(shapes, start + block.format(r"(\d{1,4})", r"\d+")), default=-1
    )
    layers = 1 + max(leading_indices(shapes, start + block.format("0", r"(\d{1,4})")), default=-1)
    name = prefix + "encoder." + block.replace("\\", "") + "conv1.weight"
    widths = [required_shape(shapes, name.format(i, 0), "VAE", source)[0] for i in range(levels)]
    latent = required_shape(shapes, f"{prefix}encoder.conv_out.weight", "VAE", source)[0] // 2
    return VaeConfig(tuple(widths), layers, latent, temporal)


@translate_shape_errors("image encoder")
def clip_config(
    shapes: Mapping[str, Shape], metadata: Mapping[str, Any], source: str
) -> ClipConfig:
    """Infers the image encoder's config.

    Args:
        shapes: of its tensors, keyed as in transformers.
        metadata: the image encoder's entry in the file's metadata; {} if there is none.
        source: the file, for messages.

    Raises:
        InputError: a required tensor is missing, or the sizes fit no vision transformer.
    """

    def shape(name: str) -> Shape:
        return required_shape(shapes, name, "image encoder", source)

    out_channels, channels = shape("visual_projection.weight")
    patch = shape("vision_model.embeddings.patch_embedding.weight")[-1]
    patches = shape("vision_model.embeddings.position_embedding.weight")[0] - 1
    layers = 1 + max(
        leading_indices(shapes, r"vision_model\.encoder\.layers\.(\d{1,4})\."), default=-1
    )
    head_channels = next((c for c in CLIP_HEAD_CHANNELS if channels % c == 0), channels)
    heads = metadata_int(metadata, "heads", channels // head_channels, source)
    if channels % heads or math.isqrt(patches) ** 2 != patches:
        raise InputError(
            f"{source} holds an image encoder of {channels} channels, {heads} heads and {patches} "
            "patches, which is not a supported vision transformer.",
        )
    inner = shape("vision_model.encoder.layers.0.mlp.fc1.weight")[0] if layers else 4 * channels
    size = math.isqrt(patches) * patch
    return ClipConfig(channels, inner, layers, heads, out_channels, size, patch)


def required_shape(shapes: Mapping[str, Shape], name: str, part: str, source: str) -> Shape:
    """The shape of a tensor; raises InputError if the file lacks it."""
    if not shapes.get(name):
        raise InputError(
            f"{source} is incomplete: the {part} has no '{name}'.",
            "If the file is one shard of several, merge the shards; otherwise download it again.",
        )
    return shapes[name]


def leading_indices(names: Iterable[str], pattern: str) -> list[int]:
    """The number in each name that starts with the pattern."""
    matcher = re.compile(pattern)
    return [int(match[1]) for name in names if (match := matcher.match(name))]


def metadata_int(metadata: Mapping[str, Any], name: str, default: int, source: str) -> int:
    """A positive integer of the file's metadata; raises InputError if it is none."""
    value = metadata.get(name, default)
    if type(value) is not int or value < 1:
        raise InputError(f"{source} is damaged: its metadata has {name} = {quote_value(value)}.")
    return value
