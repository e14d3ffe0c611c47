"""Weights with which the small normal estimators read normals from the colours that encode them.

Red and green of the colours are x and y of a normal, blue is 0 on the object and 1 in the white
background, which the estimators see as no normal; z is the same everywhere. So the estimates are
known, up to the resolution of the latents.

The first layer of each network makes two channels +c and -c of each channel c, all residual
branches are zero, and the last norm, whose groups have these two channels, scales them to an rms of
1. Its large bias makes the activation linear.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from nova3d_core.diffusion.codecs.vae import build_vae
from nova3d_core.diffusion.codecs.vae_config import VaeConfig
from nova3d_core.diffusion.network.unet import VideoUNet

from ..weights.models import random_model, randomised
from ..weights.test_load import write_diffusers
from .small_marigold import save_small_marigold

CHANNELS = 3
VAE = VaeConfig(block_out_channels=(64, 64, 64, 64))
"""The 32 groups of its norms have two channels each."""
LINEAR_BIAS = 20.0
"""silu(x + 20) is x + 20 for x above -10, within 1e-3."""
OUTPUT_SCALES = (0.19, 0.19, 0.4)
"""Of x, y and z of the decoded normals, whose rms is 1 before it: lengths are near 1, and none is
clipped, for a sphere that covers a quarter of an image."""
READ_NORMALS = ((2.0, 0.0, -1.0), (0.0, 2.0, -1.0), (0.0, 0.0, -1.0))
"""Matrix from red, green and blue in -1..1, minus white, to x, y and z; see `colour_of_normals`."""


def colour_of_normals(normals: Tensor, masks: Tensor) -> Tensor:
    """Colours (V, H, W, 3) on white that encode normals (V, H, W, 3) on the object."""
    red_green = 0.5 + 0.25 * normals[..., :2]
    on_object = torch.cat([red_green, torch.zeros_like(normals[..., :1])], dim=-1)
    return torch.lerp(torch.ones_like(normals), on_object, masks[..., None])


def expected_normals(normals: Tensor, masks: Tensor) -> Tensor:
    """(V, H, W, 3) unit normals that the estimators return for these colours, at any resolution."""
    read = torch.cat([normals[..., :2], torch.ones_like(normals[..., :1])], dim=-1)
    read = read * masks[..., None]
    rms = read.square().mean(dim=(1, 2), keepdim=True).sqrt()
    return functional.normalize(read / rms * torch.tensor(OUTPUT_SCALES), dim=-1)


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
    split_signs(unet.input_blocks[0][0], 4)
    keep_skip_connection(unet.output_blocks[-1][0].skip_connection.weight)
    join_signs(unet.out[0], unet.out[2], (-1.0,) * CHANNELS)
    return unet


def pass_through_unet_2d(unet: nn.Module) -> nn.Module:
    """Marigold's network: minus the image latents, the first four channels.

    They are large, so that the start noise in the estimate vanishes next to them.
    """
    zero_weights(unet)
    split_signs(unet.conv_in, 0)
    keep_skip_connection(unet.up_blocks[-1].resnets[-1].conv_shortcut.weight)
    join_signs(unet.conv_norm_out, unet.conv_out, (-100.0,) * CHANNELS)
    return unet


def pass_through_vae(vae: nn.Module) -> nn.Module:
    """diffusers' VAE: encodes the normals as means of blocks of pixels, and decodes them."""
    zero_weights(vae)
    encoder, decoder = vae.encoder, vae.decoder
    split_signs(encoder.conv_in, 0, torch.tensor(READ_NORMALS))
    split_signs(decoder.conv_in, 0)
    for block in encoder.down_blocks:
        for layer in block.downsamplers or ():
            layer.conv.weight[:, :, :2, :2] = identity(layer.conv.weight) / 4.0
    for block in decoder.up_blocks:
        for layer in block.upsamplers or ():
            layer.conv.weight[:, :, 1:2, 1:2] = identity(layer.conv.weight)
    join_signs(encoder.conv_norm_out, encoder.conv_out, (1.0,) * CHANNELS)
    join_signs(decoder.conv_norm_out, decoder.conv_out, OUTPUT_SCALES)
    if hasattr(decoder, "time_conv_out"):
        decoder.time_conv_out.weight[:, :, 1, 0, 0] = torch.eye(CHANNELS)
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


def split_signs(conv: nn.Conv2d, first: int, matrix: Tensor | None = None) -> None:
    """Channels 2 c and 2 c + 1 become + and - channel c of the input from channel `first` on.

    With a matrix (3, 3), of the matrix times the input minus 1.
    """
    rows = torch.eye(CHANNELS) if matrix is None else matrix
    for channel, row in enumerate(rows):
        for index, sign in ((2 * channel, 1.0), (2 * channel + 1, -1.0)):
            conv.weight[index, first : first + CHANNELS, 1, 1] = sign * row
            conv.bias[index] = 0.0 if matrix is None else -sign * row.sum()


def join_signs(norm: nn.GroupNorm, conv: nn.Conv2d, scales: tuple[float, ...]) -> None:
    """Output channel c is its scale / rms(x) times x, of +x and -x in channels 2 c and 2 c + 1."""
    assert norm.num_channels == 2 * norm.num_groups
    norm.weight[: 2 * CHANNELS] = 1.0
    norm.bias[: 2 * CHANNELS] = LINEAR_BIAS
    for channel, scale in enumerate(scales):
        conv.weight[channel, 2 * channel, 1, 1] = 0.5 * scale
        conv.weight[channel, 2 * channel + 1, 1, 1] = -0.5 * scale


def keep_skip_connection(weight: Tensor) -> None:
    """Of concatenated hidden and skipped channels, the residual block passes the skipped on."""
    width = len(weight)
    weight[:, -width:] = identity(weight)
