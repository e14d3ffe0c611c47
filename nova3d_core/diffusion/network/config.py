"""The shape of the video UNet: SVD's by default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ...checks import check_bounds, check_choice
from ...errors import InputError

Alignment = Literal["gta", "spatial", "none"]
ALIGNMENTS: tuple[str, ...] = get_args(Alignment)

CAMERA_TASK_NUMBERS = 10
"""Camera (an unused 0, relative elevation and azimuth) and one-hot task (2): sine and cosine."""


@dataclass(frozen=True)
class UNetConfig:
    """Widths and depths of a video UNet, as in the sgm layout."""

    channels_in: int = 8
    """Noisy latent and the input image's latent."""
    channels_out: int = 4
    """Latent channels."""
    channels: int = 320
    """Width of the first level."""
    channel_factors: tuple[int, ...] = (1, 2, 4, 4)
    """Width of each level over that of the first; each level halves the image."""
    res_blocks: int = 2
    """Residual blocks a level on the way down; one more on the way up."""
    attention_levels: tuple[bool, ...] = (True, True, True, False)
    """Which levels attend."""
    head_channels: int = 64
    """Width of one attention head."""
    context_channels: int = 1024
    """Width of the image embedding."""
    added_numbers: int = 768
    """Numbers embedded beside the noise level: 768 SVD and V3D, 256 SV3D u, 1280 SV3D p."""
    domains: int = 1
    """What is painted of each view: 1 colour, 2 colour and normals."""
    alignment: Alignment = "none"
    """Attention between domains. gta: within images and across views, NOVA3D's; spatial: within
    images only, Wonder3D's way; none: domains never meet. The last two are for ablations."""
    camera_task_numbers: int = 0
    """Numbers of camera and task that go through an MLP of their own; 0 without."""
    group_size: int = 32
    """Groups of the group norms; divides every width."""

    def __post_init__(self):
        check_bounds(
            self,
            "UNet",
            channels_in=(1, 4096),
            channels_out=(1, 4096),
            channels=(1, 65_536),
            channel_factors=(1, 64),
            res_blocks=(1, 16),
            head_channels=(1, 65_536),
            context_channels=(1, 65_536),
            added_numbers=(1, 1_048_576),
            domains=(1, 2),
            camera_task_numbers=(0, 65_536),
            group_size=(1, 4096),
        )
        if not 1 <= len(self.channel_factors) <= 16:
            raise InputError(f"a UNet has 1 to 16 levels, not {len(self.channel_factors)}.")
        widths = [self.channels * factor for factor in self.channel_factors]
        if len(self.attention_levels) != len(widths):
            raise InputError(
                f"a UNet of {len(widths)} levels got {len(self.attention_levels)} "
                "attention_levels; give one for each level."
            )
        for width, attends in zip(widths, self.attention_levels, strict=True):
            if width % self.group_size or (attends and width % self.head_channels):
                raise InputError(
                    f"a UNet level of {width} channels cannot be divided into groups of norms "
                    f"({self.group_size}) and heads of {self.head_channels} channels."
                )
        if widths[-1] % self.head_channels:
            raise InputError(
                f"the UNet's middle has {widths[-1]} channels, not a multiple of head_channels "
                f"({self.head_channels})."
            )
        check_choice("UNet alignment", self.alignment, ALIGNMENTS)
        if self.aligned and self.domains < 2:
            raise InputError("alignment attention needs two domains, this UNet has one.")

    @property
    def aligned(self) -> bool:
        """Whether domains meet in any block."""
        return self.alignment != "none"

    @property
    def embedding_channels(self) -> int:
        """Width of the noise level's embedding."""
        return 4 * self.channels
