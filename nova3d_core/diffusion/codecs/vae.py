"""VAE codec: Stable Video Diffusion's VAE, or the image VAE with the same encoder."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ...checks import check_shape
from ...errors import InputError, MissingDependencyError
from ..model import Codec, cast_copy, check_encodable, module_dtype
from .vae_config import VaeConfig

LATENT_SCALE = 0.18215
"""Scaling factor of the latents that the UNet denoises; SVD leaves the input image's unscaled."""

ENCODER_MODULES, DECODER_MODULES = ("encoder", "quant_conv"), ("decoder", "post_quant_conv")
"""Submodules of diffusers' VAEs; the temporal one has no post_quant_conv."""

LOG_VARIANCE_RANGE = (-30.0, 20.0)
"""Bounds to which the posterior's log variance is clamped."""

TEMPORAL_PEAK_MAPS = 5.0
FRAME_PEAK_MAPS = 4.0
"""Feature maps of the second level's width, at full resolution, alive at the peak of decoding."""
WORKSPACE_BYTES = 3 << 26
"""Workspace of convolutions, independent of the images; 60 to 180 MiB on the CPUs and thread counts
measured."""


def build_vae(config: VaeConfig) -> nn.Module:
    """Builds diffusers' VAE on the meta device, without weights.

    Raises:
        MissingDependencyError: diffusers is not installed.
    """
    try:
        from diffusers import AutoencoderKL, AutoencoderKLTemporalDecoder
    except ImportError as error:
        raise MissingDependencyError("diffusers", "Decoding views") from error
    levels = len(config.block_out_channels)
    shape = {
        "block_out_channels": config.block_out_channels,
        "layers_per_block": config.layers_per_block,
        "latent_channels": config.latent_channels,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "scaling_factor": LATENT_SCALE,
    }
    with torch.device("meta"):
        if config.temporal:
            return AutoencoderKLTemporalDecoder(**shape)
        return AutoencoderKL(**shape, up_block_types=("UpDecoderBlock2D",) * levels)


class VaeCodec(nn.Module):
    """A diffusers VAE behind the `Codec` interface.

    Args:
        vae: AutoencoderKLTemporalDecoder, or AutoencoderKL, which decodes images independently.

    Attributes:
        factor: spatial downsampling factor.
        latent_channels: channels of a latent.
        temporal: whether the decoder has layers across the views of an object.
    """

    def __init__(self, vae: nn.Module):
        super().__init__()
        self.vae = vae
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.latent_channels = vae.config.latent_channels
        self.temporal = hasattr(vae.decoder, "time_conv_out")

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which it decodes."""
        return module_dtype(self.vae.decoder)

    def cast(
        self, encode: torch.dtype | None = None, decode: torch.dtype | None = None
    ) -> VaeCodec:
        """The codec with encoder and decoder in these dtypes; None leaves one as it is.

        Only modules of another dtype are copied; the others are shared.
        """
        vae = copy.copy(self.vae)
        vae._modules = dict(self.vae._modules)  # not shared with the original
        for names, dtype in ((ENCODER_MODULES, encode), (DECODER_MODULES, decode)):
            for name in names:
                module = getattr(vae, name, None)
                if module is not None and dtype not in (None, module_dtype(module)):
                    vae._modules[name] = cast_copy(module, dtype)
        return VaeCodec(vae)

    def encode(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Unscaled latents of images.

        Args:
            images: (N, 3, H, W) in -1..1, H and W multiples of `factor`.
            generator: samples the posterior, as in V3D's training; the mode if None.

        Returns:
            (N, C, H/f, W/f) float32.

        Raises:
            InputError: on another shape.
        """
        check_encodable(images, self.factor)
        images = images.to(module_dtype(self.vae.encoder))
        moments = self.vae.quant_conv(self.vae.encoder(images))  # (N, 2C, h, w)
        mean, log_variance = moments.float().chunk(2, dim=1)  # (N, C, h, w)
        if generator is None:
            return mean
        noise = torch.randn(mean.shape, generator=generator, device=generator.device)
        std = torch.exp(0.5 * log_variance.clamp(*LOG_VARIANCE_RANGE))
        return mean + std * noise.to(mean.device)

    def encode_scaled(self, images: Tensor) -> Tensor:
        """Scaled latents (N, C, H/f, W/f) float32, which the network predicts; see `encode`."""
        return LATENT_SCALE * self.encode(images)

    def decode(self, latents: Tensor, views: int, chunk_size: int | None = None) -> Tensor:
        """Decodes scaled latents.

        Without temporal layers the result does not depend on `chunk_size`. Temporal layers see only
        the latents of one chunk, as in the original code.

        Args:
            latents: (N, C, h, w) scaled, N = objects * views.
            views: number of consecutive latents that belong to one object.
            chunk_size: number of latents decoded together; all views of an object if None.

        Returns:
            (N, 3, H, W) float32, in about -1..1.

        Raises:
            InputError: N is no multiple of `views`, or `chunk_size` is below 1.
        """
        sizes = check_shape("the latents to decode", latents, "N C H W", C=self.latent_channels)
        if views < 1 or sizes["N"] % views:
            raise InputError(
                f"{sizes['N']} latents cannot be decoded as objects of {views} views each."
            )
        chunk_size = views if chunk_size is None else chunk_size
        if chunk_size < 1:
            raise InputError(f"decode chunk_size is {chunk_size}, expected at least 1.")
        latents = (latents.float() / LATENT_SCALE).to(self.dtype)  # one rounding, not two
        objects = latents.split(views if self.temporal else sizes["N"])
        chunks = [chunk for each in objects for chunk in each.split(chunk_size)]
        return torch.cat([self._decode(chunk).float() for chunk in chunks])

    def _decode(self, latents: Tensor) -> Tensor:
        """Unscaled (N, C, h, w) -> (N, 3, H, W) in one pass."""
        if self.temporal:
            return self.vae.decode(latents, num_frames=len(latents)).sample
        return self.vae.decode(latents).sample

    def decode_peak_bytes(self, height: int, width: int, count: int, dtype: torch.dtype) -> int:
        """Peak memory of decoding `count` images of this size together, without the weights.

        A fit to SVD's VAE on the CPU with 1 to 4 images of 256 and 512 pixels: the feature maps of
        the finest level dominate, as wide as its first block receives them.
        """
        widths = self.vae.config.block_out_channels
        maps = (TEMPORAL_PEAK_MAPS if self.temporal else FRAME_PEAK_MAPS) * widths[
            min(1, len(widths) - 1)
        ]
        return int(maps * count * height * width * dtype.itemsize) + WORKSPACE_BYTES


def max_chunk_size(
    codec: Codec, height: int, width: int, dtype: torch.dtype, memory_bytes: float, views: int
) -> int:
    """The largest number of images that can be decoded together within a memory budget.

    Args:
        codec: decodes them.
        height: of an image.
        width: of an image.
        dtype: the codec's dtype.
        memory_bytes: budget of the decoding, without the weights.
        views: upper limit, the views of an object.

    Returns:
        1..views; 1 even if a single image exceeds the budget.
    """
    for count in range(views, 1, -1):
        if codec.decode_peak_bytes(height, width, count, dtype) <= memory_bytes:
            return count
    return 1
