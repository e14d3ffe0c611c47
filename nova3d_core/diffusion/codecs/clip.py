"""The one token that the network attends to: the input image as CLIP sees it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...checks import check_shape
from ...errors import MissingDependencyError
from .clip_config import ClipConfig

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard std of red, green and blue in CLIP's training images, 0..1."""


def build_clip(config: ClipConfig) -> nn.Module:
    """transformers' CLIP image encoder of this shape on the meta device, without weights.

    Raises:
        MissingDependencyError: transformers is not installed.
    """
    try:
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
    except ImportError as error:
        raise MissingDependencyError("transformers", "Reading the input image") from error
    shape = CLIPVisionConfig(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        projection_dim=config.projection_dim,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        image_size=config.image_size,
        patch_size=config.patch_size,
        hidden_act="gelu",
        layer_norm_eps=1e-5,
    )
    with torch.device("meta"):
        clip = CLIPVisionModelWithProjection(shape)
    # A plain count that no file holds, so it must not stay on the meta device.
    embeddings = clip.vision_model.embeddings
    order = torch.arange(embeddings.position_ids.shape[-1])[None]  # (1, 1 + places)
    embeddings.register_buffer("position_ids", order, persistent=False)
    return clip


class ClipEncoder(nn.Module):
    """CLIP's image half as SVD uses it.

    Args:
        clip: CLIPVisionModelWithProjection.
    """

    def __init__(self, clip: nn.Module):
        super().__init__()
        self.clip = clip

    @property
    def embed_dim(self) -> int:
        """Length of the embedding."""
        return self.clip.config.projection_dim

    @property
    def image_size(self) -> int:
        """Width and height that images are brought to."""
        return self.clip.config.image_size

    def embed(self, images: Tensor) -> Tensor:
        """(B, 1, C) float32 embeddings of images (B, 3, H, W) in -1..1, of any size."""
        check_shape("the images to embed", images, "B 3 H W")
        dtype = next(self.parameters()).dtype
        seen = clip_pixel_values(images, self.image_size).to(dtype)  # (B, 3, size, size)
        return self.clip(pixel_values=seen).image_embeds[:, None].float()


def clip_pixel_values(images: Tensor, image_size: int) -> Tensor:
    """Images as CLIP expects them: squeezed to a square, colours centred.

    Args:
        images: (B, 3, H, W) in -1..1; nothing is cropped.
        image_size: width and height of the square.

    Returns:
        (B, 3, image_size, image_size) float32.
    """
    unit = (resize_antialiased(images.float(), image_size, image_size) + 1.0) / 2.0
    mean = unit.new_tensor(CLIP_MEAN)[:, None, None]
    std = unit.new_tensor(CLIP_STD)[:, None, None]
    return (unit - mean) / std


def resize_antialiased(images: Tensor, height: int, width: int) -> Tensor:
    """Another size by bicubic interpolation, blurred first where it shrinks.

    The blur is kornia's, which SVD was trained with: a Gaussian of sigma (factor - 1) / 2 cut at
    about two sigma, with mirrored borders; then corners fall onto corners.

    Args:
        images: (B, C, H, W).
        height: the new one.
        width: the new one.

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
    """A Gaussian blur of (B, C, H, W) along one axis, before shrinking it by the factor."""
    sigma = max((factor - 1.0) / 2.0, 0.001)
    taps = int(max(4.0 * sigma, 3.0)) | 1  # odd
    half = taps // 2
    place = torch.arange(-half, half + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-(place**2) / (2.0 * sigma**2))
    kernel = kernel / kernel.sum()  # (taps,)
    channels = images.shape[1]
    along_height = axis == -2
    shape = (channels, 1, taps, 1) if along_height else (channels, 1, 1, taps)
    padding = (0, 0, half, half) if along_height else (half, half, 0, 0)
    mirrored = functional.pad(images, padding, mode="reflect")
    weight = kernel.reshape(shape[2:]).expand(shape)
    return functional.conv2d(mirrored, weight, groups=channels)
