"""A multi-view diffusion model: UNet, codec and image encoder, and their placement on devices."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from ..checks import check_shape
from ..compute.devices import GIB, free_memory_bytes
from ..compute.host_memory import available_bytes
from ..errors import InputError

if TYPE_CHECKING:
    from .families import Family
    from .network.token_transformer import TokenTransformer
    from .network.unet import VideoUNet
    from .network.unet_2d import MultiviewUNet2D

UNET, CODEC, IMAGE_ENCODER = "unet", "codec", "image_encoder"
PARTS = (UNET, CODEC, IMAGE_ENCODER)
CONDITIONER = "conditioner"
"""A part that only models for scenes have; see `scenes.model`."""
FREE_MEMORY_FRACTION = 0.7
"""Fraction of the free memory that activations may use."""
DEFAULT_BUDGET_BYTES = 4 * GIB
"""The same where the free memory is unknown."""


class Codec(Protocol):
    """Encodes images to latents and decodes latents to images; an nn.Module."""

    factor: int
    """Spatial downsampling factor f."""
    latent_channels: int
    """Channels of a latent."""
    temporal: bool
    """Whether decoding an image depends on the other images that are decoded together."""
    dtype: torch.dtype
    """The dtype in which it decodes."""

    def cast(self, encode: torch.dtype | None = None, decode: torch.dtype | None = None) -> Codec:
        """The same codec with encoder or decoder in another dtype; only what differs is copied."""

    def encode(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Unscaled latents (N, C, H/f, W/f) of images (N, 3, H, W) in -1..1.

        The mode of the posterior, or with a generator a sample of it, as in V3D's training.
        """

    def encode_scaled(self, images: Tensor) -> Tensor:
        """Scaled latents (N, C, H/f, W/f) of images (N, 3, H, W), which the network predicts.

        They have about unit variance, are the input of `decode` and the target of training.
        """

    def decode(self, latents: Tensor, views: int, chunk_size: int | None = None) -> Tensor:
        """Images (N, 3, H, W) in about -1..1 of scaled latents (N, C, h, w), N = objects * views.

        Args:
            latents: as the network predicts them.
            views: number of consecutive latents that belong to one object.
            chunk_size: number of latents decoded together.
        """

    def decode_peak_bytes(self, height: int, width: int, count: int, dtype: torch.dtype) -> int:
        """Peak memory of decoding `count` images of this size together, without the weights."""


def check_encodable(images: Tensor, factor: int) -> None:
    """Raises InputError unless a codec with this factor can encode images (N, 3, H, W)."""
    sizes = check_shape("the images to encode", images, "N 3 H W")
    if sizes["H"] % factor or sizes["W"] % factor:
        raise InputError(
            f"an image to encode has {sizes['W']}x{sizes['H']} pixels, expected multiples of "
            f"{factor}."
        )


class ImageEncoder(Protocol):
    """Encodes an image to the token of the UNet's cross-attention context; an nn.Module."""

    embed_dim: int
    """Length of the embedding."""

    def embed(self, images: Tensor) -> Tensor:
        """(B, 1, C) embeddings of images (B, 3, H, W) in -1..1."""


class Placement(Protocol):
    """Decides on which device and in which dtype each part of a model runs, and loads it there."""

    def activation_budget(self, part: str) -> int:
        """Memory in bytes that the activations of a part may use, without its weights."""

    def load_to_device(self, part: str, activation_bytes: int) -> tuple[torch.device, torch.dtype]:
        """Makes a part ready to run.

        Args:
            part: one of the model's `parts`.
            activation_bytes: estimated peak memory of the run, without the weights.

        Returns:
            Device and dtype of its input.
        """


@dataclass(eq=False)
class MultiviewModel:
    """A loaded model. Sampling never changes its weights."""

    family: Family
    """How it was trained and has to be sampled."""
    unet: VideoUNet | MultiviewUNet2D | TokenTransformer
    """The denoising network."""
    codec: Codec
    """The VAE, or the pixel codec."""
    image_encoder: ImageEncoder
    """CLIP's image encoder, or a small one."""
    source: str = ""
    """The file it was loaded from, for messages."""

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of its parts: `PARTS`, and the conditioner of a model for scenes."""
        return PARTS

    def part(self, name: str) -> nn.Module:
        """One of its `parts` by name."""
        return getattr(self, name)


def module_dtype(module: nn.Module) -> torch.dtype:
    """The dtype of a module's weights; float32 for one without weights."""
    weight = next(module.parameters(), None)
    return torch.float32 if weight is None else weight.dtype


def cast_copy(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy in another dtype; each weight is cast directly, without a copy in its own dtype."""
    copies: dict[int, Tensor] = {}
    for weight in module.parameters():
        copies[id(weight)] = nn.Parameter(weight.detach().to(dtype, copy=True), requires_grad=False)
    for buffer in module.buffers():
        target = dtype if buffer.is_floating_point() else buffer.dtype
        copies[id(buffer)] = buffer.detach().to(target, copy=True)
    return copy.deepcopy(module, copies)


@dataclass(eq=False)
class OneDevice:
    """Placement on one device; on a GPU, parts that are not in use are offloaded to the CPU."""

    model: MultiviewModel
    """The model to place."""
    device: torch.device
    """Where its parts run."""
    dtype: torch.dtype = torch.float32
    """The UNet's compute dtype; codec and image encoder use the dtype of their weights."""
    keep: bool = False
    """Keep all parts on the GPU: faster where memory allows."""

    def activation_budget(self, part: str) -> int:
        """Most of the device's free memory with the part loaded; see `Placement`."""
        self.load_to_device(part, 0)
        free = available_bytes() if self.device.type == "cpu" else free_memory_bytes(self.device)
        return DEFAULT_BUDGET_BYTES if free is None else int(FREE_MEMORY_FRACTION * free)

    def load_to_device(self, part: str, activation_bytes: int) -> tuple[torch.device, torch.dtype]:
        """Moves the part to the device and offloads the others; see `Placement`."""
        if self.device.type != "cpu" and not self.keep:
            for other in self.model.parts:
                if other != part:
                    self.model.part(other).to("cpu")
        module = self.model.part(part).to(self.device)
        return self.device, self.dtype if part == UNET else module_dtype(module)
