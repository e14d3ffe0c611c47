"""Small random models with all kinds of layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from nova3d_core.diffusion.codecs.clip import ClipEncoder, OpenAiClipEncoder, build_clip
from nova3d_core.diffusion.codecs.clip_config import ClipConfig
from nova3d_core.diffusion.codecs.pixels import PixelCodec
from nova3d_core.diffusion.codecs.small_encoder import SmallEncoder
from nova3d_core.diffusion.codecs.vae import VaeCodec, build_vae
from nova3d_core.diffusion.codecs.vae_config import VaeConfig
from nova3d_core.diffusion.families import FAMILIES
from nova3d_core.diffusion.model import MultiviewModel
from nova3d_core.diffusion.network.config import CAMERA_TASK_DIM, UNetConfig
from nova3d_core.diffusion.network.feedback_unet import FeedbackUNet
from nova3d_core.diffusion.network.unet import VideoUNet
from nova3d_core.diffusion.network.unet_2d import MultiviewUNet2D
from nova3d_core.diffusion.network.unet_2d_config import UNet2DConfig

UNET = "model.diffusion_model."
CLIP = "conditioner.embedders.0.open_clip.model.visual."
VAE = VaeConfig(block_out_channels=(32, 32, 64, 64))
CLIP_SHAPE = ClipConfig(160, 96, 2, 2, 48, 28, 14)
ADDED = {"nova3d": 256, "sv3d_u": 256, "sv3d_p": 1280, "v3d": 768, "svd": 768, "ouroboros3d": 768}


def randomised(module: nn.Module, seed: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Gives the module random weights on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    state = {
        name: (torch.randn(value.shape, generator=generator) * 0.1).to(dtype)
        for name, value in module.state_dict().items()
    }
    module.load_state_dict(state, assign=True)
    return module.requires_grad_(False).eval()


def random_unet(family: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> VideoUNet:
    """A narrow UNet with 64 channels per head, as in files without metadata."""
    own = {
        "nova3d": {"domains": 2, "alignment": "gta", "camera_task_dim": CAMERA_TASK_DIM},
        "ouroboros3d": {"feedback_factor": 8},
    }
    unet_class = FeedbackUNet if family == "ouroboros3d" else VideoUNet
    config = UNetConfig(
        model_channels=64,
        channel_mult=(1, 1, 2, 2),
        context_dim=CLIP_SHAPE.projection_dim,
        add_embed_dim=ADDED[family],
        **own.get(family, {}),
    )
    return randomised(unet_class(config, device="meta"), seed, dtype)


def mini_model(
    seed: int = 0, dtype: torch.dtype = torch.float32, **settings: object
) -> MultiviewModel:
    """A nova3d-mini with few channels and random weights."""
    codec = PixelCodec(4, mean=(0.1 + 0.2, 0.7, 0.6), std=1.0 / 3.0)
    config = UNetConfig(
        **{
            "in_channels": 2 * codec.latent_channels,
            "out_channels": codec.latent_channels,
            "model_channels": 16,
            "channel_mult": (1, 2),
            "attention_levels": (False, True),
            "num_res_blocks": 1,
            "num_head_channels": 16,
            "context_dim": 24,
            "add_embed_dim": 256,
            "domains": 2,
            "alignment": "gta",
            "camera_task_dim": CAMERA_TASK_DIM,
            "norm_num_groups": 8,
            **settings,
        }
    )
    with torch.device("meta"):
        encoder = SmallEncoder(channels=8, embed_dim=24)
    return MultiviewModel(
        FAMILIES["nova3d-mini"],
        randomised(VideoUNet(config, device="meta"), seed, dtype),
        codec,
        randomised(encoder, seed + 1, dtype),
    )


def copying_mini(dtype: torch.dtype = torch.float32) -> MultiviewModel:
    """A nova3d-mini that generates, in one step, the image's silhouette in every view and domain.

    The silhouette is blue on white; as a normal, blue faces the first camera. The first layer
    measures the darkness of each block of pixels, the last residual block passes it on, the last
    norm (two channels of the same content) and its activation clamp it to 0 to 10, and the last
    layer colours it. At the highest noise level, the sample is the negative of the prediction.
    """
    model = mini_model(0, dtype)
    unet, codec = model.unet, model.codec
    for weight in unet.parameters():
        weight.zero_()
    first, last, (norm, _, head) = unet.input_blocks[0][0], unet.output_blocks[-1][0], unet.out
    first.weight[:2, codec.latent_channels :, 1, 1] = -1.0 / codec.latent_channels
    first.bias[:2] = 1.0
    skip_start = last.skip_connection.in_channels - unet.config.model_channels
    for channel in range(2):
        last.skip_connection.weight[channel, skip_start + channel] = 1.0
    norm.weight[:2] = 100.0
    norm.bias[1] = -10.0
    colours = torch.tensor([[0.0, 0.0, 1.0], [1.0, 1.0, 1.0]])[..., None, None]  # blue, white
    blue, white = codec.encode_scaled(colours.expand(2, 3, codec.factor, codec.factor))[..., 0, 0]
    head.weight[:, 0, 1, 1], head.weight[:, 1, 1, 1] = (white - blue) / 10.0, (blue - white) / 10.0
    head.bias.copy_(-white)
    return model


def random_model(
    family: str = "sv3d_u", seed: int = 0, dtype: torch.dtype = torch.float32
) -> MultiviewModel:
    """A random model of a family, with all parts."""
    if family == "nova3d-mini":
        return mini_model(seed, dtype)
    if family.startswith("wonder3d"):
        return random_wonder3d(family, seed, dtype)
    temporal = not family.startswith("sv3d")
    vae = build_vae(
        VaeConfig(VAE.block_out_channels, VAE.layers_per_block, VAE.latent_channels, temporal)
    )
    return MultiviewModel(
        FAMILIES.get(family),
        random_unet(family, seed, dtype),
        VaeCodec(randomised(vae, seed + 1, dtype)),
        ClipEncoder(randomised(build_clip(CLIP_SHAPE), seed + 2, dtype)),
    )


def random_wonder3d(family: str, seed: int, dtype: torch.dtype) -> MultiviewModel:
    """A narrow Wonder3D with 8 heads and 32 norm groups, as in files without metadata."""
    config = UNet2DConfig(
        model_channels=64,
        channel_mult=(1, 1, 2, 2),
        context_dim=CLIP_SHAPE.projection_dim,
        camera_task_dim=CAMERA_TASK_DIM + 2 * len(FAMILIES[family].camera_type),
    )
    vae = build_vae(VaeConfig(VAE.block_out_channels, temporal=False))
    clip = build_clip(replace(CLIP_SHAPE, hidden_act="quick_gelu"))
    return MultiviewModel(
        FAMILIES[family],
        randomised(MultiviewUNet2D(config, device="meta"), seed, dtype),
        VaeCodec(randomised(vae, seed + 1, dtype)),
        OpenAiClipEncoder(randomised(clip, seed + 2, dtype)),
    )


def states(model: MultiviewModel) -> dict[str, Tensor]:
    """All tensors of a model."""
    return {
        f"{name}.{key}": value
        for name in ("unet", "codec", "image_encoder")
        for key, value in model.part(name).state_dict().items()
    }


def assert_same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> None:
    """Asserts equality bit for bit, dtypes included."""
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype, name
        assert torch.equal(a[name], b[name]), name
