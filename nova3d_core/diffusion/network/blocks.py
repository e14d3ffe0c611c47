"""Residual blocks of the video UNet, within an image and across views."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...checks import check_shape
from ...errors import InputError

if TYPE_CHECKING:
    from .config import UNetConfig
    from .unet_2d_config import UNet2DConfig


@dataclass(frozen=True, eq=False)
class BatchLayout:
    """Layout and conditioning of one forward pass; the batch axis N is D x B x V."""

    domains: int
    """D: 1 for colour, 2 for colour and normals."""
    objects: int
    """B: independent samples, which never attend to each other."""
    views: int
    """V: views of an object."""
    embedding: Tensor
    """(N, E) embedding of the noise level and the other conditions of each image."""
    context: Tensor
    """(B, M, Cc) cross-attention context, or (B, V, M, Cc) for one per view; M is 1 for an image
    embedding."""

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(D, B, V)."""
        return self.domains, self.objects, self.views


def check_latents(x: Tensor, c_noise: Tensor, config: UNetConfig | UNet2DConfig) -> tuple[int, int]:
    """Checks the latents (D, B, V, Cin, h, w) and noise levels (B,) that a UNet receives.

    Returns:
        B and V.

    Raises:
        InputError: shapes that do not match each other or the network.
    """
    sizes = check_shape("the UNet's x", x, "D B V C H W", D=config.domains, C=config.in_channels)
    multiple = config.size_multiple
    if sizes["H"] % multiple or sizes["W"] % multiple:
        raise InputError(
            f"the UNet's x is {sizes['W']}x{sizes['H']} latents, expected multiples of {multiple}."
        )
    check_shape("the UNet's c_noise", c_noise, "B", B=sizes["B"])
    return sizes["B"], sizes["V"]


class AlphaBlender(nn.Module):
    """Learned blend of a spatial and a temporal (cross-view) branch."""

    def __init__(self, **factory: Any):
        super().__init__()
        self.mix_factor = nn.Parameter(torch.full((1,), 0.5, **factory))

    def forward(self, spatial: Tensor, temporal: Tensor) -> Tensor:
        """sigmoid(mix_factor) spatial + (1 - sigmoid(mix_factor)) temporal, of equal shapes."""
        alpha = torch.sigmoid(self.mix_factor.to(spatial.device).float()).to(spatial.dtype)
        return torch.lerp(temporal, spatial, alpha)


class ResBlock(nn.Module):
    """Residual block: two normalised convolutions with the embedding added between them.

    Args:
        in_channels: width of the input.
        out_channels: width of the output; where it differs from the input's, the skip connection
            is a 1x1 convolution.
        time_embed_dim: width of the embedding.
        groups: number of groups of the group norms.
        operations: module that provides the layers.
        across_views: convolve over views (a 3x1x1 kernel) instead of over the image.
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

        def conv(in_width: int, out_width: int) -> nn.Module:
            if across_views:
                return operations.Conv3d(
                    in_width, out_width, (3, 1, 1), padding=(1, 0, 0), **factory
                )
            return operations.Conv2d(in_width, out_width, 3, padding=1, **factory)

        self.in_layers = nn.Sequential(
            norm(groups, in_channels, **factory), nn.SiLU(), conv(in_channels, out_channels)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), linear(time_embed_dim, out_channels, **factory))
        self.out_layers = nn.Sequential(
            norm(groups, out_channels, **factory),
            nn.SiLU(),
            nn.Identity(),  # dropout in sgm; keeps the index in the parameter names
            conv(out_channels, out_channels),
        )
        self.skip_connection: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.skip_connection = operations.Conv2d(in_channels, out_channels, 1, **factory)

    def residual(self, x: Tensor, embedding: Tensor) -> Tensor:
        """skip(x) + residual branch.

        Args:
            x: (N, C, h, w) images, or (D B, C, V, h, w) sequences of views.
            embedding: (N, E), or (D B, V, E) for sequences.
        """
        added = self.emb_layers(embedding)
        if x.dim() == 5:
            added = added.transpose(1, 2)  # (D B, C, V)
        hidden = self.in_layers(x) + added[..., None, None]
        return self.skip_connection(x) + self.out_layers(hidden)


class VideoResBlock(ResBlock):
    """A spatial residual block followed by one across views, alpha-blended."""

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
        sequences = spatial.unflatten(0, (-1, layout.views)).transpose(1, 2)  # (D B, C, V, h, w)
        embedding = layout.embedding.unflatten(0, (-1, layout.views))  # (D B, V, E)
        temporal = self.time_stack.residual(sequences, embedding).transpose(1, 2).flatten(0, 1)
        return self.time_mixer(spatial, temporal)


class Downsample(nn.Module):
    """Halves height and width with a strided convolution."""

    def __init__(self, channels: int, operations: ModuleType | type, **factory: Any):
        super().__init__()
        self.op = operations.Conv2d(channels, channels, 3, stride=2, padding=1, **factory)

    def forward(self, x: Tensor, layout: BatchLayout) -> Tensor:
        """(N, C, h, w) -> (N, C, h/2, w/2)."""
        return self.op(x)


class Upsample(nn.Module):
    """Doubles height and width: nearest-neighbour upsampling and a convolution."""

    def __init__(self, channels: int, operations: ModuleType | type, **factory: Any):
        super().__init__()
        self.conv = operations.Conv2d(channels, channels, 3, padding=1, **factory)

    def forward(self, x: Tensor, layout: BatchLayout) -> Tensor:
        """(N, C, h, w) -> (N, C, 2h, 2w)."""
        return self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
