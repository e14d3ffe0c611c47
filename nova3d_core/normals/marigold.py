"""Marigold's normal estimator (Ke et al. 2024), run by diffusers from a local folder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import InputError, MissingDependencyError
from ..progress import Progress
from .config import EstimateConfig
from .estimate import STAGE

if TYPE_CHECKING:
    from diffusers import MarigoldNormalsPipeline

logger = logging.getLogger(__name__)

PIPELINE_CLASS = "MarigoldNormalsPipeline"
"""Class in the folder's model_index.json."""
_LATENT_FACTOR = 8


def load_marigold(
    folder: Path | str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> MarigoldNormalsPipeline:
    """Loads the pipeline from a folder in the diffusers layout, without network access.

    Args:
        folder: with model_index.json, unet, vae, scheduler, text_encoder and tokenizer.
        device: of the weights.
        dtype: of the weights; float16 only on a GPU.

    Raises:
        InputError: the folder is incomplete or holds another pipeline.
        MissingDependencyError: diffusers is not installed, or too old.
    """
    try:
        from diffusers import MarigoldNormalsPipeline
    except ImportError as error:
        raise MissingDependencyError("diffusers", "Estimating normals with Marigold") from error
    try:
        pipeline = MarigoldNormalsPipeline.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{folder} is no complete folder of Marigold's normal estimator: {reason}",
            "Download the whole folder, such as prs-eth/marigold-normals-v1-1, into "
            "models/diffusers.",
        ) from error
    pipeline = pipeline.to(device)
    return pipeline if pipeline.dtype == dtype else pipeline.to(dtype)  # warns about each part


class MarigoldEstimator:
    """Estimates the normals of each view on its own, all from the same start noise.

    With equal noise, differences between views come from the images only.

    Args:
        pipeline: diffusers' pipeline, on its device.
        config: seed, steps, chunk size.
        size_px: longer side of the images that the network sees; the checkpoint's default if None.
    """

    label = "Marigold"
    is_convention_known = True

    def __init__(
        self,
        pipeline: MarigoldNormalsPipeline,
        config: EstimateConfig | None = None,
        size_px: int | None = None,
    ):
        self.pipeline = pipeline
        self.config = config or EstimateConfig()
        self.size_px = size_px or pipeline.default_processing_resolution or 768
        pipeline.set_progress_bar_config(disable=True)

    def start_noise(self, height: int, width: int) -> Tensor:
        """(1, 4, h, w) standard normal start noise, drawn on the CPU, for images of this size."""
        longest = max(height, width)
        sides = [-(-(side * self.size_px // longest) // _LATENT_FACTOR) for side in (height, width)]
        generator = torch.Generator().manual_seed(self.config.seed)
        channels = self.pipeline.vae.config.latent_channels
        return torch.randn((1, channels, *sides), generator=generator)

    def estimate(self, images: Tensor, progress: Progress) -> Tensor:
        """Normal maps (V, H, W, 3) in 0..1, of images (V, H, W, 3) in 0..1; see the protocol."""
        pipeline, steps = self.pipeline, self.config.steps
        chunks = images.movedim(-1, 1).split(self.config.chunk_size)  # (n, 3, H, W) each
        total, done = len(chunks) * steps, 0
        noise = self.start_noise(*images.shape[1:3]).to(pipeline.device, pipeline.dtype)

        def before_step(module: torch.nn.Module, arguments: tuple) -> None:
            nonlocal done
            progress.update(STAGE, done, total)  # raises on a cancellation
            done += 1

        hook = pipeline.unet.register_forward_pre_hook(before_step)
        try:
            normals = [self._estimate_chunk(chunk, noise) for chunk in chunks]
        finally:
            hook.remove()
        progress.update(STAGE, total, total)
        return torch.cat(normals).movedim(1, -1) * 0.5 + 0.5

    def _estimate_chunk(self, images: Tensor, noise: Tensor) -> Tensor:
        """Unit normals (n, 3, H, W) of images (n, 3, H, W), float32 on the CPU."""
        result = self.pipeline(
            images.to(self.pipeline.device, self.pipeline.dtype),
            num_inference_steps=self.config.steps,
            processing_resolution=self.size_px,
            batch_size=len(images),
            latents=noise.expand(len(images), -1, -1, -1),
            output_type="pt",
        )
        return result.prediction.float().cpu().clamp(-1.0, 1.0)
