"""Architecture of the video UNet; the defaults are SVD's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ...checks import check_bounds, check_choice
from ...errors import InputError

Alignment = Literal["gta", "spatial", "none"]
ALIGNMENTS: tuple[str, ...] = get_args(Alignment)

CoordinateKind = Literal["released", "true"]
COORDINATE_KINDS: tuple[str, ...] = get_args(CoordinateKind)
"""Kinds of the coordinate maps that a UNet with feedback sees; see `coordinate_maps`."""

CAMERA_TASK_DIM = 10
"""Sine and cosine of five values: zero, relative elevation and azimuth, one-hot task (2)."""


def check_levels(channel_mult: tuple[int, ...], attention_levels: tuple[bool, ...]) -> None:
    """Raises InputError unless a UNet has 1 to 16 levels and states the attention of each."""
    levels = len(channel_mult)
    if not 1 <= levels <= 16:
        raise InputError(f"a UNet has 1 to 16 levels, not {levels}.")
    if len(attention_levels) != levels:
        raise InputError(
            f"a UNet of {levels} levels got {len(attention_levels)} attention_levels; give one for "
            "each level."
        )


@dataclass(frozen=True)
class UNetConfig:
    """Architecture of a video UNet; names as in sgm."""

    in_channels: int = 8
    """Channels of the noisy latent plus those of the input image's latent."""
    out_channels: int = 4
    """Channels of the predicted latent."""
    model_channels: int = 320
    """Base channels: width of the first level."""
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    """Width of each level as a multiple of `model_channels`; each level halves the resolution."""
    num_res_blocks: int = 2
    """Residual blocks per level of the encoder; the decoder has one more."""
    attention_levels: tuple[bool, ...] = (True, True, True, False)
    """Which levels have attention."""
    num_head_channels: int = 64
    """Width of one attention head."""
    context_dim: int = 1024
    """Width of the cross-attention context, the image embedding."""
    add_embed_dim: int = 768
    """Length of the added embeddings: 768 for SVD and V3D, 256 for SV3D u, 1280 for SV3D p."""
    domains: int = 1
    """Images generated per view: 1 for colour, 2 for colour and normals."""
    alignment: Alignment = "none"
    """Attention between domains. gta: in spatial and cross-view blocks, as in NOVA3D; spatial: in
    spatial blocks only, as in Wonder3D; none: no cross-domain attention. The last two are for
    ablations."""
    camera_task_dim: int = 0
    """Length of the camera and task embedding, which has an MLP of its own; 0 for none."""
    norm_num_groups: int = 32
    """Number of groups of the group norms; divides every width."""
    feedback_factor: int = 0
    """Pixels per latent of the feedback images (Ouroboros3D); 0 for a UNet without feedback, which
    has no ray embeddings either."""

    def __post_init__(self):
        check_bounds(
            self,
            "UNet",
            feedback_factor=(0, 64),
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
        check_levels(self.channel_mult, self.attention_levels)
        widths = [self.model_channels * factor for factor in self.channel_mult]
        for width, attends in zip(widths, self.attention_levels, strict=True):
            if width % self.norm_num_groups or (attends and width % self.num_head_channels):
                raise InputError(
                    f"a UNet level of {width} channels cannot be divided into "
                    f"{self.norm_num_groups} norm groups and heads of {self.num_head_channels} "
                    "channels."
                )
        if widths[-1] % self.num_head_channels:
            raise InputError(
                f"the UNet's middle block has {widths[-1]} channels, not a multiple of "
                f"num_head_channels ({self.num_head_channels})."
            )
        check_choice("UNet alignment", self.alignment, ALIGNMENTS)
        if self.aligned and self.domains < 2:
            raise InputError("cross-domain alignment needs two domains, but this UNet has one.")

    @property
    def size_multiple(self) -> int:
        """Width and height of latents are multiples of this."""
        return 2 ** (len(self.channel_mult) - 1)

    @property
    def aligned(self) -> bool:
        """Whether any block has cross-domain attention."""
        return self.alignment != "none"

    @property
    def time_embed_dim(self) -> int:
        """Width of the embedding of noise level and conditions."""
        return 4 * self.model_channels
