"""Attention: one scaled-dot-product call, and layers whose keys are named as in the sgm layout."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Attend = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""q (N, L, C), k and v (N, M, C), number of heads -> (N, L, C)."""

MAX_GRID_ROWS = 65535
"""Some CUDA kernels put sequences times heads on a grid's axis of this length."""


def scaled_dot_product(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """softmax(q k^T / sqrt(C / heads)) v for each head, by torch's own kernels.

    Args:
        q: (N, L, C) queries.
        k: (N, M, C) keys.
        v: (N, M, C) values.
        heads: heads lie side by side in C.

    Returns:
        (N, L, C).
    """
    q, k, v = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in (q, k, v))  # (N, h, L, c)
    out = functional.scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2).flatten(2)


def chunked_attention(attend: Attend, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """`attend`, a few sequences at a time where all together would overflow a kernel's grid."""
    most = max(MAX_GRID_ROWS // heads, 1)
    if len(q) <= most:
        return attend(q, k, v, heads)
    parts = zip(q.split(most), k.split(most), v.split(most), strict=True)
    return torch.cat([attend(*part, heads) for part in parts])


class Attention(nn.Module):
    """Attention of tokens to themselves, or to a context.

    Args:
        channels: width of the tokens.
        context_channels: width of what they attend to.
        head_channels: width of one head.
        operations: where the layers come from.
        attend: what computes it; `scaled_dot_product` if None.
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
        """Self-attention of tokens (N, L, C)."""
        out = chunked_attention(self.attend, self.to_q(x), self.to_k(x), self.to_v(x), self.heads)
        return self.to_out(out)

    def cross_attend(self, x: Tensor, context: Tensor) -> Tensor:
        """Attention of tokens (N, L, C) to a context (N, M, Cc) of several tokens."""
        k, v = self.to_k(context), self.to_v(context)
        return self.to_out(chunked_attention(self.attend, self.to_q(x), k, v, self.heads))

    def cross_attend_single(self, context: Tensor) -> Tensor:
        """Attention to a context (N, 1, Cc) of a single token, (N, 1, C) for every query alike.

        The softmax over one token is 1, so queries and keys do not matter: exactly what
        `cross_attend` gives, without touching the tokens.
        """
        return self.to_out(self.to_v(context))


class GEGLU(nn.Module):
    """A linear layer whose one half gates the other: a * gelu(b)."""

    def __init__(self, channels: int, width: int, operations: ModuleType | type, **factory: Any):
        super().__init__()
        self.proj = operations.Linear(channels, 2 * width, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """(..., channels) -> (..., width)."""
        value, gate = self.proj(x).chunk(2, dim=-1)
        gate = functional.gelu(gate)
        # the widest tensors of the network: without gradients their product needs no new room
        return value * gate if torch.is_grad_enabled() else gate.mul_(value)


class FeedForward(nn.Module):
    """The two-layer network of a transformer block, four times as wide inside."""

    def __init__(self, channels: int, operations: ModuleType | type, **factory: Any):
        super().__init__()
        width = 4 * channels
        self.net = nn.Sequential(
            GEGLU(channels, width, operations, **factory),
            nn.Identity(),  # dropout in the original, whose place in the names it keeps
            operations.Linear(width, channels, **factory),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(..., channels) -> (..., channels)."""
        return self.net(x)
