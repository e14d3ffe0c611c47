"""Transformer blocks of the video UNet, with Geometry-Temporal Alignment (GTA) between domains.

Tokens are (N, n, C): N = D B V images of n = h w positions. The domain axis D stays explicit in all
reshapes, so that only the colour and normal tokens of the same view attend to each other.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from .attention import Attend, Attention, FeedForward
from .blocks import AlphaBlender, BatchLayout
from .config import UNetConfig
from .embeddings import sinusoidal_embedding


class TransformerBlock(nn.Module):
    """Spatial transformer block: self-attention, alignment, cross-attention, feed-forward.

    Args:
        channels: width of the tokens.
        config: head width, context width and kind of alignment.
        operations: module that provides the layers.
        attend: attention function; `scaled_dot_product` if None.
        factory: device and dtype of the weights.
    """

    alignments = ("gta", "spatial")
    """Kinds of alignment for which this block has cross-domain attention."""

    def __init__(
        self,
        channels: int,
        config: UNetConfig,
        operations: ModuleType | type,
        attend: Attend | None = None,
        **factory: Any,
    ):
        super().__init__()
        heads, context = config.num_head_channels, config.context_dim
        self.attn1 = Attention(channels, channels, heads, operations, attend, **factory)
        self.attn2 = Attention(channels, context, heads, operations, attend, **factory)
        self.ff = FeedForward(channels, operations, **factory)
        for name in ("norm1", "norm2", "norm3"):
            setattr(self, name, operations.LayerNorm(channels, **factory))
        self.attn_align: Attention | None = None
        if config.alignment in self.alignments:
            self.norm_align = operations.LayerNorm(channels, **factory)
            self.attn_align = Attention(channels, channels, heads, operations, attend, **factory)

    def forward(self, x: Tensor, layout: BatchLayout) -> Tensor:
        """(N, n, C) -> (N, n, C): attention among the positions of an image."""
        x = x + self.attn1(self.norm1(x))
        if self.attn_align is not None:
            x = x + self._align(self.norm_align(x), layout)
        context, repeats = layout.context, layout.views
        if context.dim() == 4:
            context, repeats = context.flatten(0, 1), 1  # (B V, M, Cc)
        x = x + self._to_context(x, context, (layout.domains, repeats))
        return x + self.ff(self.norm3(x))

    def _align(self, x: Tensor, layout: BatchLayout) -> Tensor:
        """Joint attention of colour and normal tokens of one view (Algorithm 1)."""
        views = x.unflatten(0, layout.sizes).movedim(0, 2)  # (B, V, D, n, C)
        joint = self.attn_align(views.flatten(2, 3).flatten(0, 1))  # (B V, D n, C)
        return _domains_first(joint, layout).flatten(0, 2)  # (N, n, C)

    def _to_context(self, x: Tensor, context: Tensor, repeats: tuple[int, int]) -> Tensor:
        """Cross-attention of x to its context, broadcastable to x.

        Args:
            x: (before B after, L, C) tokens.
            context: (B, M, Cc); B is objects, or objects and views.
            repeats: sizes of the batch axes before and after B.
        """
        before, after = repeats
        if context.shape[1] == 1:
            out = self.attn2.cross_attend_single(context)  # (B, 1, C)
            return _repeat_objects(out, before, after)  # (N, 1, C)
        context = _repeat_objects(context, before, after)  # (N, M, Cc)
        return self.attn2.cross_attend(self.norm2(x), context)


class ViewTransformerBlock(TransformerBlock):
    """Transformer block across the views of one position (`time_stack` in SVD)."""

    alignments = ("gta",)

    def __init__(
        self,
        channels: int,
        config: UNetConfig,
        operations: ModuleType | type,
        attend: Attend | None = None,
        **factory: Any,
    ):
        super().__init__(channels, config, operations, attend, **factory)
        self.norm_in = operations.LayerNorm(channels, **factory)
        self.ff_in = FeedForward(channels, operations, **factory)

    def forward(self, x: Tensor, layout: BatchLayout) -> Tensor:
        """(N, n, C) -> (N, n, C): attention among the views of a position."""
        positions = x.shape[1]
        x = x.unflatten(0, layout.sizes).transpose(2, 3).flatten(0, 2)  # (D B n, V, C)
        x = x + self.ff_in(self.norm_in(x))
        x = x + self.attn1(self.norm1(x))
        if self.attn_align is not None:
            x = x + self._align_positions(self.norm_align(x), layout, positions)
        # as in SVD, the first view's context serves all views of a position
        context = layout.context[:, 0] if layout.context.dim() == 4 else layout.context
        x = x + self._to_context(x, context, (layout.domains, positions))
        x = x + self.ff(self.norm3(x))
        x = x.unflatten(0, (layout.domains, layout.objects, positions))  # (D, B, n, V, C)
        return x.transpose(2, 3).flatten(0, 2)

    def _align_positions(self, x: Tensor, layout: BatchLayout, positions: int) -> Tensor:
        """Joint attention of all views of both domains at one position (Algorithm 2)."""
        grouped = x.unflatten(0, (layout.domains, layout.objects, positions)).movedim(0, 2)
        joint = self.attn_align(grouped.flatten(2, 3).flatten(0, 1))  # (B n, D V, C)
        joint = joint.unflatten(1, (layout.domains, layout.views))  # (B n, D, V, C)
        joint = joint.unflatten(0, (layout.objects, positions)).movedim(2, 0)  # (D, B, n, V, C)
        return joint.flatten(0, 2)  # (D B n, V, C)


def _domains_first(joint: Tensor, layout: BatchLayout) -> Tensor:
    """(B V, D n, C) -> (D, B, V, n, C)."""
    views = joint.unflatten(1, (layout.domains, -1)).unflatten(0, (layout.objects, layout.views))
    return views.movedim(2, 0)


def _repeat_objects(per_object: Tensor, before: int, after: int) -> Tensor:
    """(B, ...) -> (before B after, ...)."""
    inner = per_object.shape[1:]
    shape = (before, len(per_object), after, *inner)
    return per_object[None, :, None].expand(shape).flatten(0, 2)


class VideoTransformer(nn.Module):
    """Alpha-blended spatial and cross-view transformer blocks; sgm's `SpatialVideoTransformer`."""

    def __init__(
        self,
        channels: int,
        config: UNetConfig,
        operations: ModuleType | type,
        attend: Attend | None = None,
        **factory: Any,
    ):
        super().__init__()
        linear = operations.Linear
        self.norm = operations.GroupNorm(config.norm_num_groups, channels, eps=1e-6, **factory)
        self.proj_in = linear(channels, channels, **factory)
        self.transformer_blocks = nn.ModuleList(
            [TransformerBlock(channels, config, operations, attend, **factory)]
        )
        self.proj_out = linear(channels, channels, **factory)
        self.time_stack = nn.ModuleList(
            [ViewTransformerBlock(channels, config, operations, attend, **factory)]
        )
        self.time_pos_embed = nn.Sequential(
            linear(channels, 4 * channels, **factory),
            nn.SiLU(),
            linear(4 * channels, channels, **factory),
        )
        self.time_mixer = AlphaBlender(**factory)

    def forward(self, x: Tensor, layout: BatchLayout) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w)."""
        height = x.shape[2]
        tokens = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))  # (N, n, C)
        order = torch.arange(layout.views, device=x.device)
        view_embed = self.time_pos_embed(
            sinusoidal_embedding(order, x.shape[1]).to(x.dtype)
        )  # (V, C)
        view_embed = view_embed.repeat(layout.domains * layout.objects, 1)[:, None]  # (N, 1, C)
        for spatial, temporal in zip(self.transformer_blocks, self.time_stack, strict=True):
            tokens = spatial(tokens, layout)
            tokens = self.time_mixer(tokens, temporal(tokens + view_embed, layout))
        return x + self.proj_out(tokens).transpose(1, 2).unflatten(2, (height, -1))
