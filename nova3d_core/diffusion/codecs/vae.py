"""Images to latents and back, by the VAE of Stable Video Diffusion or its per-frame twin."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...checks import check_shape
from ...errors import InputError, MissingDependencyError
from ..model import Codec, check_encodable
from .vae_config import VaeConfig

LATENT_SCALE = 0.18215
"""The network works on latents times this; SVD never scales the input image's latent."""

LOG_VARIANCE_RANGE = (-30.0, 20.0)
"""Within which the posterior's log variance is held."""

TEMPORAL_PEAK_MAPS = 5.0
FRAME_PEAK_MAPS = 4.0
"""Maps of the second level's width, at full size, that are alive at decoding's peak."""
WORKSPACE_BYTES = 3 << 26
"""What convolutions take beside their maps, whatever the images: 60 to 180 MiB on the processors
and numbers of threads that were tried."""


def build_vae(config: VaeConfig) -> nn.Module:
    """diffusers' VAE of this shape on the meta device, without weights.

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
    """A VAE as the sampler uses it.

    Args:
        vae: AutoencoderKLTemporalDecoder, or AutoencoderKL for a decoder of single images.

    Attributes:
        factor: pixels along a latent's side.
        latent_channels: numbers of a latent.
        temporal: whether images of a walk are decoded with a look at each other.
    """

    def __init__(self, vae: nn.Module):
        super().__init__()
        self.vae = vae
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.latent_channels = vae.config.latent_channels
        self.temporal = hasattr(vae.decoder, "time_conv_out")

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return next(self.parameters()).dtype

    def encode(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Unscaled latents of images.

        Args:
            images: (N, 3, H, W) in -1..1, H and W multiples of `factor`.
            generator: draws a sample of the posterior, as V3D was trained; its mode if None.

        Returns:
            (N, C, H/f, W/f) float32.

        Raises:
            InputError: on another shape.
        """
        check_encodable(images, self.factor)
        moments = self.vae.quant_conv(self.vae.encoder(images.to(self.dtype)))  # (N, 2C, h, w)
        mean, log_variance = moments.float().chunk(2, dim=1)  # (N, C, h, w)
        if generator is None:
            return mean
        noise = torch.randn(mean.shape, generator=generator, device=generator.device)
        deviation = torch.exp(0.5 * log_variance.clamp(*LOG_VARIANCE_RANGE))
        return mean + deviation * noise.to(mean.device)

    def encode_scaled(self, images: Tensor) -> Tensor:
        """Latents (N, C, H/f, W/f) float32 as the network paints them; see `encode`."""
        return LATENT_SCALE * self.encode(images)

    def decode(self, latents: Tensor, views: int, chunk_size: int | None = None) -> Tensor:
        """Images of the network's latents.

        A decoder of single images gives the same for every `chunk_size`. One with layers across
        time sees only the images that are decoded together, as in the original.

        Args:
            latents: (N, C, h, w) scaled, N = walks * views.
            views: how many consecutive ones belong to one walk around an object.
            at_once: decode so many together; all of a walk if None.

        Returns:
            (N, 3, H, W) float32, in about -1..1.

        Raises:
            InputError: N is no multiple of views, or at_once is below 1.
        """
        sizes = check_shape("the latents to decode", latents, "N C H W", C=self.latent_channels)
        if views < 1 or sizes["N"] % views:
            raise InputError(f"{sizes['N']} latents cannot be decoded as walks of {views} views.")
        chunk_size = views if chunk_size is None else chunk_size
        if chunk_size < 1:
            raise InputError(f"decode at_once is {chunk_size}, expected at least 1.")
        latents = latents.to(self.dtype) / LATENT_SCALE
        walks = latents.split(views if self.temporal else sizes["N"])
        chunks = [chunk for walk in walks for chunk in walk.split(chunk_size)]
        return torch.cat([self._decode(chunk).float() for chunk in chunks])

    def _decode(self, latents: Tensor) -> Tensor:
        """(N, C, h, w) unscaled -> (N, 3, H, W), all together."""
        if self.temporal:
            return self.vae.decode(latents, num_frames=len(latents)).sample
        return self.vae.decode(latents).sample

    def decode_peak_bytes(self, height: int, width: int, count: int, dtype: torch.dtype) -> int:
        """Memory that decoding `count` images of this size together takes beside the weights.

        Measured with SVD's widths on the CPU, 1 to 4 images of 256 and 512 pixels: what counts
        are the finest level's maps, as wide as its first block takes them.
        """
        widths = self.vae.config.block_out_channels
        maps = (TEMPORAL_PEAK_MAPS if self.temporal else FRAME_PEAK_MAPS) * widths[
            min(1, len(widths) - 1)
        ]
        return int(maps * count * height * width * dtype.itemsize) + WORKSPACE_BYTES


def max_chunk_size(
    codec: Codec, height: int, width: int, dtype: torch.dtype, memory_bytes: float, most: int
) -> int:
    """How many images can be decoded together.

    Args:
        codec: decodes them.
        height: of an image.
        width: of an image.
        dtype: what the codec computes in.
        memory_bytes: what decoding may take beside the weights.
        most: no more than these; the views of a walk.

    Returns:
        1..most. One image is always tried, even if it takes more.
    """
    for count in range(most, 1, -1):
        if codec.decode_peak_bytes(height, width, count, dtype) <= memory_bytes:
            return count
    return 1
