"""Complete small models with real components, and a test image."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from nova3d_core.diffusion.codecs.clip import ClipEncoder, OpenAiClipEncoder, build_clip
from nova3d_core.diffusion.codecs.clip_config import ClipConfig
from nova3d_core.diffusion.codecs.pixels import PixelCodec
from nova3d_core.diffusion.codecs.small_encoder import SmallEncoder
from nova3d_core.diffusion.codecs.vae import VaeCodec, build_vae
from nova3d_core.diffusion.codecs.vae_config import VaeConfig
from nova3d_core.diffusion.families import FAMILIES, Family
from nova3d_core.diffusion.model import MultiviewModel
from nova3d_core.diffusion.network.config import CAMERA_TASK_DIM, UNetConfig
from nova3d_core.diffusion.network.feedback_unet import FeedbackUNet
from nova3d_core.diffusion.network.unet import VideoUNet
from nova3d_core.diffusion.network.unet_2d import MultiviewUNet2D
from nova3d_core.diffusion.network.unet_2d_config import UNet2DConfig

SIZE = 16
"""Width and height of an image; latents are half as large."""
CLIP = ClipConfig(32, 48, 2, 2, 48, 14, 7)
WIDTHS = (32, 32)
PIXELS = PixelCodec(2)
EMBED_DIMS = {"augmentation": 256, "fps": 256, "motion": 256, "polar": 512, "azimuth": 512}


def randomised(module: nn.Module, seed: int) -> nn.Module:
    """Random weights, scaled so that activations stay within a few units."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, value in module.state_dict().items():
        noise = torch.randn(value.shape, generator=generator)
        if value.dim() > 1:
            state[name] = noise / value[0].numel() ** 0.5
        else:
            state[name] = noise * 0.1 + (name.endswith("weight"))
    module.load_state_dict(state, assign=True)
    return module.requires_grad_(False).eval()


def small_config(family: Family) -> UNetConfig | UNet2DConfig:
    """Architecture of a small UNet of a family: two levels, the deeper one without attention."""
    if family.process == "ddim":
        return UNet2DConfig(
            model_channels=32,
            channel_mult=(1, 2),
            attention_levels=(True, False),
            num_heads=2,
            context_dim=CLIP.projection_dim,
            camera_task_dim=CAMERA_TASK_DIM + 2 * len(family.camera_type),
        )
    two_domains = len(family.domains) == 2
    latent = PIXELS.latent_channels if family.name == "nova3d-mini" else 4
    return UNetConfig(
        in_channels=2 * latent,
        out_channels=latent,
        model_channels=32,
        channel_mult=(1, 2),
        attention_levels=(True, False),
        num_head_channels=16,
        context_dim=CLIP.projection_dim,
        norm_num_groups=32,
        add_embed_dim=sum(EMBED_DIMS[name] for name in family.added_conditions),
        domains=len(family.domains),
        alignment="gta" if two_domains else "none",
        camera_task_dim=CAMERA_TASK_DIM if two_domains else 0,
        feedback_factor=2 if family.name == "ouroboros3d" else 0,
    )


def small_model(name: str = "nova3d", seed: int = 0, views: int | None = None) -> MultiviewModel:
    """A model of a family with few channels, which generates images of 16 pixels.

    `views` overrides the number of views; `few_views` must have registered that orbit.
    """
    family = replace(FAMILIES[name], size_px=SIZE)
    if views is not None:
        family = replace(family, views=views, orbit=f"of {views}")
    if name == "nova3d-mini":
        with torch.device("meta"):
            encoder = SmallEncoder(channels=8, embed_dim=CLIP.projection_dim)
        return MultiviewModel(
            family,
            randomised(VideoUNet(small_config(family), device="meta"), seed),
            PIXELS,
            randomised(encoder, seed + 2),
            "small.safetensors",
        )
    is_2d = family.process == "ddim"
    vae = VaeConfig(WIDTHS, 1, 4, not (is_2d or family.name.startswith("sv3d")))
    unet_class = MultiviewUNet2D if is_2d else VideoUNet
    if family.name == "ouroboros3d":
        unet_class = FeedbackUNet
    encoder_class = OpenAiClipEncoder if is_2d else ClipEncoder
    return MultiviewModel(
        family,
        randomised(unet_class(small_config(family), device="meta"), seed),
        VaeCodec(randomised(build_vae(vae), seed + 1)),
        encoder_class(randomised(build_clip(CLIP), seed + 2)),
        "small.safetensors",
    )


def image_and_mask(size: int = 40) -> tuple[Tensor, Tensor]:
    """An asymmetric coloured ring sector on white, and its mask."""
    y, x = torch.meshgrid(
        torch.arange(size) - size / 2, torch.arange(size) - size / 2, indexing="ij"
    )
    radius = (x**2 + y**2).sqrt()
    mask = ((radius < 0.4 * size) & ((x < 4) | (y > 2))).float()
    colour = torch.stack(
        [0.2 + 0.6 * (x / size + 0.5), 0.3 + 0 * x, 0.7 - 0.6 * (y / size)], dim=-1
    )
    return torch.where(mask[..., None] > 0, colour.clamp(0, 1), 1.0), mask
