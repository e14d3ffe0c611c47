"""Image encoder of the PixelNeRF conditioner: the residual U-Net of IBRNet (Wang et al. 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDE = 4
"""Image size over size of the output."""
GROUP_CHANNELS = 8
"""Channels that are normalised together."""
MIN_SIDE_PX = 20
"""Smallest image side: reflection padding needs two pixels at 1/16 of it."""


def _conv(in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    """Convolution with reflection padding, whose bias the norm after it makes redundant."""
    return nn.Conv2d(
        in_channels,
        out_channels,
        kernel,
        stride,
        padding=kernel // 2,
        padding_mode="reflect",
        bias=False,
    )


def _norm(channels: int) -> nn.Module:
    """Group norm, so that the features of an image do not depend on the others of the batch.

    IBRNet has batch norm without running statistics. That depends on the batch, and for one image
    it removes the mean of each channel, by which sources of different colours could be compared.
    """
    groups = channels // GROUP_CHANNELS if channels % GROUP_CHANNELS == 0 else 1
    return nn.GroupNorm(groups, channels)


class _ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a skip connection, as in ResNet-34 (He et al. 2016)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv1, self.norm1 = _conv(in_channels, out_channels, 3, stride), _norm(out_channels)
        self.conv2, self.norm2 = _conv(out_channels, out_channels), _norm(out_channels)
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.skip = nn.Sequential(
                _conv(in_channels, out_channels, 1, stride), _norm(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C', h / stride, w / stride)."""
        hidden = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(hidden)) + self.skip(x))


class _ConvElu(nn.Module):
    """Convolution, norm and ELU of the decoder."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv, self.norm = _conv(in_channels, out_channels), _norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C', h, w)."""
        return functional.elu(self.norm(self.conv(x)))


class ResUNet(nn.Module):
    """Encodes images to features at a quarter of their size.

    Three levels of residual blocks at 1/4, 1/8 and 1/16, and a decoder back to 1/4.

    Args:
        channels: C, of the output and of the first level.
        blocks: residual blocks of the three levels.
    """

    def __init__(self, channels: int = 64, blocks: tuple[int, ...] = (3, 4, 6)):
        super().__init__()
        self.stem, self.stem_norm = _conv(3, channels, 7, 2), _norm(channels)
        widths = [channels, 2 * channels, 4 * channels]
        self.levels, width = nn.ModuleList(), channels
        for level_width, count in zip(widths, blocks, strict=True):
            layers = [_ResidualBlock(width, level_width, 2)]
            layers += [_ResidualBlock(level_width, level_width, 1) for _ in range(count - 1)]
            self.levels.append(nn.Sequential(*layers))
            width = level_width
        self.up3, self.merge3 = _ConvElu(widths[2], widths[1]), _ConvElu(2 * widths[1], widths[1])
        self.up2, self.merge2 = _ConvElu(widths[1], channels), _ConvElu(2 * channels, channels)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) in -1..1 -> (N, C, H/4, W/4)."""
        x = functional.relu(self.stem_norm(self.stem(images)))
        first = self.levels[0](x)  # 1/4
        second = self.levels[1](first)  # 1/8
        third = self.levels[2](second)  # 1/16
        x = self.merge3(torch.cat([second, self.up3(_resize(third, second))], dim=1))
        x = self.merge2(torch.cat([first, self.up2(_resize(x, first))], dim=1))
        return self.out(x)


def _resize(x: Tensor, reference: Tensor) -> Tensor:
    """Upsamples x bilinearly to the height and width of the reference."""
    return functional.interpolate(
        x, size=reference.shape[-2:], mode="bilinear", align_corners=False
    )
