"""Small models for scenes, and views of a procedural room."""

from __future__ import annotations

from dataclasses import replace

import torch

from nova3d_core.cameras.cameras import Cameras
from nova3d_core.compute.devices import seeded
from nova3d_core.diffusion.codecs.pixels import PixelCodec
from nova3d_core.diffusion.codecs.small_encoder import SmallEncoder
from nova3d_core.diffusion.families import SCENE_FAMILY
from nova3d_core.diffusion.network.config import UNetConfig
from nova3d_core.diffusion.network.pixelnerf import PixelNerf
from nova3d_core.diffusion.network.pixelnerf_config import PixelNerfConfig
from nova3d_core.diffusion.network.unet import VideoUNet
from nova3d_core.diffusion.scenes.model import SceneModel
from nova3d_core.training.procedural.rooms import random_room, render_room, room_cameras
from nova3d_core.views import Views

SIZE = 32
FACTOR = 4
CONDITIONER = PixelNerfConfig(
    feature_channels=8,
    hidden_channels=16,
    encoder_channels=8,
    encoder_blocks=(1, 1, 1),
    samples_per_ray=6,
    use_std=True,
    use_position=True,
)
LATENTS = 3 * FACTOR**2
UNET = UNetConfig(
    in_channels=2 * LATENTS + CONDITIONER.feature_channels,
    out_channels=LATENTS,
    model_channels=32,
    channel_mult=(1,),
    num_res_blocks=1,
    attention_levels=(True,),
    num_head_channels=16,
    context_dim=16,
    add_embed_dim=768,
    norm_num_groups=8,
)


def scene_model(views: int = 4, seed: int = 0, **conditioner) -> SceneModel:
    """A tiny model with random weights."""
    with seeded(seed):
        unet, encoder = VideoUNet(UNET), SmallEncoder(8, UNET.context_dim)
        nerf = PixelNerf(replace(CONDITIONER, **conditioner))
    family = replace(SCENE_FAMILY, views=views, size_px=SIZE, steps=2)
    for module in (unet, encoder, nerf):
        module.requires_grad_(False).eval()
    codec = PixelCodec(FACTOR, mean=0.0)
    return SceneModel(family, unet, codec, encoder, "scene.safetensors", conditioner=nerf)


def room(seed: int = 0, views: int = 5, size_px: int = SIZE) -> Views:
    """Views along a path through a room."""
    cameras = room_cameras(seed, views, size_px)
    return Views(cameras, render_room(random_room(seed), cameras).clamp(0.0, 1.0))


def moved(cameras: Cameras, scale: float, shift: torch.Tensor) -> Cameras:
    """The cameras in a world that is scaled, then shifted."""
    pose = cameras.world_to_camera.double().clone()
    centres = -(pose[:, :3, :3].transpose(1, 2) @ pose[:, :3, 3:])[..., 0]
    pose[:, :3, 3] = -(pose[:, :3, :3] @ (scale * centres + shift)[..., None])[..., 0]
    return replace(cameras, world_to_camera=pose.float())
