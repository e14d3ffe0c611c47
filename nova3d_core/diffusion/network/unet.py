"""The video UNet of SVD and its relatives, with NOVA3D's second domain.

Parameters are named as in the original (sgm) layout, below `model.diffusion_model.`.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...checks import check_shape
from ...errors import InputError
from . import operations as plain_operations
from .attention import Attend
from .blocks import BatchLayout, Downsample, Upsample, VideoResBlock
from .config import UNetConfig
from .embeddings import sinusoidal_embedding
from .transformer import VideoTransformer


class VideoUNet(nn.Module):
    """Denoises all views of an object, in all domains, together.

    Args:
        config: widths and depths.
        operations: where Linear, Conv2d, Conv3d, GroupNorm and LayerNorm come from; ComfyUI's let
            the host stream weights.
        attention: computes attention as (q, k, v, heads); torch's own kernels if None.
        device: of the weights; "meta" makes none.
        dtype: of the weights.

    Attributes:
        checkpointing: recompute blocks in the backward pass instead of keeping them in memory.
    """

    def __init__(
        self,
        config: UNetConfig | None = None,
        operations: ModuleType | type = plain_operations,
        attention: Attend | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.config = config = config or UNetConfig()
        self.gradient_checkpointing = False
        build = _Builder(config, operations, attention, {"device": device, "dtype": dtype})
        self.time_embed = build.mlp(config.model_channels)
        self.label_emb = nn.Sequential(build.mlp(config.add_embed_dim))
        if config.camera_task_dim:
            self.camera_task_emb = build.mlp(config.camera_task_dim)
        self.input_blocks, widths = build.down_blocks()
        deepest = widths[-1]
        self.middle_block = nn.ModuleList(
            [build.res(deepest, deepest), build.transformer(deepest), build.res(deepest, deepest)]
        )
        self.output_blocks = build.up_blocks(widths)
        self.out = build.head()

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor,
        context: Tensor,
        added: Tensor,
        camera_task: Tensor | None = None,
    ) -> Tensor:
        """F of EDM's D(x; sigma) = c_skip x + c_out F(c_in x; c_noise).

        Args:
            x: (D, B, V, Cin, h, w) c_in-scaled noisy latents with the input image's latent; h and
                w multiples of 8 for four levels. Nothing passes between the B objects.
            c_noise: (B,) noise level of each object, ln(sigma) / 4.
            context: (B, M, Cc) image embedding; M is usually 1.
            added: (B, V, A) further conditions, as sinusoids.
            camera_task: (D, B, V, 10) camera and task, for networks that take them.

        Returns:
            (D, B, V, Cout, h, w), in the number format of x.

        Raises:
            InputError: on shapes that do not belong together or do not fit the network.
        """
        layout = self._layout(x, c_noise, context, added, camera_task)
        hidden = x.flatten(0, 2)  # (N, Cin, h, w)
        skipped = []
        for block in self.input_blocks:
            for layer in block:
                hidden = self._run(layer, hidden, layout)
            skipped.append(hidden)
        for layer in self.middle_block:
            hidden = self._run(layer, hidden, layout)
        for block in self.output_blocks:
            hidden = torch.cat([hidden, skipped.pop()], dim=1)
            for layer in block:  # one name for all: no layer's input outlives it in memory
                hidden = self._run(layer, hidden, layout)
        return self.out(hidden).unflatten(0, layout.sizes)

    def _layout(
        self,
        x: Tensor,
        c_noise: Tensor,
        context: Tensor,
        added: Tensor,
        camera_task: Tensor | None,
    ) -> BatchLayout:
        """Checks the inputs and embeds the conditions."""
        config = self.config
        sizes = check_shape(
            "the UNet's x", x, "D B V C H W", D=config.domains, C=config.in_channels
        )
        objects, views = sizes["B"], sizes["V"]
        most = 2 ** (len(config.channel_mult) - 1)
        if sizes["H"] % most or sizes["W"] % most:
            raise InputError(
                f"the UNet's x is {sizes['W']}x{sizes['H']} latents, expected multiples of {most}."
            )
        check_shape("the UNet's c_noise", c_noise, "B", B=objects)
        check_shape("the UNet's context", context, "B M C", B=objects, C=config.context_dim)
        check_shape("the UNet's added", added, "B V A", B=objects, V=views, A=config.add_embed_dim)
        embedding = self.time_embed(
            sinusoidal_embedding(c_noise, config.model_channels).to(x.dtype)
        )[:, None]
        embedding = embedding + self.label_emb(added.to(x.dtype))  # (B, V, E)
        embedding = embedding.expand(config.domains, -1, -1, -1)  # (D, B, V, E)
        if (camera_task is None) != (not config.camera_task_dim):
            raise InputError(
                "this network needs the UNet's camera_task."
                if camera_task is None
                else "this network takes no camera_task."
            )
        if camera_task is not None:
            known = {"D": config.domains, "B": objects, "V": views, "A": config.camera_task_dim}
            check_shape("the UNet's camera_task", camera_task, "D B V A", **known)
            embedding = embedding + self.camera_task_emb(camera_task.to(x.dtype))
        return BatchLayout(
            config.domains, objects, views, embedding.flatten(0, 2), context.to(x.dtype)
        )

    def _run(self, layer: nn.Module, x: Tensor, layout: BatchLayout) -> Tensor:
        if not isinstance(layer, (VideoResBlock, VideoTransformer, Downsample, Upsample)):
            return layer(x)
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(layer, x, layout, use_reentrant=False)
        return layer(x, layout)


class _Builder:
    """Makes the UNet's parts in the order of the sgm layout."""

    def __init__(
        self,
        config: UNetConfig,
        operations: ModuleType | type,
        attend: Attend | None,
        factory: dict[str, Any],
    ):
        self.config, self.operations, self.attend, self.factory = (
            config, operations, attend, factory
        )  # fmt: skip

    def mlp(self, numbers: int) -> nn.Sequential:
        """Numbers into the embedding."""
        linear, width = self.operations.Linear, self.config.time_embed_dim
        return nn.Sequential(
            linear(numbers, width, **self.factory), nn.SiLU(), linear(width, width, **self.factory)
        )

    def res(self, in_channels: int, out_channels: int) -> VideoResBlock:
        config = self.config
        return VideoResBlock(
            in_channels,
            out_channels,
            config.time_embed_dim,
            config.norm_num_groups,
            self.operations,
            **self.factory,
        )

    def transformer(self, channels: int) -> VideoTransformer:
        return VideoTransformer(channels, self.config, self.operations, self.attend, **self.factory)

    def down_blocks(self) -> tuple[nn.ModuleList, list[int]]:
        """The blocks on the way down, and the width that each one leaves for the way up."""
        config = self.config
        width = config.model_channels
        first = self.operations.Conv2d(config.in_channels, width, 3, padding=1, **self.factory)
        blocks, widths = [nn.ModuleList([first])], [width]
        levels = list(zip(config.channel_mult, config.attention_levels, strict=True))
        for level, (factor, attends) in enumerate(levels):
            for _ in range(config.num_res_blocks):
                layers: list[nn.Module] = [self.res(width, config.model_channels * factor)]
                width = config.model_channels * factor
                if attends:
                    layers.append(self.transformer(width))
                blocks.append(nn.ModuleList(layers))
                widths.append(width)
            if level + 1 < len(levels):
                half = Downsample(width, self.operations, **self.factory)
                blocks.append(nn.ModuleList([half]))
                widths.append(width)
        return nn.ModuleList(blocks), widths

    def up_blocks(self, widths: list[int]) -> nn.ModuleList:
        """The blocks on the way up; each takes what its fellow on the way down left."""
        config, left = self.config, list(widths)
        width = left[-1]
        blocks = []
        levels = list(zip(config.channel_mult, config.attention_levels, strict=True))
        for level, (factor, attends) in reversed(list(enumerate(levels))):
            for index in range(config.num_res_blocks + 1):
                layers: list[nn.Module] = [
                    self.res(width + left.pop(), config.model_channels * factor)
                ]
                width = config.model_channels * factor
                if attends:
                    layers.append(self.transformer(width))
                if level and index == config.num_res_blocks:
                    layers.append(Upsample(width, self.operations, **self.factory))
                blocks.append(nn.ModuleList(layers))
        return nn.ModuleList(blocks)

    def head(self) -> nn.Sequential:
        """From the last width to latents."""
        config = self.config
        return nn.Sequential(
            self.operations.GroupNorm(
                config.norm_num_groups, config.model_channels, **self.factory
            ),
            nn.SiLU(),
            self.operations.Conv2d(
                config.model_channels, config.out_channels, 3, padding=1, **self.factory
            ),
        )
