"""Residual and transformer blocks of the 2D multi-view UNet, named as in diffusers.

Wonder3D (Long et al. 2024) generates colours and normals of several views jointly: self-attention
sees all views of a domain, joint attention both domains of a view. The batch axis N is D x B x V,
as in the video UNet.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from .attention import Attend, Attention, FeedForward
from .blocks import BatchLayout
from .unet_2d_config import UNet2DConfig


class ResBlock2D(nn.Module):
    """Residual block: two normalised convolutions with the embedding added between them."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        config: UNet2DConfig,
        operations: ModuleType | type,
        **factory: Any,
    ):
        super().__init__()
        groups = config.norm_num_groups
        self.norm1 = operations.GroupNorm(groups, in_channels, **factory)
        self.conv1 = operations.Conv2d(in_channels, out_channels, 3, padding=1, **factory)
        self.time_emb_proj = operations.Linear(config.time_embed_dim, out_channels, **factory)
        self.norm2 = operations.GroupNorm(groups, out_channels, **factory)
        self.conv2 = operations.Conv2d(out_channels, out_channels, 3, padding=1, **factory)
        self.conv_shortcut: nn.Module | None = None
        if in_channels != out_channels:
            self.conv_shortcut = operations.Conv2d(in_channels, out_channels, 1, **factory)

    def forward(self, x: Tensor, layout: BatchLayout) -> Tensor:
        """(N, C, h, w) -> (N, C', h, w)."""
        added = self.time_emb_proj(functional.silu(layout.embedding))  # (N, C')
        hidden = self.conv1(functional.silu(self.norm1(x))) + added[..., None, None]
        hidden = self.conv2(functional.silu(self.norm2(hidden)))
        return hidden + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Downsample2D(nn.Module):
    """Halves height and width with a strided convolution."""

    def __init__(self, channels: int, operations: ModuleType | type, **factory: Any):
        super().__init__()
        self.conv = operations.Conv2d(channels, channels, 3, stride=2, padding=1, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, h/2, w/2)."""
        return self.conv(x)


class Upsample2D(nn.Module):
    """Doubles height and width: nearest-neighbour upsampling and a convolution."""

    def __init__(self, channels: int, operations: ModuleType | type, **factory: Any):
        super().__init__()
        self.conv = operations.Conv2d(channels, channels, 3, padding=1, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, 2h, 2w)."""
        return self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))


class MultiviewBlock(nn.Module):
    """Transformer block: attention across views, across domains, to the context, feed-forward."""

    def __init__(
        self,
        channels: int,
        config: UNet2DConfig,
        operations: ModuleType | type,
        attend: Attend | None = None,
        **factory: Any,
    ):
        super().__init__()
        head, context = channels // config.num_heads, config.context_dim
        for name in ("norm1", "norm_joint_mid", "norm2", "norm3"):
            setattr(self, name, operations.LayerNorm(channels, **factory))
        self.attn1 = Attention(channels, channels, head, operations, attend, **factory)
        self.attn_joint_mid = Attention(channels, channels, head, operations, attend, **factory)
        self.attn2 = Attention(channels, context, head, operations, attend, **factory)
        self.ff = FeedForward(channels, operations, **factory)

    def forward(self, x: Tensor, layout: BatchLayout) -> Tensor:
        """(N, n, C) -> (N, n, C), n positions of an image."""
        x = x + self._across_views(self.norm1(x), layout)
        x = x + self._across_domains(self.norm_joint_mid(x), layout)
        x = x + self._to_context(x, layout)
        return x + self.ff(self.norm3(x))

    def _across_views(self, x: Tensor, layout: BatchLayout) -> Tensor:
        """Self-attention among the tokens of all views of a domain."""
        sequences = x.unflatten(0, (-1, layout.views)).flatten(1, 2)  # (D B, V n, C)
        return self.attn1(sequences).unflatten(1, (layout.views, -1)).flatten(0, 1)

    def _across_domains(self, x: Tensor, layout: BatchLayout) -> Tensor:
        """Self-attention among the tokens of both domains of a view."""
        grouped = x.unflatten(0, (layout.domains, -1)).movedim(0, 1)  # (B V, D, n, C)
        joint = self.attn_joint_mid(grouped.flatten(1, 2))  # (B V, D n, C)
        return joint.unflatten(1, (layout.domains, -1)).movedim(1, 0).flatten(0, 1)

    def _to_context(self, x: Tensor, layout: BatchLayout) -> Tensor:
        """Cross-attention to the object's context; broadcastable to x."""
        if layout.context.shape[1] == 1:
            return _per_image(self.attn2.cross_attend_single(layout.context), layout)  # (N, 1, C)
        return self.attn2.cross_attend(self.norm2(x), _per_image(layout.context, layout))


def _per_image(per_object: Tensor, layout: BatchLayout) -> Tensor:
    """(B, M, C) -> (N, M, C)."""
    shape = (layout.domains, layout.objects, layout.views, *per_object.shape[1:])
    return per_object[None, :, None].expand(shape).flatten(0, 2)


class MultiviewTransformer(nn.Module):
    """A transformer block between 1x1 convolutions, with a residual connection."""

    def __init__(
        self,
        channels: int,
        config: UNet2DConfig,
        operations: ModuleType | type,
        attend: Attend | None = None,
        **factory: Any,
    ):
        super().__init__()
        self.norm = operations.GroupNorm(config.norm_num_groups, channels, eps=1e-6, **factory)
        self.proj_in = operations.Conv2d(channels, channels, 1, **factory)
        self.transformer_blocks = nn.ModuleList(
            [MultiviewBlock(channels, config, operations, attend, **factory)]
        )
        self.proj_out = operations.Conv2d(channels, channels, 1, **factory)

    def forward(self, x: Tensor, layout: BatchLayout) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w)."""
        tokens = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)  # (N, h w, C)
        for block in self.transformer_blocks:
            tokens = block(tokens, layout)
        return x + self.proj_out(tokens.transpose(1, 2).unflatten(2, x.shape[2:]))
