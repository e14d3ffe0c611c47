"""NormalCrafter (Bin et al. 2025): normals of all views in one pass of SVD's network.

Its UNet is SVD's. Each view has its own image embedding and image latent, the noisy latents are
zero, and one Euler step from sigma 700 leads to the normals' latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..diffusion.families import Family, GuidanceConfig
from ..diffusion.model import (
    CODEC,
    IMAGE_ENCODER,
    UNET,
    MultiviewModel,
    OneDevice,
    Placement,
    module_dtype,
)
from ..diffusion.network.embeddings import sinusoidal_embedding
from ..diffusion.network.transformer import VideoTransformer
from ..diffusion.network.unet import VideoUNet
from ..diffusion.sampling.conditioning import SCALAR_EMBED_DIM, Conditioning
from ..diffusion.sampling.config import SampleConfig
from ..diffusion.sampling.cost import activation_bytes
from ..diffusion.sampling.denoiser import Denoiser
from ..diffusion.sampling.fp32_fallback import ensure_finite, module_to_dtype, with_fp32_fallback
from ..diffusion.sampling.interrupt import check_before_blocks
from ..diffusion.sampling.pipeline import IMAGE_ENCODER_BYTES, decode_latents
from ..progress import SILENT, Progress
from ..weights.load import load_svd
from .config import EstimateConfig
from .estimate import STAGE

SIGMA = 700.0
"""The only noise level: SVD's first."""
FPS, MOTION, AUGMENTATION = 7.0, 127.0, 0.0
"""The added conditions; unlike SVD's, fps is not reduced by 1."""
WINDOW, STRIDE = 14, 10
"""Views of a window, and between the starts of two windows."""
NORM_EPS = 1e-6
"""Of most residual blocks in diffusers' SVD; 1e-5 in sgm's."""
PAD_MULTIPLE_PX = 64
"""Images are padded with white to multiples of this."""

NORMALCRAFTER = Family(
    name="normalcrafter",
    label="NormalCrafter",
    views=WINDOW,
    size_px=576,
    orbit="sv3d",
    steps=1,
    guidance=GuidanceConfig("constant", 1.0, 1.0),
    sigma_max=SIGMA,
    noise_aug_strength=AUGMENTATION,
    fps_id=int(FPS),
    motion_bucket_id=int(MOTION),
)
"""Settings of its network; not among `FAMILIES`, since it generates no views."""


def load_normalcrafter(
    path: Path | str,
    *,
    dtype: torch.dtype | None = None,
    folders: Sequence[Path | str] = (),
    progress: Progress = SILENT,
) -> MultiviewModel:
    """Loads NormalCrafter, whose networks are those of SVD.

    Args:
        path: its folder, with the subfolders unet, vae and image_encoder, or its UNet's file.
        dtype: of the weights; the file's if None.
        folders: searched for a missing image encoder, which is SVD's.
        progress: reports each tensor.

    Raises:
        InputError: as `weights.load.load_model`.
        Cancelled: the user cancelled.
    """
    unet, codec, encoder = load_svd(path, dtype=dtype, folders=folders, progress=progress)
    set_diffusers_norm_eps(unet)
    return MultiviewModel(NORMALCRAFTER, unet, codec, encoder, str(path))


def set_diffusers_norm_eps(unet: VideoUNet) -> None:
    """Sets the group norms of an SVD network to diffusers' eps, in place.

    diffusers has another eps than sgm in the residual blocks of all up blocks, and of the down
    blocks with attention. NormalCrafter was trained with diffusers; SVD, SV3D and V3D with sgm.
    """
    with_attention = [each for each in unet.input_blocks if isinstance(each[-1], VideoTransformer)]
    for layers in (*with_attention, *unet.output_blocks):
        for norm in layers[0].modules():
            if isinstance(norm, nn.GroupNorm):
                norm.eps = NORM_EPS


