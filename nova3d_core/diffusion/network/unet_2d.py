"""The 2D multi-view UNet of Wonder3D: Stable Diffusion 1.5's UNet with joint attention.

State-dict keys are diffusers'. It predicts the noise of all views in both domains.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...checks import check_shape
from ...errors import InputError
from . import operations as plain_operations
from .attention import Attend
from .blocks import BatchLayout, check_latents
from .blocks_2d import Downsample2D, MultiviewTransformer, ResBlock2D, Upsample2D
from .embeddings import sinusoidal_embedding
from .unet_2d_config import UNet2DConfig


class Mlp(nn.Module):
    """Two linear layers with SiLU between them; diffusers' `TimestepEmbedding`."""

    def __init__(self, in_features: int, width: int, operations: ModuleType | type, **factory: Any):
        super().__init__()
        self.linear_1 = operations.Linear(in_features, width, **factory)
        self.linear_2 = operations.Linear(width, width, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., width)."""
        return self.linear_2(functional.silu(self.linear_1(x)))


class MultiviewUNet2D(nn.Module):
    """2D UNet that denoises all views of an object, colours and normals, jointly.

    Args:
        config: architecture.
        operations: provides Linear, Conv2d, GroupNorm and LayerNorm; ComfyUI's let the host stream
            weights.
        attention: attention function of (q, k, v, heads); torch's own kernels if None.
        device: of the weights; "meta" allocates none.
        dtype: of the weights.
    """

    def __init__(
        self,
        config: UNet2DConfig | None = None,
        operations: ModuleType | type = plain_operations,
        attention: Attend | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.config = config = config or UNet2DConfig()
        build = _Builder2D(config, operations, attention, {"device": device, "dtype": dtype})
        first, widths = config.model_channels, config.widths
        self.conv_in = build.conv(config.in_channels, first)
        self.time_embedding = build.mlp(first)
        self.class_embedding = build.mlp(config.camera_task_dim)
        self.down_blocks, skip_widths = build.down_blocks()
        self.mid_block = build.mid_block(widths[-1])
        self.up_blocks = build.up_blocks(skip_widths)
        self.conv_norm_out = build.norm(first)
        self.conv_out = build.conv(first, config.out_channels)

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor,
        context: Tensor,
        added_embeds: Tensor,
        camera_task: Tensor | None = None,
    ) -> Tensor:
        """Predicts the noise eps(x; t).

        Args:
            x: (D, B, V, Cin, h, w) noisy latents of unit variance, concatenated with the input
                image's scaled latent. The B objects are independent.
            c_noise: (B,) timestep of each object, 0 to 999.
            context: (B, M, Cc) image embedding; M is usually 1.
            added_embeds: (B, V, 0); this network has no added conditions.
            camera_task: (D, B, V, A) sines and cosines of camera and task.

        Returns:
            (D, B, V, Cout, h, w) in the dtype of x.

        Raises:
            InputError: shapes that do not match each other or the network.
        """
        layout = self._layout(x, c_noise, context, added_embeds, camera_task)
        skips = [self.conv_in(x.flatten(0, 2))]  # (N, C, h, w)
        for block in self.down_blocks:
            skips += _down(block, skips[-1], layout)
        hidden = skips[-1]
        first, last = self.mid_block["resnets"]
        hidden = self.mid_block["attentions"][0](first(hidden, layout), layout)
        hidden = last(hidden, layout)
        for block in self.up_blocks:
            hidden = _up(block, hidden, skips, layout)
        out = self.conv_out(functional.silu(self.conv_norm_out(hidden)))
        return out.unflatten(0, layout.sizes)

    def _layout(
        self,
        x: Tensor,
        c_noise: Tensor,
        context: Tensor,
        added_embeds: Tensor,
        camera_task: Tensor | None,
    ) -> BatchLayout:
        """Checks the shapes and embeds timestep, camera and task."""
        config = self.config
        objects, views = check_latents(x, c_noise, config)
        if camera_task is None:
            raise InputError("this network needs the UNet's camera_task.")
        check_shape("the UNet's context", context, "B M C", B=objects, C=config.context_dim)
        check_shape("the UNet's added_embeds", added_embeds, "B V A", B=objects, V=views, A=0)
        expected = {"D": config.domains, "B": objects, "V": views, "A": config.camera_task_dim}
        check_shape("the UNet's camera_task", camera_task, "D B V A", **expected)
        timestep = sinusoidal_embedding(c_noise, config.model_channels).to(x.dtype)
        embedding = self.time_embedding(timestep)[:, None]  # (B, 1, E)
        embedding = embedding + self.class_embedding(camera_task.to(x.dtype))  # (D, B, V, E)
        return BatchLayout(
            config.domains, objects, views, embedding.flatten(0, 2), context.to(x.dtype)
        )


def _down(block: nn.ModuleDict, hidden: Tensor, layout: BatchLayout) -> list[Tensor]:
    """The output of each layer of an encoder level; the decoder receives all of them."""
    outputs = []
    attentions = block["attentions"] if "attentions" in block else [None] * len(block["resnets"])
    for resnet, attention in zip(block["resnets"], attentions, strict=True):
        hidden = resnet(hidden, layout)
        if attention is not None:
            hidden = attention(hidden, layout)
        outputs.append(hidden)
    if "downsamplers" in block:
        outputs.append(block["downsamplers"][0](hidden))
    return outputs


def _up(block: nn.ModuleDict, hidden: Tensor, skips: list[Tensor], layout: BatchLayout) -> Tensor:
    """Output of a decoder level; consumes one skip connection for each residual block."""
    attentions = block["attentions"] if "attentions" in block else [None] * len(block["resnets"])
    for resnet, attention in zip(block["resnets"], attentions, strict=True):
        hidden = resnet(torch.cat([hidden, skips.pop()], dim=1), layout)
        if attention is not None:
            hidden = attention(hidden, layout)
    return block["upsamplers"][0](hidden) if "upsamplers" in block else hidden


class _Builder2D:
    """Builds the UNet's blocks with diffusers' names."""

    def __init__(
        self,
        config: UNet2DConfig,
        operations: ModuleType | type,
        attend: Attend | None,
        factory: dict[str, Any],
    ):
        self.config, self.operations, self.attend, self.factory = (
            config, operations, attend, factory
        )  # fmt: skip

    def conv(self, in_channels: int, out_channels: int) -> nn.Module:
        return self.operations.Conv2d(in_channels, out_channels, 3, padding=1, **self.factory)

    def norm(self, channels: int) -> nn.Module:
        return self.operations.GroupNorm(self.config.norm_num_groups, channels, **self.factory)

    def mlp(self, in_features: int) -> Mlp:
        """MLP from an embedding to the width of the time embedding."""
        return Mlp(in_features, self.config.time_embed_dim, self.operations, **self.factory)

    def res(self, in_channels: int, out_channels: int) -> ResBlock2D:
        return ResBlock2D(in_channels, out_channels, self.config, self.operations, **self.factory)

    def transformers(self, channels: int, count: int) -> nn.ModuleList:
        return nn.ModuleList(
            MultiviewTransformer(
                channels, self.config, self.operations, self.attend, **self.factory
            )
            for _ in range(count)
        )

    def down_blocks(self) -> tuple[nn.ModuleList, list[int]]:
        """The encoder levels, and the widths of the skip connections that they provide."""
        config, widths = self.config, self.config.widths
        channels = config.model_channels
        blocks, skips = nn.ModuleList(), [channels]
        for level, width in enumerate(widths):
            inputs = [channels] + [width] * (config.num_res_blocks - 1)
            block = {"resnets": nn.ModuleList(self.res(each, width) for each in inputs)}
            if config.attention_levels[level]:
                block["attentions"] = self.transformers(width, config.num_res_blocks)
            skips += [width] * config.num_res_blocks
            if level + 1 < len(widths):
                downsample = Downsample2D(width, self.operations, **self.factory)
                block["downsamplers"] = nn.ModuleList([downsample])
                skips.append(width)
            blocks.append(nn.ModuleDict(block))
            channels = width
        return blocks, skips

    def mid_block(self, width: int) -> nn.ModuleDict:
        """The deepest block: attention between two residual blocks."""
        return nn.ModuleDict(
            {
                "resnets": nn.ModuleList(self.res(width, width) for _ in range(2)),
                "attentions": self.transformers(width, 1),
            }
        )

    def up_blocks(self, skip_widths: list[int]) -> nn.ModuleList:
        """The decoder levels, the coarsest first."""
        config, skips = self.config, list(skip_widths)
        channels, count = config.widths[-1], config.num_res_blocks + 1
        blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(config.widths))):
            inputs = [channels] + [width] * (count - 1)
            resnets = [self.res(each + skips.pop(), width) for each in inputs]
            block = {"resnets": nn.ModuleList(resnets)}
            if config.attention_levels[level]:
                block["attentions"] = self.transformers(width, count)
            if level:
                upsample = Upsample2D(width, self.operations, **self.factory)
                block["upsamplers"] = nn.ModuleList([upsample])
            blocks.append(nn.ModuleDict(block))
            channels = width
        return blocks
