"""Ouroboros3D's UNet: SVD's, with rays and the renders of its own reconstruction as input."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor, nn

from ...checks import check_shape
from ...errors import InputError
from . import operations as plain_operations
from .attention import Attend
from .blocks import BatchLayout
from .config import UNetConfig
from .feedback_adapters import FeedbackAdapter
from .ray_embedding import RayEmbedding, harmonic_embedding, transposed_plucker_rays
from .unet import VideoUNet


@dataclass(frozen=True, eq=False)
class Feedback:
    """Renders of the latest reconstruction, and the cameras, of B objects with V views each."""

    colours: Tensor
    """(B, V, 3, H, W) renders in 0..1; zeros where there is no reconstruction yet."""
    coordinates: Tensor
    """(B, V, 3, H, W) canonical coordinate maps in 0..1; zeros likewise."""
    camera_to_world: Tensor
    """(B, V, 4, 4) in the world of the model, OpenCV axes."""
    focal: Tensor
    """(B, V) focal lengths over the image width."""

    def concat(self, other: Feedback) -> Feedback:
        """Both as one batch, this one first."""
        values = vars(other)
        return Feedback(**{name: torch.cat([v, values[name]]) for name, v in vars(self).items()})

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Feedback:
        """The same on another device; cameras stay float32."""
        return Feedback(
            self.colours.to(device, dtype),
            self.coordinates.to(device, dtype),
            self.camera_to_world.to(device),
            self.focal.to(device),
        )


class FeedbackUNet(VideoUNet):
    """SVD's UNet with one adapter per feedback image and ray embeddings at each level.

    Adapter features enter levels 0 to L - 2 of the encoder before their downsampling, and the
    deepest ones after the middle block; skip connections do not contain them. Ray embeddings are
    added at the entry of each level and of the middle block; skip connections taken there do
    contain them. Both are as in the released code.

    Args: as of `VideoUNet`; `config.feedback_factor` must not be 0.
    """

    def __init__(
        self,
        config: UNetConfig,
        operations: ModuleType | type = plain_operations,
        attention: Attend | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(config, operations, attention, device, dtype)
        if not config.feedback_factor or config.domains != 1:
            raise InputError(
                "a UNet with feedback generates one domain and needs feedback_factor, the pixels "
                f"per latent; got {config.feedback_factor} and {config.domains} domains."
            )
        factory = {"device": device, "dtype": dtype}
        widths = tuple(config.model_channels * factor for factor in config.channel_mult)

        def rays(channels: tuple[int, ...]) -> nn.ModuleList:
            return nn.ModuleList(RayEmbedding(width, operations, **factory) for width in channels)

        self.cond_encoder = nn.ModuleList(
            FeedbackAdapter(widths, config.feedback_factor, operations, **factory) for _ in range(2)
        )  # colours, coordinates
        self.down_plucker = rays((widths[0], *widths[:-1]))  # the width at the entry of each level
        self.mid_plucker = RayEmbedding(widths[-1], operations, **factory)
        self.up_plucker = rays((widths[-1], *widths[:0:-1]))

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor,
        context: Tensor,
        added_embeds: Tensor,
        camera_task: Tensor | None = None,
        feedback: Feedback | None = None,
    ) -> Tensor:
        """The raw network F; arguments as of `VideoUNet.forward`.

        Args:
            feedback: of the same B objects and V views; H and W are `feedback_factor` h and w.

        Returns:
            (1, B, V, Cout, h, w) in the dtype of x.

        Raises:
            InputError: no feedback, or shapes that do not match each other or the network.
        """
        layout = self._layout(x, c_noise, context, added_embeds, camera_task)
        if feedback is None:
            raise InputError("this network needs the UNet's feedback.")
        self._check_feedback(feedback, x)
        features = self._features(feedback, x.dtype)
        hidden, skips = self._encode(x.flatten(0, 2), features, feedback, layout)
        for layer in self.middle_block:
            hidden = self._run(layer, hidden, layout)
        hidden = hidden + features[-1]
        per_level = self.config.num_res_blocks + 1
        for index, block in enumerate(self.output_blocks):
            if index % per_level == 0:
                hidden = hidden + _embed(self.up_plucker[index // per_level], feedback, hidden)
            hidden = torch.cat([hidden, skips.pop()], dim=1)
            for layer in block:
                hidden = self._run(layer, hidden, layout)
        return self.out(hidden).unflatten(0, layout.sizes)

    def _encode(
        self, hidden: Tensor, features: list[Tensor], feedback: Feedback, layout: BatchLayout
    ) -> tuple[Tensor, list[Tensor]]:
        """The input (N, C, h, w) of the middle block, and the skip connections."""
        per_level = self.config.num_res_blocks + 1
        last = len(self.input_blocks) - 1
        skips: list[Tensor] = []
        for index, block in enumerate(self.input_blocks):
            level, is_first = index // per_level, index % per_level == 0
            if is_first and level:  # a downsampling layer
                hidden = hidden + features[level - 1]
            for layer in block:
                hidden = self._run(layer, hidden, layout)
            if is_first:
                hidden = hidden + _embed(self.down_plucker[level], feedback, hidden)
            if index == last:
                hidden = hidden + _embed(self.mid_plucker, feedback, hidden)
            skips.append(hidden)
        return hidden, skips

    def _features(self, feedback: Feedback, dtype: torch.dtype) -> list[Tensor]:
        """(N, C, h, w) sum of both adapters' features at each level."""
        colours, coordinates = (
            adapter(images.to(dtype).flatten(0, 1))
            for adapter, images in zip(
                self.cond_encoder, (feedback.colours, feedback.coordinates), strict=True
            )
        )
        return [a + b for a, b in zip(colours, coordinates, strict=True)]

    def _check_feedback(self, feedback: Feedback, x: Tensor) -> None:
        factor = self.config.feedback_factor
        objects, views, height, width = x.shape[1], x.shape[2], *x.shape[-2:]
        if height != width:
            raise InputError(f"the UNet's x is {width}x{height} latents, expected a square.")
        batch = {"B": objects, "V": views}
        size = {"C": 3, "H": factor * height, "W": factor * width}
        for name in ("colours", "coordinates"):
            value = getattr(feedback, name)
            check_shape(f"the UNet's feedback {name}", value, "B V C H W", **batch, **size)
        check_shape("the UNet's cameras", feedback.camera_to_world, "B V R C", **batch, R=4, C=4)
        check_shape("the UNet's focal lengths", feedback.focal, "B V", **batch)


def _embed(embedding: RayEmbedding, feedback: Feedback, hidden: Tensor) -> Tensor:
    """(N, C, h, w) ray embedding at the resolution of a feature map."""
    rays = transposed_plucker_rays(feedback.camera_to_world, feedback.focal, hidden.shape[-1])
    return embedding(harmonic_embedding(rays).to(hidden.dtype).flatten(0, 1))
