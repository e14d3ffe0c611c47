"""torch's layers, computing in the number format of their input whatever their weights are in.

A network takes its layers from an `operations` argument. This module is the one for use without
ComfyUI; `comfy.ops.manual_cast` does the same there, and also streams weights. Where the formats
agree, the cast costs nothing, so a float16 file runs in float32 where float16 ran out of range.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Conv2d", "Conv3d", "GroupNorm", "LayerNorm", "Linear"]


def _cast(layer: nn.Module, like: Tensor) -> tuple[Tensor | None, Tensor | None]:
    return tuple(
        None if part is None else part.to(like.dtype) for part in (layer.weight, layer.bias)
    )


class Linear(nn.Linear):
    """torch.nn.Linear."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, *_cast(self, x))


class Conv2d(nn.Conv2d):
    """torch.nn.Conv2d."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, *_cast(self, x))


class Conv3d(nn.Conv3d):
    """torch.nn.Conv3d."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, *_cast(self, x))


class GroupNorm(nn.GroupNorm):
    """torch.nn.GroupNorm."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.group_norm(x, self.num_groups, *_cast(self, x), self.eps)


class LayerNorm(nn.LayerNorm):
    """torch.nn.LayerNorm."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, self.normalized_shape, *_cast(self, x), self.eps)
