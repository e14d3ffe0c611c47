"""Architecture of the 2D multi-view UNet; the defaults are Wonder3D's."""

from __future__ import annotations

from dataclasses import dataclass

from ...checks import check_bounds
from ...errors import InputError
from .config import CAMERA_TASK_DIM, check_levels


@dataclass(frozen=True)
class UNet2DConfig:
    """Architecture of a 2D UNet with attention across views and domains."""

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
    num_heads: int = 8
    """Attention heads, the same number at every level."""
    context_dim: int = 768
    """Width of the cross-attention context, the image embedding."""
    domains: int = 2
    """Images generated per view: colour and normals."""
    camera_task_dim: int = CAMERA_TASK_DIM
    """Length of the camera and task embedding: 10, or 14 with the camera type (Wonder3D++)."""
    norm_num_groups: int = 32
    """Number of groups of the group norms; divides every width."""

    def __post_init__(self):
        check_bounds(
            self,
            "UNet",
            in_channels=(1, 4096),
            out_channels=(1, 4096),
            model_channels=(1, 65_536),
            channel_mult=(1, 64),
            num_res_blocks=(1, 16),
            num_heads=(1, 4096),
            context_dim=(1, 65_536),
            domains=(2, 2),
            camera_task_dim=(1, 65_536),
            norm_num_groups=(1, 4096),
        )
        check_levels(self.channel_mult, self.attention_levels)
        for width in self.widths:
            if width % self.norm_num_groups or width % self.num_heads:
                raise InputError(
                    f"a UNet level of {width} channels cannot be divided into "
                    f"{self.norm_num_groups} norm groups and {self.num_heads} heads."
                )

    @property
    def size_multiple(self) -> int:
        """Width and height of latents are multiples of this."""
        return 2 ** (len(self.channel_mult) - 1)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, the finest first."""
        return tuple(self.model_channels * factor for factor in self.channel_mult)

    @property
    def time_embed_dim(self) -> int:
        """Width of the embedding of timestep and conditions."""
        return 4 * self.model_channels
