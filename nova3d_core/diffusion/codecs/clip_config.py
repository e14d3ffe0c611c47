"""The architecture of the CLIP image encoder."""

from __future__ import annotations

from dataclasses import dataclass

from ...checks import check_bounds


@dataclass(frozen=True)
class ClipConfig:
    """The shape of a CLIP image encoder."""

    hidden_size: int = 1280
    """Width of its tokens."""
    intermediate_size: int = 5120
    """Width inside its feed-forward layers."""
    num_hidden_layers: int = 32
    """Transformer blocks."""
    num_attention_heads: int = 16
    """Attention heads."""
    projection_dim: int = 1024
    """Length of the embedding."""
    image_size: int = 224
    """Width and height of its input."""
    patch_size: int = 14
    """Width and height of a patch."""

    def __post_init__(self):
        check_bounds(
            self,
            "image encoder",
            hidden_size=(1, 65_536),
            intermediate_size=(1, 1_048_576),
            num_hidden_layers=(1, 1024),
            num_attention_heads=(1, 4096),
            projection_dim=(1, 65_536),
            image_size=(1, 8192),
            patch_size=(1, 4096),
        )
