"""A multi-view model: its network, its image codec, its image encoder, and where they run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from ..checks import check_shape
from ..errors import InputError

if TYPE_CHECKING:
    from .families import Family
    from .network.unet import VideoUNet

UNET, CODEC, IMAGE_ENCODER = "unet", "codec", "image_encoder"
PARTS = (UNET, CODEC, IMAGE_ENCODER)


class Codec(Protocol):
    """Images to latents and back; an nn.Module."""

    factor: int
    """Pixels along a latent's side."""
    latent_channels: int
    """Numbers of a latent."""

    def encode(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Unscaled latents (N, C, H/f, W/f) of images (N, 3, H, W) in -1..1.

        The posterior's mode; a sample of it with a generator (V3D was trained so).
        """

    def encode_scaled(self, images: Tensor) -> Tensor:
        """Latents (N, C, H/f, W/f) of images (N, 3, H, W) as the network paints them.

        They are of about unit variance, and what `decode` takes; training aims at them.
        """

    def decode(self, latents: Tensor, views: int, chunk_size: int | None = None) -> Tensor:
        """Images (N, 3, H, W) in about -1..1 of scaled latents (N, C, h, w), N = objects * views.

        Args:
            latents: as the network makes them.
            views: how many consecutive ones belong to one walk around an object.
            at_once: decode so many together.
        """

    def decode_peak_bytes(self, height: int, width: int, count: int, dtype: torch.dtype) -> int:
        """What decoding `count` images of this size together takes beside the weights."""


def check_encodable(images: Tensor, factor: int) -> None:
    """Raises InputError unless a codec of this factor can encode images (N, 3, H, W)."""
    sizes = check_shape("the images to encode", images, "N 3 H W")
    if sizes["H"] % factor or sizes["W"] % factor:
        raise InputError(
            f"an image to encode has {sizes['W']}x{sizes['H']} pixels, expected multiples of "
            f"{factor}."
        )


class ImageEncoder(Protocol):
    """Images to the one token that the network attends to; an nn.Module."""

    embed_dim: int
    """Length of the token."""

    def embed(self, images: Tensor) -> Tensor:
        """(B, 1, C) embeddings of images (B, 3, H, W) in -1..1."""


class Placement(Protocol):
    """Decides where the parts of a model run, and brings each there when it is needed."""

    def load_to_device(self, part: str, activation_bytes: int) -> tuple[torch.device, torch.dtype]:
        """Makes a part ready to run.

        Args:
            part: one of `PARTS`.
            activation_bytes: memory that the run takes beside the weights, honestly reckoned.

        Returns:
            Where its input has to be, and in which number format.
        """


@dataclass(eq=False)
class MultiviewModel:
    """A loaded model.

    Its weights are never changed by sampling, so one model serves many samples.
    """

    family: Family
    """How it was trained."""
    unet: VideoUNet
    """The denoising network."""
    codec: Codec
    """The VAE, or pixels."""
    image_encoder: ImageEncoder
    """CLIP's image half, or a small one."""
    source: str = ""
    """The file it came from, for messages."""

    def part(self, name: str) -> nn.Module:
        """One of the `PARTS` by name."""
        return getattr(self, name)


def module_dtype(module: nn.Module) -> torch.dtype:
    """The dtype of a module's weights; float32 for one without weights."""
    weight = next(module.parameters(), None)
    return torch.float32 if weight is None else weight.dtype


@dataclass(eq=False)
class OneDevice:
    """The plain placement: all on one device, the parts not in use moved away if it is a GPU."""

    model: MultiviewModel
    """Whose parts are placed."""
    device: torch.device
    """Where they run."""
    dtype: torch.dtype = torch.float32
    """What the network computes in; the codec and the encoder follow their own weights."""
    keep: bool = False
    """Leave parts on the GPU when the next one comes; quicker where memory allows."""

    def load_to_device(self, part: str, activation_bytes: int) -> tuple[torch.device, torch.dtype]:
        """Moves the part here, the others away; see `Placement`."""
        if self.device.type != "cpu" and not self.keep:
            for other in PARTS:
                if other != part:
                    self.model.part(other).to("cpu")
        module = self.model.part(part).to(self.device)
        return self.device, self.dtype if part == UNET else module_dtype(module)
