"""Architecture of the CLIP image encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...checks import check_bounds


@dataclass(frozen=True)
class ClipConfig:
    """Architecture of a CLIP image encoder; names as in transformers' CLIPVisionConfig."""

    hidden_size: int = 1280
    """Width of the tokens."""
    intermediate_size: int = 5120
    """Width of the MLPs."""
    num_hidden_layers: int = 32
    """Number of transformer blocks."""
    num_attention_heads: int = 16
    """Number of attention heads."""
    projection_dim: int = 1024
    """Length of the embedding."""
    image_size: int = 224
    """Width and height of the input in pixels."""
    patch_size: int = 14
    """Width and height of a patch in pixels."""
    hidden_act: Literal["gelu", "quick_gelu"] = "gelu"
    """Activation of the MLPs: LAION's models use gelu, OpenAI's quick_gelu."""

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
