"""The video UNet of SVD, SV3D and V3D, extended by NOVA3D's second domain.

State-dict keys are those of the original sgm layout, below `model.diffusion_model.`.
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
from .blocks import BatchLayout, Downsample, Upsample, VideoResBlock, check_latents
from .config import UNetConfig
from .embeddings import sinusoidal_embedding
from .transformer import VideoTransformer


class VideoUNet(nn.Module):
    """Video UNet that denoises all views of an object in all domains jointly.

    Args:
        config: architecture.
        operations: provides Linear, Conv2d, Conv3d, GroupNorm and LayerNorm; ComfyUI's let the host
            stream weights.
        attention: attention function of (q, k, v, heads); torch's own kernels if None.
        device: of the weights; "meta" allocates none.
        dtype: of the weights.

    Attributes:
        gradient_checkpointing: recompute the activations of each block in the backward pass.
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
        added_embeds: Tensor,
        camera_task: Tensor | None = None,
    ) -> Tensor:
        """The raw network F of EDM's D(x; sigma) = c_skip x + c_out F(c_in x; c_noise).

        Args:
            x: (D, B, V, Cin, h, w) noisy latents scaled by c_in, concatenated with the input
                image's latent; h and w multiples of 8 for four levels. The B objects are
                independent.
            c_noise: (B,) noise level of each object, ln(sigma) / 4.
            context: (B, M, Cc) image embedding, or (B, V, M, Cc) for one per view; M is usually 1.
            added_embeds: (B, V, A) sinusoidal embeddings of the added conditions.
            camera_task: (D, B, V, 10) camera and task embedding, for networks that take one.

        Returns:
            (D, B, V, Cout, h, w) in the dtype of x.

        Raises:
            InputError: shapes that do not match each other or the network.
        """
        layout = self._layout(x, c_noise, context, added_embeds, camera_task)
        hidden = x.flatten(0, 2)  # (N, Cin, h, w)
        skips = []
        for block in self.input_blocks:
            for layer in block:
                hidden = self._run(layer, hidden, layout)
            skips.append(hidden)
        for layer in self.middle_block:
            hidden = self._run(layer, hidden, layout)
        for block in self.output_blocks:
            hidden = torch.cat([hidden, skips.pop()], dim=1)
            for layer in block:  # rebinding frees each layer's input
                hidden = self._run(layer, hidden, layout)
        return self.out(hidden).unflatten(0, layout.sizes)

    def _layout(
        self,
        x: Tensor,
        c_noise: Tensor,
        context: Tensor,
        added_embeds: Tensor,
        camera_task: Tensor | None,
    ) -> BatchLayout:
        """Checks the shapes and embeds noise level and conditions."""
        config = self.config
        objects, views = check_latents(x, c_noise, config)
        shape = "B V M C" if context.dim() == 4 else "B M C"
        given = {"V": views} if context.dim() == 4 else {}
        check_shape("the UNet's context", context, shape, B=objects, C=config.context_dim, **given)
        check_shape(
            "the UNet's added_embeds",
            added_embeds,
            "B V A",
            B=objects,
            V=views,
            A=config.add_embed_dim,
        )
        embedding = self.time_embed(
            sinusoidal_embedding(c_noise, config.model_channels).to(x.dtype)
        )[:, None]
        embedding = embedding + self.label_emb(added_embeds.to(x.dtype))  # (B, V, E)
        embedding = embedding.expand(config.domains, -1, -1, -1)  # (D, B, V, E)
        if (camera_task is None) != (not config.camera_task_dim):
            raise InputError(
                "this network needs the UNet's camera_task."
                if camera_task is None
                else "this network takes no camera_task."
            )
        if camera_task is not None:
            expected = {"D": config.domains, "B": objects, "V": views, "A": config.camera_task_dim}
            check_shape("the UNet's camera_task", camera_task, "D B V A", **expected)
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
    """Builds the UNet's blocks in the order of the sgm layout."""

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

    def mlp(self, in_features: int) -> nn.Sequential:
        """MLP from an embedding to the width of the time embedding."""
        linear, width = self.operations.Linear, self.config.time_embed_dim
        return nn.Sequential(
            linear(in_features, width, **self.factory),
            nn.SiLU(),
            linear(width, width, **self.factory),
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
        """The encoder blocks, and the width of the skip connection that each provides."""
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
                downsample = Downsample(width, self.operations, **self.factory)
                blocks.append(nn.ModuleList([downsample]))
                widths.append(width)
        return nn.ModuleList(blocks), widths

    def up_blocks(self, widths: list[int]) -> nn.ModuleList:
        """The decoder blocks; each consumes the skip connection of one encoder block."""
        config, skip_widths = self.config, list(widths)
        width = skip_widths[-1]
        blocks = []
        levels = list(zip(config.channel_mult, config.attention_levels, strict=True))
        for level, (factor, attends) in reversed(list(enumerate(levels))):
            for index in range(config.num_res_blocks + 1):
                out_width = config.model_channels * factor
                layers: list[nn.Module] = [self.res(width + skip_widths.pop(), out_width)]
                width = out_width
                if attends:
                    layers.append(self.transformer(width))
                if level and index == config.num_res_blocks:
                    layers.append(Upsample(width, self.operations, **self.factory))
                blocks.append(nn.ModuleList(layers))
        return nn.ModuleList(blocks)

    def head(self) -> nn.Sequential:
        """Output layers: norm, SiLU, convolution to latent channels."""
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
