"""The architecture of the CLIP image encoder."""

from __future__ import annotations

from dataclasses import dataclass

from ...checks import check_bounds


@dataclass(frozen=True)
class ClipConfig:
    """The shape of a CLIP image encoder."""

    channels: int = 1280
    """Width of its tokens."""
    inner_channels: int = 5120
    """Width inside its feed-forward layers."""
    layers: int = 32
    """Transformer blocks."""
    heads: int = 16
    """Attention heads."""
    out_channels: int = 1024
    """Length of the embedding."""
    size_px: int = 224
    """Width and height of its input."""
    patch_px: int = 14
    """Width and height of a patch."""

    def __post_init__(self):
        check_bounds(
            self,
            "image encoder",
            channels=(1, 65_536),
            inner_channels=(1, 1_048_576),
            layers=(1, 1024),
            heads=(1, 4096),
            out_channels=(1, 65_536),
            size_px=(1, 8192),
            patch_px=(1, 4096),
        )
