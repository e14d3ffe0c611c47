"""The architecture of the VAE."""

from __future__ import annotations

from dataclasses import dataclass

from ...checks import check_bounds
from ...errors import InputError


@dataclass(frozen=True)
class VaeConfig:
    """The shape of a VAE of diffusers' kind."""

    widths: tuple[int, ...] = (128, 256, 512, 512)
    """Channels of each level, the finest first; each level but the last halves the image."""
    layers: int = 2
    """Residual blocks a level on the way down."""
    channels: int = 4
    """Numbers of a latent."""
    temporal: bool = True
    """Whether the decoder has layers across the images of a walk."""

    def __post_init__(self):
        check_bounds(self, "VAE", widths=(1, 65_536), layers=(1, 64), channels=(1, 4096))
        if not 1 <= len(self.widths) <= 16:
            raise InputError(f"a VAE has 1 to 16 levels, not {len(self.widths)}.")
