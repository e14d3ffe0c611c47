"""Key maps from our parameters to the tensors of a file, and the UNet's keys in both layouts."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]
Transform = Literal["none", "matrix", "transpose"]


@dataclass(frozen=True)
class TensorSource:
    """The tensor of a file that one parameter is read from."""

    name: str | None
    """Key in the file; None for an identity layer that the file omits. Its weight becomes the
    identity matrix, its bias zeros."""
    transform: Transform = "none"
    """matrix: a 1x1 convolution (C', C, 1, 1) in the file, a matrix (C', C) here; transpose."""
    qkv_index: int | None = None
    """Index (0 query, 1 key, 2 value) into a fused QKV tensor, which is split along its rows."""

    def read(self, tensor: Tensor) -> Tensor:
        """Returns the parameter as a view of the file's tensor."""
        if self.qkv_index is not None:
            tensor = tensor.chunk(3)[self.qkv_index]
        if self.transform == "matrix" and tensor.dim() == 4:
            tensor = tensor.flatten(1)
        return tensor.t() if self.transform == "transpose" else tensor

    def parameter_shape(self, shape: Shape) -> Shape:
        """Returns the parameter's shape, given that of the file's tensor."""
        if self.qkv_index is not None:
            shape = (shape[0] // 3, *shape[1:])
        if self.transform == "matrix" and len(shape) == 4 and shape[2:] == (1, 1):
            shape = shape[:2]
        return shape[::-1] if self.transform == "transpose" else shape


KeyMap = dict[str, TensorSource]
"""The source of each parameter, keyed by the parameter's name."""

_RES_LAYERS = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_TOP_LEVEL_LAYERS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_BLOCK = re.compile(
    r"(?:(down|up)_blocks\.(\d+)|(mid)_block)"
    r"\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)"
)
_FIRST_DOWN_RESNET = re.compile(r"down_blocks\.0\.resnets\.(\d+)\.")


def sgm_unet_names(names: Iterable[str]) -> dict[str, str]:
    """Maps each key of a video UNet in the diffusers layout to its sgm key, both without prefix.

    Keys that match no rule map to themselves, so that they are reported as unused later.
    """
    names = list(names)
    layers = [int(m[1]) for name in names if (m := _FIRST_DOWN_RESNET.match(name))]
    num_res_blocks = max(layers, default=0) + 1
    return {name: _sgm_unet_name(name, num_res_blocks, names) for name in names}


def ouroboros3d_unet_names(names: Iterable[str]) -> dict[str, str]:
    """Maps each key of Ouroboros3D's multi-view model to our key.

    Its UNet has the diffusers layout below `unet.`; adapters and ray embeddings keep their keys.
    """
    names = list(names)
    prefix = "unet."
    inner = sgm_unet_names(n.removeprefix(prefix) for n in names if n.startswith(prefix))
    return {n: inner[n.removeprefix(prefix)] if n.startswith(prefix) else n for n in names}


def _sgm_unet_name(name: str, num_res_blocks: int, names: list[str]) -> str:
    stem, _, last = name.rpartition(".")
    if stem in _TOP_LEVEL_LAYERS:
        return f"{_TOP_LEVEL_LAYERS[stem]}.{last}"
    match = _BLOCK.fullmatch(name)
    if match is None:
        return name
    direction, level, middle, kind, index, rest = match.groups()
    if kind == "resnets":
        rest = _sgm_res_name(rest)
    elif kind == "attentions":
        rest = rest.replace("temporal_transformer_blocks.", "time_stack.", 1)
        rest = re.sub(r"^time_pos_embed\.linear_([12])", _sequential_index, rest)
    if middle:
        position = {"resnets": 2 * int(index), "attentions": 1}[kind]
        return f"middle_block.{position}.{rest}"
    layer = int(level) * (num_res_blocks + 1)
    if kind == "downsamplers":
        return f"input_blocks.{layer + num_res_blocks + 1}.0.{rest.replace('conv.', 'op.', 1)}"
    if kind == "upsamplers":
        has_attention = any(other.startswith(f"up_blocks.{level}.attentions.") for other in names)
        return f"output_blocks.{layer + num_res_blocks}.{1 + has_attention}.{rest}"
    first, blocks = (1, "input_blocks") if direction == "down" else (0, "output_blocks")
    return f"{blocks}.{layer + first + int(index)}.{int(kind == 'attentions')}.{rest}"


def _sgm_res_name(rest: str) -> str:
    """The sgm key of a residual block's layer, spatial or temporal (time_stack)."""
    block, _, layer = rest.partition(".")
    stem, _, last = layer.rpartition(".")
    prefix = {"spatial_res_block": "", "temporal_res_block": "time_stack."}.get(block)
    if prefix is None or stem not in _RES_LAYERS:
        return rest
    return f"{prefix}{_RES_LAYERS[stem]}.{last}"


def _sequential_index(match: re.Match[str]) -> str:
    """Maps linear_1 and linear_2 to 0 and 2: sgm counts the activation between them."""
    return f"time_pos_embed.{2 * (int(match[1]) - 1)}"
