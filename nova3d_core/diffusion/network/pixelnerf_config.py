"""Architecture of the PixelNeRF conditioner of V3D's scenes; the defaults are V3D's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ...checks import check_bounds, check_choice
from ...errors import InputError

RayDepths = Literal["cube", "disparity"]
RAY_DEPTHS: tuple[str, ...] = get_args(RayDepths)


@dataclass(frozen=True)
class PixelNerfConfig:
    """Widths, depths and sampling of the conditioner."""

    feature_channels: int = 128
    """Channels of the rendered features, which are concatenated with the noisy latents."""
    hidden_channels: int = 128
    """Width of both MLPs."""
    encoder_channels: int = 64
    """Channels of the image encoder's output, and of its first level; they double per level."""
    encoder_blocks: tuple[int, ...] = (3, 4, 6)
    """Residual blocks of the encoder's levels, at 1/4, 1/8 and 1/16 of the image size."""
    samples_per_ray: int = 128
    """Points on the ray of each latent pixel."""
    depths: RayDepths = "cube"
    """Where they lie. cube: between entry and exit of the cube [-1, 1]^3, for objects seen from
    around; disparity: evenly in inverse depth from `near` to `far`, for rooms and forward-facing
    cameras."""
    near: float = 0.5
    """disparity: smallest depth, in normalised units: the farthest camera is at 1.5."""
    far: float = 10_000.0
    """disparity: largest depth."""
    use_std: bool = False
    """Whether the points' features include the standard deviation over the sources."""
    use_colour: bool = False
    """Whether the points' features include the sources' colours, as in IBRNet: with their standard
    deviation, a measure of photo-consistency from the first step on."""
    use_position: bool = False
    """Whether they include the positional encoding of the point."""

    def __post_init__(self):
        check_bounds(
            self,
            "PixelNeRF",
            feature_channels=(1, 4096),
            hidden_channels=(1, 4096),
            encoder_channels=(4, 1024),
            encoder_blocks=(1, 64),
            samples_per_ray=(2, 4096),
            near=(1e-3, 1e6),
            far=(1e-3, 1e9),
        )
        check_choice("PixelNeRF depths", self.depths, RAY_DEPTHS)
        if len(self.encoder_blocks) != 3:
            raise InputError(
                f"PixelNeRF encoder_blocks has {len(self.encoder_blocks)} values, expected 3."
            )
        if self.far <= self.near:
            raise InputError(
                f"PixelNeRF far is {self.far:g}, expected more than near ({self.near:g})."
            )
