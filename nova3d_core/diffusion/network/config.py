"""The shape of the video UNet: SVD's by default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ...checks import check_bounds, check_choice
from ...errors import InputError

Alignment = Literal["gta", "spatial", "none"]
ALIGNMENTS: tuple[str, ...] = get_args(Alignment)

CAMERA_TASK_DIM = 10
"""Camera (an unused 0, relative elevation and azimuth) and one-hot task (2): sine and cosine."""


@dataclass(frozen=True)
class UNetConfig:
    """Widths and depths of a video UNet, as in the sgm layout."""

    in_channels: int = 8
    """Noisy latent and the input image's latent."""
    out_channels: int = 4
    """Latent channels."""
    model_channels: int = 320
    """Width of the first level."""
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    """Width of each level over that of the first; each level halves the image."""
    num_res_blocks: int = 2
    """Residual blocks a level on the way down; one more on the way up."""
    attention_levels: tuple[bool, ...] = (True, True, True, False)
    """Which levels attend."""
    num_head_channels: int = 64
    """Width of one attention head."""
    context_dim: int = 1024
    """Width of the image embedding."""
    add_embed_dim: int = 768
    """Numbers embedded beside the noise level: 768 SVD and V3D, 256 SV3D u, 1280 SV3D p."""
    domains: int = 1
    """What is painted of each view: 1 colour, 2 colour and normals."""
    alignment: Alignment = "none"
    """Attention between domains. gta: within images and across views, NOVA3D's; spatial: within
    images only, Wonder3D's way; none: domains never meet. The last two are for ablations."""
    camera_task_dim: int = 0
    """Numbers of camera and task that go through an MLP of their own; 0 without."""
    norm_num_groups: int = 32
    """Groups of the group norms; divides every width."""

    def __post_init__(self):
        check_bounds(
            self,
            "UNet",
            in_channels=(1, 4096),
            out_channels=(1, 4096),
            model_channels=(1, 65_536),
            channel_mult=(1, 64),
            num_res_blocks=(1, 16),
            num_head_channels=(1, 65_536),
            context_dim=(1, 65_536),
            add_embed_dim=(1, 1_048_576),
            domains=(1, 2),
            camera_task_dim=(0, 65_536),
            norm_num_groups=(1, 4096),
        )
        if not 1 <= len(self.channel_mult) <= 16:
            raise InputError(f"a UNet has 1 to 16 levels, not {len(self.channel_mult)}.")
        widths = [self.model_channels * factor for factor in self.channel_mult]
        if len(self.attention_levels) != len(widths):
            raise InputError(
                f"a UNet of {len(widths)} levels got {len(self.attention_levels)} "
                "attention_levels; give one for each level."
            )
        for width, attends in zip(widths, self.attention_levels, strict=True):
            if width % self.norm_num_groups or (attends and width % self.num_head_channels):
                raise InputError(
                    f"a UNet level of {width} channels cannot be divided into groups of norms "
                    f"({self.norm_num_groups}) and heads of {self.num_head_channels} channels."
                )
        if widths[-1] % self.num_head_channels:
            raise InputError(
                f"the UNet's middle has {widths[-1]} channels, not a multiple of head_channels "
                f"({self.num_head_channels})."
            )
        check_choice("UNet alignment", self.alignment, ALIGNMENTS)
        if self.aligned and self.domains < 2:
            raise InputError("alignment attention needs two domains, this UNet has one.")

    @property
    def aligned(self) -> bool:
        """Whether domains meet in any block."""
        return self.alignment != "none"

    @property
    def time_embed_dim(self) -> int:
        """Width of the noise level's embedding."""
        return 4 * self.model_channels
