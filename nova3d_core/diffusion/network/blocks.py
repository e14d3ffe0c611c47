"""Residual blocks of the video UNet, within an image and across views."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, eq=False)
class BatchLayout:
    """What the blocks must know of a forward pass: N = D B V images lie in one batch."""

    domains: int
    """D: colour, or colour and normals."""
    objects: int
    """B: independent walks; nothing passes between them."""
    views: int
    """V: images of a walk."""
    embedding: Tensor
    """(N, E) noise level and conditions of each image."""
    context: Tensor
    """(B, M, Cc) what the images attend to; M is 1 for an image embedding."""

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(D, B, V)."""
        return self.domains, self.objects, self.views


class AlphaBlender(nn.Module):
    """A learnt mean of what a block makes within images and across views."""

    def __init__(self, **factory: Any):
        super().__init__()
        self.mix_factor = nn.Parameter(torch.full((1,), 0.5, **factory))

    def forward(self, spatial: Tensor, temporal: Tensor) -> Tensor:
        """sigmoid(mix_factor) spatial + (1 - sigmoid(mix_factor)) temporal, of any one shape."""
        share = torch.sigmoid(self.mix_factor.to(spatial.device).float()).to(spatial.dtype)
        return torch.lerp(temporal, spatial, share)


class ResBlock(nn.Module):
    """Two normed convolutions around the embedding, and a way past them.

    Args:
        channels_in: width of the input.
        channels_out: width of the output; another width gets a 1x1 convolution on the way past.
        embedding_channels: width of the embedding.
        groups: groups of the norms.
        across_views: convolve over (V, 1, 1) instead of over the image.
        operations: where the layers come from.
        factory: device and dtype of the weights.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        time_embed_dim: int,
        groups: int,
        operations: ModuleType | type,
        across_views: bool = False,
        **factory: Any,
    ):
        super().__init__()
        norm, linear = operations.GroupNorm, operations.Linear

        def convolution(width_in: int, width_out: int) -> nn.Module:
            if across_views:
                return operations.Conv3d(
                    width_in, width_out, (3, 1, 1), padding=(1, 0, 0), **factory
                )
            return operations.Conv2d(width_in, width_out, 3, padding=1, **factory)

        self.in_layers = nn.Sequential(
            norm(groups, in_channels, **factory), nn.SiLU(), convolution(in_channels, out_channels)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), linear(time_embed_dim, out_channels, **factory))
        self.out_layers = nn.Sequential(
            norm(groups, out_channels, **factory),
            nn.SiLU(),
            nn.Identity(),  # dropout in the original, whose place in the names it keeps
            convolution(out_channels, out_channels),
        )
        self.skip_connection: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.skip_connection = operations.Conv2d(in_channels, out_channels, 1, **factory)

    def residual(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x plus its residual.

        Args:
            x: (N, C, h, w) images, or (D B, C, V, h, w) walks.
            embedding: (N, E), or (D B, V, E) for walks.
        """
        added = self.emb_layers(embedding)
        if x.dim() == 5:
            added = added.transpose(1, 2)  # (D B, C, V)
        hidden = self.in_layers(x) + added[..., None, None]
        return self.skip_connection(x) + self.out_layers(hidden)


class VideoResBlock(ResBlock):
    """A residual block within images, then one across views, mixed."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        time_embed_dim: int,
        groups: int,
        operations: ModuleType | type,
        **factory: Any,
    ):
        super().__init__(in_channels, out_channels, time_embed_dim, groups, operations, **factory)
        self.time_stack = ResBlock(
            out_channels,
            out_channels,
            time_embed_dim,
            groups,
            operations,
            across_views=True,
            **factory,
        )
        self.time_mixer = AlphaBlender(**factory)

    def forward(self, x: Tensor, layout: BatchLayout) -> Tensor:
        """(N, C, h, w) -> (N, C', h, w)."""
        spatial = self.residual(x, layout.embedding)
        walks = spatial.unflatten(0, (-1, layout.views)).transpose(1, 2)  # (D B, C, V, h, w)
        embedding = layout.embedding.unflatten(0, (-1, layout.views))  # (D B, V, E)
        temporal = self.time_stack.residual(walks, embedding).transpose(1, 2).flatten(0, 1)
        return self.time_mixer(spatial, temporal)


class Downsample(nn.Module):
    """Half the height and width."""

    def __init__(self, channels: int, operations: ModuleType | type, **factory: Any):
        super().__init__()
        self.op = operations.Conv2d(channels, channels, 3, stride=2, padding=1, **factory)

    def forward(self, x: Tensor, layout: BatchLayout) -> Tensor:
        """(N, C, h, w) -> (N, C, h/2, w/2)."""
        return self.op(x)


class Upsample(nn.Module):
    """Twice the height and width."""

    def __init__(self, channels: int, operations: ModuleType | type, **factory: Any):
        super().__init__()
        self.conv = operations.Conv2d(channels, channels, 3, padding=1, **factory)

    def forward(self, x: Tensor, layout: BatchLayout) -> Tensor:
        """(N, C, h, w) -> (N, C, 2h, 2w)."""
        return self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
