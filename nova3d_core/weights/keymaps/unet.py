"""Where each parameter of our modules lies in a file, and the UNet's names in both layouts."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]
Change = Literal["none", "matrix", "transpose"]


@dataclass(frozen=True)
class TensorSource:
    """Where one parameter comes from."""

    name: str | None
    """The tensor's name in the file; None for a layer that the file leaves out because it does
    nothing, which becomes the unit matrix, or zeros."""
    change: Change = "none"
    """matrix: a 1x1 convolution (C', C, 1, 1) in the file, a matrix (C', C) here; transpose."""
    third: int | None = None
    """Which third of the rows, where the file keeps query, key and value as one."""

    def take(self, tensor: Tensor) -> Tensor:
        """The parameter, a view of the file's tensor."""
        if self.third is not None:
            tensor = tensor.chunk(3)[self.third]
        if self.change == "matrix" and tensor.dim() == 4:
            tensor = tensor.flatten(1)
        return tensor.t() if self.change == "transpose" else tensor

    def shape(self, shape: Shape) -> Shape:
        """The parameter's shape, from that of the file's tensor."""
        if self.third is not None:
            shape = (shape[0] // 3, *shape[1:])
        if self.change == "matrix" and len(shape) == 4 and shape[2:] == (1, 1):
            shape = shape[:2]
        return shape[::-1] if self.change == "transpose" else shape


KeyMap = dict[str, TensorSource]
"""The source of each parameter, by the parameter's name."""

_RES = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_OUTSIDE = {
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
_ON_THE_WAY_DOWN = re.compile(r"down_blocks\.0\.resnets\.(\d+)\.")


def sgm_unet_names(names: Iterable[str]) -> dict[str, str]:
    """sgm's name for each tensor of a video UNet in the diffusers layout, both without prefix.

    Names that follow no rule stand for themselves, so that they are found to be left over.
    """
    names = list(names)
    layers = [int(m[1]) for name in names if (m := _ON_THE_WAY_DOWN.match(name))]
    num_res_blocks = max(layers, default=0) + 1
    return {name: _sgm_unet_name(name, num_res_blocks, names) for name in names}


def _sgm_unet_name(name: str, num_res_blocks: int, names: list[str]) -> str:
    stem, _, last = name.rpartition(".")
    if stem in _OUTSIDE:
        return f"{_OUTSIDE[stem]}.{last}"
    match = _BLOCK.fullmatch(name)
    if match is None:
        return name
    way, level, middle, kind, index, rest = match.groups()
    if kind == "resnets":
        rest = _sgm_res_name(rest)
    elif kind == "attentions":
        rest = rest.replace("temporal_transformer_blocks.", "time_stack.", 1)
        rest = re.sub(r"^time_pos_embed\.linear_([12])", _halve_linear, rest)
    if middle:
        place = {"resnets": 2 * int(index), "attentions": 1}[kind]
        return f"middle_block.{place}.{rest}"
    layer = int(level) * (num_res_blocks + 1)
    if kind == "downsamplers":
        return f"input_blocks.{layer + num_res_blocks + 1}.0.{rest.replace('conv.', 'op.', 1)}"
    if kind == "upsamplers":
        attends = any(other.startswith(f"up_blocks.{level}.attentions.") for other in names)
        return f"output_blocks.{layer + num_res_blocks}.{1 + attends}.{rest}"
    first, blocks = (1, "input_blocks") if way == "down" else (0, "output_blocks")
    return f"{blocks}.{layer + first + int(index)}.{int(kind == 'attentions')}.{rest}"


def _sgm_res_name(rest: str) -> str:
    """A residual block's layer: within the image, or across views (time_stack)."""
    where, _, layer = rest.partition(".")
    stem, _, last = layer.rpartition(".")
    prefix = {"spatial_res_block": "", "temporal_res_block": "time_stack."}.get(where)
    if prefix is None or stem not in _RES:
        return rest
    return f"{prefix}{_RES[stem]}.{last}"


def _halve_linear(match: re.Match[str]) -> str:
    """linear_1 and linear_2 with a silent activation between them: 0 and 2."""
    return f"time_pos_embed.{2 * (int(match[1]) - 1)}"
