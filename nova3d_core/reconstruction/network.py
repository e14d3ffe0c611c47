"""LGM's U-Net: four views with their rays to one splat per pixel.

Reference: J. Tang et al., "LGM: Large multi-view Gaussian model for high-resolution 3D content
creation", 2024. State-dict keys are those of its published weights. With `time_channels` it is the
reconstruction model of Ouroboros3D (Wen et al. 2024), which is conditioned on the noise level.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..checks import check_shape
from ..diffusion.network import operations as plain_operations
from ..diffusion.network.attention import Attend, chunked_attention, scaled_dot_product
from ..diffusion.network.embeddings import sinusoidal_embedding
from ..errors import InputError
from .config import VIEW_COUNT, LgmConfig

RESIDUAL_SCALE = math.sqrt(0.5)
"""Factor after each residual connection, which keeps the variance."""


class ResidualBlock(nn.Module):
    """Two normalised convolutions with a skip connection; the time embedding is added between."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        config: LgmConfig,
        operations: ModuleType | type,
        **factory: Any,
    ):
        super().__init__()
        groups = config.norm_num_groups
        self.norm1 = operations.GroupNorm(groups, in_channels, **factory)
        self.conv1 = operations.Conv2d(in_channels, out_channels, 3, padding=1, **factory)
        self.norm2 = operations.GroupNorm(groups, out_channels, **factory)
        self.conv2 = operations.Conv2d(out_channels, out_channels, 3, padding=1, **factory)
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = operations.Conv2d(in_channels, out_channels, 1, **factory)
        if config.time_channels:
            linear = operations.Linear(config.time_embed_dim, out_channels, **factory)
            self.emb_layers = nn.Sequential(nn.SiLU(), linear)

    def forward(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        """(N, C, h, w), embedding (N, E) -> (N, C', h, w)."""
        hidden = self.conv1(functional.silu(self.norm1(x)))
        if embedding is not None:
            hidden = hidden + self.emb_layers(embedding)[..., None, None]
        hidden = self.conv2(functional.silu(self.norm2(hidden)))
        return (hidden + self.shortcut(x)) * RESIDUAL_SCALE


class FusedAttention(nn.Module):
    """Multi-head self-attention with one layer for queries, keys and values."""

    def __init__(
        self,
        channels: int,
        heads: int,
        operations: ModuleType | type,
        attend: Attend | None = None,
        **factory: Any,
    ):
        super().__init__()
        self.heads = heads
        self.attend = attend or scaled_dot_product
        self.qkv = operations.Linear(channels, 3 * channels, bias=False, **factory)
        self.proj = operations.Linear(channels, channels, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, C) -> (B, L, C)."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.proj(chunked_attention(self.attend, q, k, v, self.heads))


class MultiviewAttention(nn.Module):
    """Self-attention among the pixels of all views of an object, with a skip connection."""

    def __init__(
        self,
        channels: int,
        config: LgmConfig,
        operations: ModuleType | type,
        attend: Attend | None = None,
        **factory: Any,
    ):
        super().__init__()
        self.norm = operations.GroupNorm(config.norm_num_groups, channels, **factory)
        self.attn = FusedAttention(channels, config.num_heads, operations, attend, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """(B V, C, h, w) -> (B V, C, h, w)."""
        tokens = self.norm(x).unflatten(0, (-1, VIEW_COUNT))  # (B, V, C, h, w)
        tokens = tokens.movedim(2, -1).flatten(1, 3)  # (B, V h w, C)
        out = self.attn(tokens).unflatten(1, (VIEW_COUNT, *x.shape[2:]))
        return (out.movedim(-1, 2).flatten(0, 1) + x) * RESIDUAL_SCALE


class _Level(nn.Module):
    """Residual blocks of a level, each followed by attention where the level has it."""

    def __init__(self, inputs: list[int], width: int, has_attention: bool, build: _LgmBuilder):
        super().__init__()
        self.nets = nn.ModuleList(build.residual(each, width) for each in inputs)
        self.attns = build.attentions(width, len(inputs), has_attention)


class DownBlock(_Level):
    """A level of the encoder, and the strided convolution to the next one."""

    def __init__(
        self, inputs: list[int], width: int, has_attention: bool, resample: bool, build: _LgmBuilder
    ):
        super().__init__(inputs, width, has_attention, build)
        self.downsample = build.conv(width, width, stride=2) if resample else None

    def forward(self, x: Tensor, embedding: Tensor | None) -> list[Tensor]:
        """(N, C, h, w) -> the output of each layer; the decoder receives all of them."""
        outputs = []
        for net, attention in zip(self.nets, self.attns, strict=True):
            x = attention(net(x, embedding))
            outputs.append(x)
        if self.downsample is not None:
            outputs.append(self.downsample(x))
        return outputs


class MidBlock(nn.Module):
    """The deepest block: attention between two residual blocks."""

    def __init__(self, width: int, has_attention: bool, build: _LgmBuilder):
        super().__init__()
        self.nets = nn.ModuleList(build.residual(width, width) for _ in range(2))
        self.attns = build.attentions(width, 1, has_attention)

    def forward(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w)."""
        first, last = self.nets
        return last(self.attns[0](first(x, embedding)), embedding)


class UpBlock(_Level):
    """A level of the decoder, and nearest-neighbour upsampling to the next one."""

    def __init__(
        self, inputs: list[int], width: int, has_attention: bool, resample: bool, build: _LgmBuilder
    ):
        super().__init__(inputs, width, has_attention, build)
        self.upsample = build.conv(width, width) if resample else None

    def forward(self, x: Tensor, skips: list[Tensor], embedding: Tensor | None) -> Tensor:
        """(N, C, h, w) -> (N, C', 2h, 2w); consumes one skip connection per residual block."""
        for net, attention in zip(self.nets, self.attns, strict=True):
            x = attention(net(torch.cat([x, skips.pop()], dim=1), embedding))
        if self.upsample is not None:
            x = self.upsample(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return x


class _LgmBuilder:
    """Builds the layers of a network with its config, operations and weight factory."""

    def __init__(
        self,
        config: LgmConfig,
        operations: ModuleType | type,
        attend: Attend | None,
        factory: dict[str, Any],
    ):
        self.config, self.operations, self.attend, self.factory = (
            config, operations, attend, factory
        )  # fmt: skip

    def conv(self, in_channels: int, out_channels: int, stride: int = 1) -> nn.Module:
        return self.operations.Conv2d(
            in_channels, out_channels, 3, stride=stride, padding=1, **self.factory
        )

    def residual(self, in_channels: int, out_channels: int) -> ResidualBlock:
        return ResidualBlock(
            in_channels, out_channels, self.config, self.operations, **self.factory
        )

    def attentions(self, channels: int, count: int, exist: bool) -> nn.ModuleList:
        """Attention layers, or layers that do nothing where a level has no attention."""
        if not exist:
            return nn.ModuleList(nn.Identity() for _ in range(count))
        return nn.ModuleList(
            MultiviewAttention(channels, self.config, self.operations, self.attend, **self.factory)
            for _ in range(count)
        )

    def down_blocks(self) -> tuple[nn.ModuleList, list[int]]:
        """The encoder's levels, and the widths of the skip connections that they provide."""
        config, blocks = self.config, nn.ModuleList()
        channels, layers = config.down_widths[0], config.layers_per_block
        skips = [channels]
        for level, width in enumerate(config.down_widths):
            inputs = [channels] + [width] * (layers - 1)
            resample = level + 1 < len(config.down_widths)
            blocks.append(DownBlock(inputs, width, config.down_attention[level], resample, self))
            skips += [width] * (layers + resample)
            channels = width
        return blocks, skips

    def up_blocks(self, skips: list[int]) -> nn.ModuleList:
        """The decoder's levels, the coarsest first."""
        config, blocks = self.config, nn.ModuleList()
        channels, layers, skips = config.down_widths[-1], config.layers_per_block + 1, list(skips)
        for level, width in enumerate(config.up_widths):
            inputs = [each + skips.pop() for each in [channels] + [width] * (layers - 1)]
            resample = level + 1 < len(config.up_widths)
            blocks.append(UpBlock(inputs, width, config.up_attention[level], resample, self))
            channels = width
        return blocks


class LgmUNet(nn.Module):
    """The U-Net, without the final 1x1 convolution."""

    def __init__(self, build: _LgmBuilder):
        super().__init__()
        self.config = config = build.config
        operations, factory = build.operations, build.factory
        self.conv_in = build.conv(config.in_channels, config.down_widths[0])
        self.down_blocks, skips = build.down_blocks()
        self.mid_block = MidBlock(config.down_widths[-1], config.mid_attention, build)
        self.up_blocks = build.up_blocks(skips)
        last = config.up_widths[-1]
        self.norm_out = operations.GroupNorm(config.norm_num_groups, last, **factory)
        self.conv_out = build.conv(last, config.out_channels)
        if config.time_channels:
            width = config.time_embed_dim
            self.time_embed = nn.Sequential(
                operations.Linear(config.time_channels, width, **factory),
                nn.SiLU(),
                operations.Linear(width, width, **factory),
            )

    def forward(self, x: Tensor, c_noise: Tensor | None) -> Tensor:
        """(B V, Cin, H, W), c_noise (B,) -> (B V, Cout, H / stride, W / stride) float32."""
        embedding = None
        if c_noise is not None:
            waves = sinusoidal_embedding(c_noise, self.config.time_channels).to(x.dtype)
            embedding = self.time_embed(waves).repeat_interleave(VIEW_COUNT, dim=0)  # (B V, E)
        skips = [self.conv_in(x)]
        for block in self.down_blocks:
            skips += block(skips[-1], embedding)
        x = self.mid_block(skips[-1], embedding)
        for block in self.up_blocks:
            x = block(x, skips, embedding)
        # the last layers cost little; positions need more than the 11 bits of float16
        return self.conv_out(functional.silu(self.norm_out(x.float())))


class Lgm(nn.Module):
    """LGM, or Ouroboros3D's reconstruction model.

    Args:
        config: architecture.
        operations: provides Linear, Conv2d and GroupNorm; ComfyUI's let the host stream weights.
        attention: attention function of (q, k, v, heads); torch's own kernels if None.
        device: of the weights; "meta" allocates none.
        dtype: of the weights.
    """

    def __init__(
        self,
        config: LgmConfig | None = None,
        operations: ModuleType | type = plain_operations,
        attention: Attend | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.config = config = config or LgmConfig()
        factory = {"device": device, "dtype": dtype}
        self.unet = LgmUNet(_LgmBuilder(config, operations, attention, factory))
        self.conv = operations.Conv2d(config.out_channels, config.out_channels, 1, **factory)

    def forward(self, x: Tensor, c_noise: Tensor | None = None) -> Tensor:
        """One splat per output pixel, before the activations of `activations.activate`.

        Args:
            x: (B, 4, Cin, H, W) normalised colours and Pluecker rays of B objects.
            c_noise: (B,) 0.25 log sigma of the views; 0 for clean ones. Ignored by a network
                without time embedding; zeros if None.

        Returns:
            (B, 4, Cout, H / stride, W / stride) float32.

        Raises:
            InputError: shapes that do not match the network.
        """
        config = self.config
        sizes = check_shape("LGM's x", x, "B V C H W", V=VIEW_COUNT, C=config.in_channels)
        if sizes["H"] % config.multiple or sizes["W"] % config.multiple:
            raise InputError(
                f"LGM's x is {sizes['W']}x{sizes['H']} px, expected multiples of {config.multiple}."
            )
        if config.time_channels:
            c_noise = x.new_zeros(len(x), dtype=torch.float32) if c_noise is None else c_noise
            check_shape("LGM's c_noise", c_noise, "B", B=sizes["B"])
        else:
            c_noise = None
        return self.conv(self.unet(x.flatten(0, 1), c_noise)).unflatten(0, (-1, VIEW_COUNT))