class NormalCrafterEstimator:
    """Estimates the normals of an orbit's views together.

    Args:
        model: as loaded by `load_normalcrafter`.
        placement: device and dtype of its parts; all on the CPU if None.
        config: kind of windows.
    """

    label = "NormalCrafter"
    is_convention_known = False

    def __init__(
        self,
        model: MultiviewModel,
        placement: Placement | None = None,
        config: EstimateConfig | None = None,
    ):
        self.model = model
        self.placement = placement or OneDevice(model, torch.device("cpu"))
        self.config = config or EstimateConfig()

    def estimate(self, images: Tensor, progress: Progress) -> Tensor:
        """Normal maps (V, H, W, 3) in 0..1, of images (V, H, W, 3) in 0..1; see the protocol."""
        padded, (top, left) = pad_to_multiple(images, PAD_MULTIPLE_PX)
        conditioning = self.conditioning(padded, progress)
        latents = self.latents(conditioning, progress)
        decoded = decode_latents(
            self.model, latents[None, None], SampleConfig(), self.placement, progress
        )[0]
        height, width = images.shape[1:3]
        return decoded[:, top : top + height, left : left + width]

    def conditioning(self, images: Tensor, progress: Progress) -> Conditioning:
        """Conditioning of all views of padded images (V, H, W, 3) in 0..1, on the CPU."""
        model, count = self.model, len(images)
        signed = images.movedim(-1, 1) * 2.0 - 1.0  # (V, 3, H, W)
        device, _ = self.placement.load_to_device(IMAGE_ENCODER, IMAGE_ENCODER_BYTES)

        def embed(dtype: torch.dtype) -> Tensor:
            encoder = module_to_dtype(model.image_encoder, dtype)
            tokens = []
            for view, image in enumerate(signed):
                progress.update(STAGE, view, 2 * count)
                tokens.append(encoder.embed(image[None].to(device)).float().cpu())
            return torch.cat(tokens)  # (V, 1, C)

        context = with_fp32_fallback(STAGE, embed, module_dtype(model.image_encoder), model.source)
        height, width = signed.shape[-2:]
        peak_bytes = model.codec.decode_peak_bytes(height, width, 1, torch.float32)
        device, _ = self.placement.load_to_device(CODEC, peak_bytes)

        def encode(dtype: torch.dtype) -> Tensor:
            codec = model.codec.cast(encode=dtype)
            encoded = []
            for view, image in enumerate(signed):
                progress.update(STAGE, count + view, 2 * count)
                encoded.append(codec.encode(image[None].to(device)).float().cpu())
            return torch.cat(encoded)  # (V, C, h, w)

        latent = with_fp32_fallback(STAGE, encode, torch.float32, model.source)
        progress.update(STAGE, 2 * count, 2 * count)
        added = added_conditions(count)
        return Conditioning(latent[None], context[None], added[None])

    def latents(self, conditioning: Conditioning, progress: Progress) -> Tensor:
        """(V, C, h, w) scaled latents of the normals, float32."""
        _, count, channels, height, width = conditioning.latent.shape
        size, stride = (count, count) if self.config.window == "all views" else (WINDOW, STRIDE)
        spans = window_spans(count, size, stride)
        unet = self.model.unet
        longest = min(size, count)
        peak_bytes = activation_bytes(unet.config, 1, longest, height, width, torch.float16)
        device, dtype = self.placement.load_to_device(UNET, peak_bytes)

        def attempt(dtype: torch.dtype) -> Tensor:
            result = torch.empty(0, channels, height, width, device=device)
            progress.update(STAGE, 0, len(spans))
            for index, (start, end) in enumerate(spans):
                overlap = len(result) - start if index and stride < size else 0
                x = torch.zeros(end - start, channels, height, width, device=device)
                x[:overlap] = result[start : start + overlap]
                window = Conditioning(
                    conditioning.latent[:, start:end],
                    conditioning.context[:, start:end],
                    conditioning.added_embeds[:, start:end],
                ).to(device, dtype)
                no_guidance = torch.ones(end - start)  # on the CPU, so that nothing waits for it
                denoiser = Denoiser(unet, window, no_guidance, dtype)
                denoised = ensure_finite(denoiser(x[None, None], SIGMA)[0, 0])
                result = blend(result, denoised, start, overlap)
                progress.update(STAGE, index + 1, len(spans))
            return result

        with check_before_blocks(unet, lambda: progress.check(STAGE)):
            return with_fp32_fallback(STAGE, attempt, dtype, self.model.source)


def added_conditions(views: int) -> Tensor:
    """(V, 768) sinusoidal embeddings of fps, motion and noise augmentation."""
    values = torch.tensor([FPS, MOTION, AUGMENTATION])
    return sinusoidal_embedding(values, SCALAR_EMBED_DIM).flatten().expand(views, -1)


def window_spans(count: int, size: int, stride: int) -> list[tuple[int, int]]:
    """Start and end of each window; the last one is moved back to end at the last view."""
    if count <= size:
        return [(0, count)]
    spans = [(start, start + size) for start in range(0, count - size + 1, stride)]
    if spans[-1][1] < count:
        spans.append((count - size, count))
    return spans


def blend(before: Tensor, window: Tensor, start: int, overlap: int) -> Tensor:
    """Appends a window to the latents before it, with a linear blend over the overlap.

    Args:
        before: (n, C, h, w) latents of the views 0..n.
        window: (m, C, h, w) latents of the views from `start` on.
        start: the window's first view, at most n.
        overlap: views that are blended; 0 to replace those of `before`.
    """
    if overlap:
        weight = torch.linspace(1.0, 0.0, overlap + 2, device=window.device)[1:-1]
        window = window.clone()
        window[:overlap] = torch.lerp(
            window[:overlap], before[start : start + overlap], weight[:, None, None, None]
        )
    return torch.cat([before[:start], window])


def pad_to_multiple(images: Tensor, multiple: int) -> tuple[Tensor, tuple[int, int]]:
    """Images (V, H, W, 3) padded with white to multiples; also returns the top and left margin."""
    height, width = images.shape[1:3]
    missing = [-side % multiple for side in (height, width)]
    top, left = (each // 2 for each in missing)
    padding = (0, 0, left, missing[1] - left, top, missing[0] - top)
    return functional.pad(images, padding, value=1.0), (top, left)
