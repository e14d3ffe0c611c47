"""CLIP image encoder: the embedding of the input image, the UNet's cross-attention context."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...checks import check_shape
from ...errors import MissingDependencyError
from .clip_config import ClipConfig

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Per-channel mean and standard deviation of CLIP's training images in 0..1."""


def build_clip(config: ClipConfig) -> nn.Module:
    """Builds transformers' CLIP image encoder on the meta device, without weights.

    Raises:
        MissingDependencyError: transformers is not installed.
    """
    try:
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
    except ImportError as error:
        raise MissingDependencyError("transformers", "Encoding the input image") from error
    shape = CLIPVisionConfig(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        projection_dim=config.projection_dim,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        image_size=config.image_size,
        patch_size=config.patch_size,
        hidden_act=config.hidden_act,
        layer_norm_eps=1e-5,
    )
    with torch.device("meta"):
        clip = CLIPVisionModelWithProjection(shape)
    # position_ids are in no file, so they must not stay on the meta device
    embeddings = clip.vision_model.embeddings
    order = torch.arange(embeddings.position_ids.shape[-1])[None]  # (1, 1 + patches)
    embeddings.register_buffer("position_ids", order, persistent=False)
    return clip


class ClipEncoder(nn.Module):
    """CLIP image encoder as SVD uses it.

    Args:
        clip: CLIPVisionModelWithProjection.
    """

    hidden_act: ClassVar[Literal["gelu", "quick_gelu"]] = "gelu"

    def __init__(self, clip: nn.Module):
        super().__init__()
        self.clip = clip

    @property
    def embed_dim(self) -> int:
        """Length of the embedding."""
        return self.clip.config.projection_dim

    @property
    def image_size(self) -> int:
        """Width and height of the encoder's input in pixels."""
        return self.clip.config.image_size

    def embed(self, images: Tensor) -> Tensor:
        """(B, 1, C) float32 embeddings of images (B, 3, H, W) in -1..1, of any size."""
        check_shape("the images to embed", images, "B 3 H W")
        dtype = next(self.parameters()).dtype
        pixel_values = self.pixel_values(images.float()).to(dtype)
        return self.clip(pixel_values=pixel_values).image_embeds[:, None].float()

    def pixel_values(self, images: Tensor) -> Tensor:
        """(B, 3, size, size) normalised input of the transformer, of images (B, 3, H, W)."""
        return clip_pixel_values(images, self.image_size)


class OpenAiClipEncoder(ClipEncoder):
    """CLIP image encoder of OpenAI (ViT-L/14), with transformers' preprocessing.

    Wonder3D was trained with it; images are resized as Pillow does.
    """

    hidden_act = "quick_gelu"

    def pixel_values(self, images: Tensor) -> Tensor:
        """(B, 3, size, size) normalised input of the transformer, of images (B, 3, H, W)."""
        width = self.image_size
        for size in ((images.shape[-2], width), (width, width)):
            if tuple(images.shape[-2:]) != size:
                images = functional.interpolate(images, size=size, mode="bicubic", antialias=True)
            images = images.clamp(-1.0, 1.0)  # after each axis, as Pillow's 8-bit images
        return _normalise(images)


def clip_pixel_values(images: Tensor, image_size: int) -> Tensor:
    """CLIP preprocessing: resizes to a square without cropping and normalises colours.

    Args:
        images: (B, 3, H, W) in -1..1.
        image_size: width and height of the square.

    Returns:
        (B, 3, image_size, image_size) float32.
    """
    return _normalise(resize_antialiased(images.float(), image_size, image_size))


def _normalise(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) in -1..1 to CLIP's mean and standard deviation."""
    unit = (images + 1.0) / 2.0
    mean = unit.new_tensor(CLIP_MEAN)[:, None, None]
    std = unit.new_tensor(CLIP_STD)[:, None, None]
    return (unit - mean) / std


def resize_antialiased(images: Tensor, height: int, width: int) -> Tensor:
    """Bicubic resize with antialiasing, as in kornia, which SVD was trained with.

    Axes that shrink are blurred first, by a Gaussian of sigma (factor - 1) / 2 truncated at about
    two sigma, with reflected borders; then the images are resampled with aligned corners.

    Args:
        images: (B, C, H, W).
        height: target height.
        width: target width.

    Returns:
        (B, C, height, width).
    """
    if tuple(images.shape[-2:]) == (height, width):
        return images
    factors = (images.shape[-2] / height, images.shape[-1] / width)
    for factor, axis in zip(factors, (-2, -1), strict=True):
        if factor > 1.0:
            images = _blur(images, factor, axis)
    return functional.interpolate(images, size=(height, width), mode="bicubic", align_corners=True)


def _blur(images: Tensor, factor: float, axis: int) -> Tensor:
    """Gaussian blur of (B, C, H, W) along one axis, for downsampling it by a factor."""
    sigma = max((factor - 1.0) / 2.0, 0.001)
    taps = int(max(4.0 * sigma, 3.0)) | 1  # odd
    half = taps // 2
    offset = torch.arange(-half, half + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-(offset**2) / (2.0 * sigma**2))
    kernel = kernel / kernel.sum()  # (taps,)
    channels = images.shape[1]
    vertical = axis == -2
    shape = (channels, 1, taps, 1) if vertical else (channels, 1, 1, taps)
    padding = (0, 0, half, half) if vertical else (half, half, 0, 0)
    padded = functional.pad(images, padding, mode="reflect")
    weight = kernel.reshape(shape[2:]).expand(shape)
    return functional.conv2d(padded, weight, groups=channels)
