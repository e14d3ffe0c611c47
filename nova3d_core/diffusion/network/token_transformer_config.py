"""Architecture of the token transformer, a small network that replaces the video UNet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ...checks import check_bounds, check_choice
from ...errors import InputError
from .config import CAMERA_TASK_DIM

AttentionSpan = Literal["view", "row", "full"]
ATTENTION_SPANS: tuple[str, ...] = get_args(AttentionSpan)
Prediction = Literal["v", "x"]
PREDICTIONS: tuple[str, ...] = get_args(Prediction)


@dataclass(frozen=True)
class TokenTransformerConfig:
    """Architecture of a token transformer."""

    in_channels: int = 36
    """Channels of the noisy latent plus those of the input image's latent."""
    out_channels: int = 18
    """Channels of the predicted latent."""
    patch_size: int = 2
    """Width and height of a token's patch, in latents."""
    channels: int = 256
    """Width of the tokens."""
    depth: int = 8
    """Number of blocks."""
    num_head_channels: int = 64
    """Width of one attention head."""
    spans: tuple[str, ...] = ("full",)
    """Which tokens attend to each other, by block, repeated over the depth; always those of both
    domains. view: of the same view; row: of the same row of patches in all views, where the
    epipolar lines of a level orbit are; full: of all views."""
    joint_domains: bool = True
    """Whether a token holds a patch of both domains; else each domain has its own tokens."""
    prediction: str = "x"
    """What the last layer predicts, from which the output of EDM's network follows: v, or the
    clean latent x."""
    context_dim: int = 256
    """Width of the image embedding."""
    add_embed_dim: int = 256
    """Length of the added embeddings."""
    domains: int = 2
    """Images generated per view: 1 for colour, 2 for colour and normals."""
    camera_task_dim: int = CAMERA_TASK_DIM
    """Length of the camera and task embedding, from which the rays are computed as well."""

    def __post_init__(self):
        check_bounds(
            self,
            "token transformer",
            in_channels=(1, 4096),
            out_channels=(1, 4096),
            patch_size=(1, 64),
            channels=(2, 65_536),
            depth=(1, 256),
            num_head_channels=(1, 65_536),
            context_dim=(1, 65_536),
            add_embed_dim=(1, 1_048_576),
            domains=(1, 2),
            camera_task_dim=(CAMERA_TASK_DIM, CAMERA_TASK_DIM),
        )
        if self.channels % self.num_head_channels or self.channels % 2:
            raise InputError(
                f"a token transformer of {self.channels} channels cannot be divided into heads of "
                f"{self.num_head_channels} channels, or is odd."
            )
        if self.in_channels < self.out_channels:
            raise InputError(
                f"a token transformer has {self.in_channels} input channels, fewer than its "
                f"{self.out_channels} output channels."
            )
        if not self.spans:
            raise InputError("a token transformer has no attention spans; give at least one.")
        for span in self.spans:
            check_choice("attention span", span, ATTENTION_SPANS)
        check_choice("token transformer prediction", self.prediction, PREDICTIONS)

    @property
    def size_multiple(self) -> int:
        """Width and height of latents are multiples of this."""
        return self.patch_size

    @property
    def tokens_per_patch(self) -> int:
        """T: tokens of a patch of a view."""
        return 1 if self.joint_domains else self.domains

    @property
    def domains_per_token(self) -> int:
        """Domains that a token holds."""
        return self.domains // self.tokens_per_patch

    def span(self, block: int) -> str:
        """The attention span of a block."""
        return self.spans[block % len(self.spans)]
