"""Architecture of the VAE."""

from __future__ import annotations

from dataclasses import dataclass

from ...checks import check_bounds
from ...errors import InputError


@dataclass(frozen=True)
class VaeConfig:
    """Architecture of a VAE; names as in diffusers."""

    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    """Channels of each level, the finest first; each level but the last halves the resolution."""
    layers_per_block: int = 2
    """Residual blocks per level of the encoder."""
    latent_channels: int = 4
    """Channels of a latent."""
    temporal: bool = True
    """Whether the decoder has layers across the views of an object."""

    def __post_init__(self):
        check_bounds(
            self,
            "VAE",
            block_out_channels=(1, 65_536),
            layers_per_block=(1, 64),
            latent_channels=(1, 4096),
        )
        if not 1 <= len(self.block_out_channels) <= 16:
            raise InputError(f"a VAE has 1 to 16 levels, not {len(self.block_out_channels)}.")
