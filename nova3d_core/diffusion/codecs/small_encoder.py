"""A small convolutional image encoder, trained jointly with the UNet."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise

from torch import Tensor, nn

from ...checks import check_between, check_bounds, check_shape
from ..network import operations
from .clip import resize_antialiased

SIZE_PX = 64
"""Width and height of the encoder's input."""
_GROUPS = 8


@dataclass(frozen=True)
class SmallEncoderConfig:
    """Architecture of a small image encoder."""

    channels: int = 32
    """Width of the first layer, a multiple of 8; the last layers are four times as wide."""
    embed_dim: int = 256
    """Length of the embedding."""

    def __post_init__(self):
        check_bounds(self, "small encoder", channels=(8, 1024), embed_dim=(1, 65536))
        check_between("small encoder channels over 8", self.channels % _GROUPS, 0, 0)


class SmallEncoder(nn.Module):
    """Four strided convolutions, a residual one, and global average pooling.

    With the defaults it has 0.42 million parameters. It computes in float32 whatever the dtype of
    its weights: the time is negligible, and float16 could overflow or lack kernels.

    Args:
        channels: see `SmallEncoderConfig`.
        embed_dim: see `SmallEncoderConfig`.
    """

    def __init__(self, channels: int = 32, embed_dim: int = 256):
        super().__init__()
        self.config = SmallEncoderConfig(channels, embed_dim)
        widths = (channels, 2 * channels, 4 * channels, 4 * channels)
        self.stem = operations.Conv2d(3, channels, 3, stride=2, padding=1)
        self.halving = nn.ModuleList([_conv(narrow, wide, 2) for narrow, wide in pairwise(widths)])
        self.last = _conv(widths[-1], widths[-1], 1)
        self.norm = operations.GroupNorm(_GROUPS, widths[-1])
        self.head = operations.Linear(widths[-1], embed_dim)
        self.act = nn.SiLU()

    @property
    def embed_dim(self) -> int:
        """Length of the embedding."""
        return self.config.embed_dim

    def settings(self) -> dict[str, int]:
        """The constructor arguments, as JSON values, for a model file's metadata."""
        return asdict(self.config)

    def embed(self, images: Tensor) -> Tensor:
        """(B, 1, token) float32 embeddings of images (B, 3, H, W) in -1..1, of any size."""
        check_shape("the images to embed", images, "B 3 H W")
        return self(resize_antialiased(images.float(), SIZE_PX, SIZE_PX)).float()

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, 64, 64) -> (B, 1, token)."""
        x = self.stem(x)  # (B, C, 32, 32)
        for layer in self.halving:
            x = layer(x)  # finally (B, 4 C, 4, 4)
        x = self.act(self.norm(x + self.last(x)))
        return self.head(x.mean(dim=(-2, -1)))[:, None]


def _conv(narrow: int, wide: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        operations.GroupNorm(_GROUPS, narrow),
        nn.SiLU(),
        operations.Conv2d(narrow, wide, 3, stride=stride, padding=1),
    )
