"""The module to train for scenes: UNet, PixelNeRF conditioner and the small image encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ...compute.devices import seeded
from ...diffusion.codecs.small_encoder import SmallEncoder
from ...diffusion.families import SCENE_FAMILY, Family
from ...diffusion.model import Codec, ImageEncoder
from ...diffusion.network.pixelnerf import PixelNerf, ViewPoses
from ...diffusion.network.unet import VideoUNet
from ...diffusion.sampling.conditioning import added_embed_dim
from ...diffusion.scenes.model import SceneModel, widen_input
from ..config import NetworkConfig
from ..train_module import ModelModule, check_unet_config, init_as_identity, make_pixel_codec
from .config import SceneConfig

PIXEL_MEAN = 0.0
"""Mean of the pixel codec: images of scenes fill the frame, those of objects are mostly white."""


def scene_family(config: SceneConfig, size_px: int) -> Family:
    """The family with the number and size of the views of a run."""
    return replace(SCENE_FAMILY, views=config.views, size_px=size_px)


class SceneTrainModule(ModelModule):
    """All trained parts as one module that launchers can wrap.

    Args:
        unet: with input channels for the noisy latent, the first source's latent and the features;
            cast to float32 and trained.
        conditioner: trained.
        encoder: the image encoder; a small one is trained, CLIP stays frozen.
        codec: frozen.
        family: number and size of the views.

    Raises:
        InputError: the parts do not fit together.
    """

    def __init__(
        self,
        unet: VideoUNet,
        conditioner: PixelNerf,
        encoder: ImageEncoder,
        codec: Codec,
        family: Family,
    ):
        check_scene_parts(unet, conditioner, codec, family)
        super().__init__(unet, encoder, codec, family)
        self.conditioner = conditioner.float().requires_grad_(True)

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor,
        latent: Tensor,
        sources: Tensor,
        source_poses: ViewPoses,
        target_poses: ViewPoses,
        keep: Tensor,
        added_embeds: Tensor,
        jitter: Sequence[torch.Generator] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Output of the network F, and the conditioner's colours.

        Args:
            x: (1, B, V, C, h, w) scaled noisy latents, in the compute dtype.
            c_noise: (B,) ln(sigma) / 4.
            latent: (B, C, h, w) unscaled latent of the first source.
            sources: (B, S, 3, H, W) source images in -1..1.
            source_poses: (B, S) cameras.
            target_poses: (B, V) cameras.
            keep: (B, 3) 1, or 0 where embeddings, latent or features are dropped.
            added_embeds: (B, V, A) sinusoidal embeddings.
            jitter: generators of the points' positions; see `PixelNerf.render`.

        Returns:
            (1, B, V, C, h, w), and colours (B, V, 3, h, w) in 0..1.
        """
        height, width = x.shape[-2:]
        with torch.autocast(x.device.type, enabled=False):  # image positions need float32
            rgb, features = self.conditioner(
                sources, source_poses, target_poses, height, width, jitter
            )
        context = self._tokens(sources) * keep[:, :1, None]  # (B, S, Cc)
        if context.shape[1] == 1:  # attention over two equal tokens: every weight has a gradient
            context = context.expand(-1, 2, -1)
        shared = latent[:, None].expand(-1, x.shape[2], -1, -1, -1)
        shared = shared * keep[:, 1, None, None, None, None]
        features = features * keep[:, 2, None, None, None, None]
        conditions = torch.cat([shared, features], dim=2).to(x.dtype)
        out = self.unet(torch.cat([x, conditions[None]], dim=3), c_noise, context, added_embeds)
        return out, rgb

    def _tokens(self, sources: Tensor) -> Tensor:
        """(B, S, Cc), one token per source."""
        images = sources.flatten(0, 1)
        if self.encoder is not None:
            return self.encoder.embed(images)[:, 0].unflatten(0, sources.shape[:2])
        with torch.no_grad():
            return self.image_encoder.embed(images)[:, 0].float().unflatten(0, sources.shape[:2])

    def model(self, source: str = "", size_px: int | None = None) -> SceneModel:
        """The parts as a model that can be sampled, not copied; see `TrainModule.model`."""
        return SceneModel(
            self.sized_family(size_px),
            self.unet,
            self.codec,
            self.image_encoder,
            source,
            conditioner=self.conditioner,
        )


def check_scene_parts(
    unet: VideoUNet, conditioner: PixelNerf, codec: Codec, family: Family
) -> None:
    """Raises InputError unless network, conditioner, codec and family are compatible."""
    latents = codec.latent_channels
    required = {
        "domains": 1,
        "in_channels": 2 * latents + conditioner.config.feature_channels,
        "out_channels": latents,
        "add_embed_dim": added_embed_dim(family),
    }
    check_unet_config(
        unet.config,
        required,
        "a model for scenes with this codec and conditioner",
        "Change network.unet in the training settings; in_channels there is without the features.",
    )


def init_scene_module(
    network: NetworkConfig, scene: SceneConfig, size_px: int, seed: int
) -> SceneTrainModule:
    """A module with random weights, whose features have no effect at first.

    Args:
        network: widths and depths; the UNet's input channels without the features.
        scene: the conditioner and the number of views.
        size_px: size of the images.
        seed: of the weights.
    """
    with seeded(seed):
        unet = VideoUNet(network.unet)
        encoder = SmallEncoder(network.encoder_channels, network.unet.context_dim)
        conditioner = PixelNerf(scene.conditioner)
    init_as_identity(unet, network.residual_init_scale)
    widen_input(unet, scene.conditioner.feature_channels)
    codec = make_pixel_codec(network, PIXEL_MEAN)
    return SceneTrainModule(unet, conditioner, encoder, codec, scene_family(scene, size_px))
