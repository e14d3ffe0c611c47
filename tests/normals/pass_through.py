"""Weights with which the small normal estimators return what they see: the inverted image.

Views whose colours are their inverted normal maps therefore get their true normals, up to one scale
per channel and the resolution of the latents. The first layer makes two channels +c and -c of each
colour channel c, all residual branches are zero, and the last norm, whose groups have these two
channels, scales them. Its large bias makes the activation linear.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from nova3d_core.diffusion.codecs.vae import build_vae
from nova3d_core.diffusion.codecs.vae_config import VaeConfig
from nova3d_core.diffusion.network.unet import VideoUNet

from ..weights.models import random_model, randomised
from ..weights.test_load import write_diffusers
from .small_marigold import save_small_marigold

COLOURS = 3
VAE = VaeConfig(block_out_channels=(64, 64, 64, 64))
"""The 32 groups of its norms have two channels each."""
LINEAR_BIAS = 20.0
"""silu(x + 20) is x + 20 for x above -10, within 1e-3."""
OUTPUT_SCALE = 0.25
"""Of the decoded normals, whose channels have an rms of 1 before it: none is clipped."""


MARIGOLD_PX = 256
"""Longer side of the images that the network sees."""


def save_pass_through_marigold(path: Path) -> None:
    """Saves a tiny Marigold, as published ones are; it is exact with one step."""
    save_small_marigold(path, pass_through_unet_2d, pass_through_vae, MARIGOLD_PX)


def save_pass_through_normalcrafter(path: Path, key_map: dict[str, str]) -> None:
    """Saves a small NormalCrafter, as published; `key_map` leads to diffusers' names."""
    model = random_model("v3d")
    pass_through_unet(model.unet)
    model.codec.vae = pass_through_vae(randomised(build_vae(VAE), 0))
    write_diffusers(model, path, key_map)


def pass_through_unet(unet: VideoUNet) -> VideoUNet:
    """SVD's network: minus the image latents, which follow four noisy channels."""
    zero_weights(unet)
    split_signs(unet.input_blocks[0][0].weight, 4)
    keep_skip_connection(unet.output_blocks[-1][0].skip_connection.weight)
    join_signs(unet.out[0], unet.out[2], -1.0)
    return unet


def pass_through_unet_2d(unet: nn.Module) -> nn.Module:
    """Marigold's network: minus the image latents, the first four channels.

    They are large, so that the start noise in the estimate vanishes next to them.
    """
    zero_weights(unet)
    split_signs(unet.conv_in.weight, 0)
    keep_skip_connection(unet.up_blocks[-1].resnets[-1].conv_shortcut.weight)
    join_signs(unet.conv_norm_out, unet.conv_out, -100.0)
    return unet


def pass_through_vae(vae: nn.Module) -> nn.Module:
    """diffusers' VAE: encodes means of blocks of pixels, and decodes the inverted image."""
    zero_weights(vae)
    encoder, decoder = vae.encoder, vae.decoder
    for part in (encoder, decoder):
        split_signs(part.conv_in.weight, 0)
    for block in encoder.down_blocks:
        for layer in block.downsamplers or ():
            layer.conv.weight[:, :, :2, :2] = identity(layer.conv.weight) / 4.0
    for block in decoder.up_blocks:
        for layer in block.upsamplers or ():
            layer.conv.weight[:, :, 1:2, 1:2] = identity(layer.conv.weight)
    join_signs(encoder.conv_norm_out, encoder.conv_out, 1.0)
    join_signs(decoder.conv_norm_out, decoder.conv_out, -OUTPUT_SCALE)
    if hasattr(decoder, "time_conv_out"):
        decoder.time_conv_out.weight[:, :, 1, 0, 0] = torch.eye(COLOURS)
    for layer in (vae.quant_conv, getattr(vae, "post_quant_conv", None)):
        if layer is not None:
            layer.weight.copy_(identity(layer.weight))
    return vae


def zero_weights(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.zero_()


def identity(like: Tensor) -> Tensor:
    """(C, C, 1, 1) of a convolution's weight (C, C, k, k)."""
    return torch.eye(len(like)).to(like)[:, :, None, None]


def split_signs(weight: Tensor, first: int) -> None:
    """Channels 2 c and 2 c + 1 become +x and -x of input channel first + c."""
    for channel in range(COLOURS):
        weight[2 * channel, first + channel, 1, 1] = 1.0
        weight[2 * channel + 1, first + channel, 1, 1] = -1.0


def join_signs(norm: nn.GroupNorm, conv: nn.Conv2d, scale: float) -> None:
    """Output channel c is scale / rms(x) times x, of +x and -x in channels 2 c and 2 c + 1."""
    assert norm.num_channels == 2 * norm.num_groups
    norm.weight[: 2 * COLOURS] = 1.0
    norm.bias[: 2 * COLOURS] = LINEAR_BIAS
    for channel in range(COLOURS):
        conv.weight[channel, 2 * channel, 1, 1] = 0.5 * scale
        conv.weight[channel, 2 * channel + 1, 1, 1] = -0.5 * scale


def keep_skip_connection(weight: Tensor) -> None:
    """Of concatenated hidden and skipped channels, the residual block passes the skipped on."""
    width = len(weight)
    weight[:, -width:] = identity(weight)
