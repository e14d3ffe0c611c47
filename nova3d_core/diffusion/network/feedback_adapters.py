"""T2I-Adapters that turn feedback images into features of the UNet's encoder (Ouroboros3D)."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

BLOCKS_PER_LEVEL = 3
IMAGE_CHANNELS = 3


class AdapterBlock(nn.Module):
    """Residual block: a 3x3 and a 1x1 convolution; the second is zero at the start of training.

    Args:
        in_channels: width of the input.
        out_channels: width of the output; where it differs, a 1x1 convolution adapts the input.
        downsample: whether height and width are halved first, by averaging.
        operations: provides Conv2d.
        factory: device and dtype of the weights.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        downsample: bool,
        operations: ModuleType | type,
        **factory: Any,
    ):
        super().__init__()
        conv = operations.Conv2d
        self.downsample = downsample
        if in_channels != out_channels:
            self.in_conv = conv(in_channels, out_channels, 1, **factory)
        self.block1 = conv(out_channels, out_channels, 3, padding=1, **factory)
        self.block2 = conv(out_channels, out_channels, 1, **factory)
        for parameter in self.block2.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C', h, w) or (N, C', h/2, w/2)."""
        if self.downsample:
            x = functional.avg_pool2d(x, 2)
        if hasattr(self, "in_conv"):
            x = self.in_conv(x)
        return x + self.block2(functional.relu(self.block1(x)))


class FeedbackAdapter(nn.Module):
    """Features of an image at the resolution of each level of the UNet.

    Args:
        widths: channels of the UNet's levels, the finest first.
        factor: pixels per latent along a side.
        operations: provides Conv2d.
        factory: device and dtype of the weights.
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        factor: int,
        operations: ModuleType | type,
        **factory: Any,
    ):
        super().__init__()
        self.factor = factor
        blocks, width = [], widths[0]
        for level, out_width in enumerate(widths):
            for index in range(BLOCKS_PER_LEVEL):
                downsample = level > 0 and index == 0
                blocks.append(AdapterBlock(width, out_width, downsample, operations, **factory))
                width = out_width
        self.body = nn.ModuleList(blocks)
        self.conv_in = operations.Conv2d(
            IMAGE_CHANNELS * factor**2, widths[0], 3, padding=1, **factory
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features of each level.

        Args:
            images: (N, 3, H, W) in 0..1.

        Returns:
            (N, C, H/f, W/f), then at half the resolution of the one before.
        """
        x = self.conv_in(functional.pixel_unshuffle(images, self.factor))
        features = []
        for index, block in enumerate(self.body, start=1):
            x = block(x)
            if index % BLOCKS_PER_LEVEL == 0:
                features.append(x)
        return features
