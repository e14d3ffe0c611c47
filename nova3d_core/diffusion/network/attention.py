"""Scaled dot-product attention, and layers whose parameters have sgm's names."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Attend = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""Attention function: q (N, L, C), k and v (N, M, C), number of heads -> (N, L, C)."""

MAX_GRID_ROWS = 65535
"""Limit of a CUDA grid axis, on which some kernels launch sequences times heads."""


def scaled_dot_product(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Multi-head softmax(q k^T / sqrt(C / heads)) v, with torch's own kernels.

    Args:
        q: (N, L, C) queries.
        k: (N, M, C) keys.
        v: (N, M, C) values.
        heads: number of heads, which split C.

    Returns:
        (N, L, C).
    """
    q, k, v = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in (q, k, v))  # (N, h, L, c)
    out = functional.scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2).flatten(2)


def chunked_attention(attend: Attend, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Calls `attend` on chunks of sequences where the whole batch would exceed a CUDA grid."""
    chunk = max(MAX_GRID_ROWS // heads, 1)
    if len(q) <= chunk:
        return attend(q, k, v, heads)
    chunks = zip(q.split(chunk), k.split(chunk), v.split(chunk), strict=True)
    return torch.cat([attend(*qkv, heads) for qkv in chunks])


class Attention(nn.Module):
    """Multi-head self-attention or cross-attention.

    Args:
        channels: width of the query tokens.
        context_dim: width of the key and value tokens.
        num_head_channels: width of one head.
        operations: module that provides the layers.
        attend: attention function; `scaled_dot_product` if None.
        factory: device and dtype of the weights.
    """

    def __init__(
        self,
        channels: int,
        context_dim: int,
        num_head_channels: int,
        operations: ModuleType | type,
        attend: Attend | None = None,
        **factory: Any,
    ):
        super().__init__()
        self.heads = channels // num_head_channels
        self.attend = attend or scaled_dot_product
        self.to_q = operations.Linear(channels, channels, bias=False, **factory)
        self.to_k = operations.Linear(context_dim, channels, bias=False, **factory)
        self.to_v = operations.Linear(context_dim, channels, bias=False, **factory)
        self.to_out = nn.Sequential(operations.Linear(channels, channels, **factory))

    def forward(self, x: Tensor) -> Tensor:
        """Self-attention of tokens (N, L, C) -> (N, L, C)."""
        out = chunked_attention(self.attend, self.to_q(x), self.to_k(x), self.to_v(x), self.heads)
        return self.to_out(out)

    def cross_attend(self, x: Tensor, context: Tensor) -> Tensor:
        """Cross-attention of tokens (N, L, C) to a context (N, M, Cc) -> (N, L, C)."""
        k, v = self.to_k(context), self.to_v(context)
        return self.to_out(chunked_attention(self.attend, self.to_q(x), k, v, self.heads))

    def cross_attend_single(self, context: Tensor) -> Tensor:
        """Cross-attention to a context (N, 1, Cc) of one token -> (N, 1, C), equal for all queries.

        The softmax over a single token is 1, so queries and keys have no effect: this returns
        exactly what `cross_attend` returns, without reading the tokens.
        """
        return self.to_out(self.to_v(context))


class GEGLU(nn.Module):
    """Gated linear unit: a * gelu(b), where a and b are the halves of one linear layer."""

    def __init__(self, channels: int, width: int, operations: ModuleType | type, **factory: Any):
        super().__init__()
        self.proj = operations.Linear(channels, 2 * width, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """(..., channels) -> (..., width)."""
        value, gate = self.proj(x).chunk(2, dim=-1)
        gate = functional.gelu(gate)
        # the widest tensors of the network: without gradients the product is in place
        return value * gate if torch.is_grad_enabled() else gate.mul_(value)


class FeedForward(nn.Module):
    """The MLP of a transformer block: GEGLU with a hidden width of four times the channels."""

    def __init__(self, channels: int, operations: ModuleType | type, **factory: Any):
        super().__init__()
        width = 4 * channels
        self.net = nn.Sequential(
            GEGLU(channels, width, operations, **factory),
            nn.Identity(),  # dropout in sgm; keeps the index in the parameter names
            operations.Linear(width, channels, **factory),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(..., channels) -> (..., channels)."""
        return self.net(x)
