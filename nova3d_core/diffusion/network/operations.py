"""torch's layers, computing in the dtype of their input: weights are cast on the fly.

A network takes its layers from an `operations` argument. This module is the default without
ComfyUI, where `comfy.ops.manual_cast` does the same and also streams weights. The cast is free
where the dtypes agree, and lets a float16 model run in float32 after an overflow.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Conv2d", "Conv3d", "GroupNorm", "LayerNorm", "Linear"]


def _cast(layer: nn.Module, like: Tensor) -> tuple[Tensor | None, Tensor | None]:
    return tuple(
        None if weight is None else weight.to(like.dtype) for weight in (layer.weight, layer.bias)
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
