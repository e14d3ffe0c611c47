"""A multi-view model as a prior on the images of a mesh: encodes, denoises and decodes its views.

All parts of the model run in inference mode, as its weights may have been moved in it; results are
ordinary tensors.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..diffusion.codecs.vae import ENCODER_MODULES
from ..diffusion.families import Family
from ..diffusion.model import CODEC, UNET, MultiviewModel, Placement, cast_copy
from ..diffusion.sampling.conditioning import Conditioning
from ..diffusion.sampling.config import SampleConfig
from ..diffusion.sampling.cost import activation_bytes, estimate_cpu_seconds, forward_flops
from ..diffusion.sampling.denoiser import Denoiser
from ..diffusion.sampling.fp32_fallback import ensure_finite, with_fp32_fallback
from ..diffusion.sampling.guidance import guidance_scales
from ..diffusion.sampling.interrupt import check_before_blocks
from ..diffusion.sampling.pipeline import (
    camera_conditions,
    decode_latents,
    draw_noise_inputs,
    make_conditioning,
    memory_budget,
)
from ..diffusion.sampling.process import sampling_process
from ..diffusion.sampling.sampler import Denoise
from ..diffusion.sampling.trajectory import CameraTrajectory
from ..progress import Progress
from ..wording import counted

logger = logging.getLogger(__name__)

T = TypeVar("T")

STAGE = "completing"
ENCODING = "encoding"
SLOW_S = 60.0
"""Warn before work on a CPU that is estimated to take longer."""


@dataclass(eq=False)
class ViewPrior:
    """A model conditioned on one image, for any trajectory that its family supports."""

    model: MultiviewModel
    """It is not modified."""
    image: Tensor
    """(S, S, 3) preprocessed input image."""
    placement: Placement
    """Device and dtype of the model's parts."""
    seed: int
    """Seed of the noise augmentation."""
    memory_gib: float | None
    """Memory budget of activations."""
    progress: Progress
    """Checked before each block of the network and each image."""

    def __post_init__(self):
        self._conditioning: Conditioning | None = None
        self._config = SampleConfig(memory_gib=self.memory_gib)

    @property
    def family(self) -> Family:
        """How the model was trained."""
        return self.model.family

    @property
    def size_px(self) -> int:
        """Width and height of the views."""
        return self.image.shape[0]

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        with torch.inference_mode():
            return self.placement.load_to_device(UNET, 0)[0]

    @property
    def latent_size(self) -> int:
        """Height and width of a latent."""
        return self.size_px // self.model.codec.factor

    @property
    def sigma_range(self) -> tuple[float, float]:
        """Smallest and largest noise level of the model's training."""
        sigmas = sampling_process(self.family, self._config).sigmas
        return float(sigmas[sigmas > 0.0].min()), float(sigmas.max())

    @property
    def passes_per_evaluation(self) -> int:
        """Forward passes of one evaluation of the denoiser: two with guidance."""
        guidance = self.family.guidance
        scales = {guidance.max_guidance_scale}
        if guidance.kind != "constant":
            scales.add(guidance.min_guidance_scale)
        return 1 if scales == {1.0} else 2

    def _scales(self, trajectory: CameraTrajectory) -> Tensor:
        return guidance_scales(self.family.guidance, self.family, trajectory)  # (V,)

    def estimate_seconds(self, passes: int) -> float | None:
        """Estimated time of forward passes on a CPU; None on other devices."""
        with torch.inference_mode():
            device, dtype = self.placement.load_to_device(UNET, 0)
        if device.type != "cpu":
            return None
        side = self.latent_size
        return passes * estimate_cpu_seconds(self.model.unet, self.family.views, side, side, dtype)

    def teraflops(self, passes: int) -> float:
        """Floating point operations of forward passes, in 10^12."""
        side = self.latent_size
        return passes * forward_flops(self.model.unet, self.family.views, side, side) / 1e12

    def activation_bytes(self, dtype: torch.dtype, batch_cfg: bool) -> int:
        """Peak memory of one evaluation, without the weights."""
        side, objects = self.latent_size, 2 if batch_cfg else 1
        config = self.model.unet.config
        return activation_bytes(config, objects, self.family.views, side, side, dtype)

    def conditioning(self, trajectory: CameraTrajectory) -> Conditioning:
        """The image is encoded once; only the camera conditions follow the trajectory."""
        if self._conditioning is None:
            with torch.inference_mode():
                noise = draw_noise_inputs(self.model, self.size_px, self.seed)
                self._conditioning = make_conditioning(
                    self.model, self.image, trajectory, noise, self.placement, self.progress
                )
            return self._conditioning
        added, tasks = camera_conditions(self.model, trajectory)
        return replace(self._conditioning, added_embeds=added, camera_task=tasks)

    def run(
        self, trajectory: CameraTrajectory, work: Callable[[Denoise, torch.device], Tensor]
    ) -> Tensor:
        """Runs `work` with the denoiser of a trajectory, again in float32 if it overflows.

        Args:
            trajectory: V cameras.
            work: receives the denoiser of latents (D, 1, V, C, h, w) and its device; its result is
                returned on the CPU.
        """
        conditioning = self.conditioning(trajectory)
        process = sampling_process(self.family, self._config)
        with torch.inference_mode():
            minimum = self.activation_bytes(torch.float16, batch_cfg=False)
            device, dtype = self.placement.load_to_device(UNET, minimum)
            batch_cfg = device.type != "cpu" and (
                self.activation_bytes(dtype, batch_cfg=True)
                <= memory_budget(self._config, self.placement, UNET)
            )

            def attempt(dtype: torch.dtype) -> Tensor:
                needed = self.activation_bytes(dtype, batch_cfg)
                self.placement.load_to_device(UNET, needed)
                denoiser = Denoiser(
                    self.model.unet,
                    conditioning.to(device, dtype),
                    self._scales(trajectory).to(device),
                    dtype,
                    batch_cfg,
                    precondition=process.precondition,
                )
                return work(lambda x, sigma: ensure_finite(denoiser(x, sigma)), device)

            with check_before_blocks(self.model.unet, lambda: self.progress.check(STAGE)):
                result = with_fp32_fallback(STAGE, attempt, dtype, self.model.source).cpu()
        return ordinary(result)

    def encode(self, images: Tensor) -> Tensor:
        """Scaled latents (D, 1, V, C, h, w) on the CPU of images (D, V, S, S, 3) in 0..1."""
        codec, size_px = self.model.codec, self.size_px
        signed = images.movedim(-1, 2) * 2.0 - 1.0  # (D, V, 3, S, S)
        with torch.inference_mode():
            peak_bytes = codec.decode_peak_bytes(size_px, size_px, 1, torch.float32)
            device, _ = self.placement.load_to_device(CODEC, peak_bytes)

            def attempt(dtype: torch.dtype) -> Tensor:
                converted = codec.cast(encode=dtype)
                flat = signed.flatten(0, 1)
                parts = [
                    converted.encode_scaled(image[None].to(device)).cpu()
                    for image in self.progress.track(flat, ENCODING, len(flat))
                ]
                return torch.cat(parts)

            latents = with_fp32_fallback(ENCODING, attempt, torch.float32, self.model.source)
        return ordinary(latents.unflatten(0, (len(images), 1, -1)))

    def decode(self, latents: Tensor) -> Tensor:
        """Images (D, V, S, S, 3) in 0..1 on the CPU of latents (D, 1, V, C, h, w)."""
        with torch.inference_mode():
            images = decode_latents(
                self.model, latents, self._config, self.placement, self.progress
            )
        return ordinary(images)

    def differentiable_encoder(self) -> tuple[Callable[[Tensor], Tensor], torch.device]:
        """A copy of the encoder in float32 with ordinary weights, and its device.

        It maps images (N, 3, S, S) in -1..1 to scaled latents (N, C, h, w), with gradients.
        """
        with torch.inference_mode():
            device, _ = self.placement.load_to_device(CODEC, 0)
        codec = self.model.codec
        if next(codec.parameters(), None) is not None:
            codec = encoder_copy(codec, torch.float32).to(device)
        return codec.encode_scaled, device

    def log_cost(self, passes: int) -> tuple[str, float | None]:
        """Logs the cost of passes before the start; returns it in words, and the estimated time."""
        seconds = self.estimate_seconds(passes)
        line = _cost_line(self.family, passes, self.teraflops(passes), seconds)
        if seconds is not None and seconds > SLOW_S:
            logger.warning("%s; a GPU takes seconds.", line)
        else:
            logger.info("%s.", line)
        return line, seconds


def _cost_line(family: Family, passes: int, teraflops: float, seconds: float | None) -> str:
    """The cost in words, for the log and the report."""
    line = f"completing takes {passes} passes of {family.label} ({teraflops:.3g} TFLOP)"
    if seconds is None:
        return line
    time = counted(max(round(seconds), 1), "second")
    if seconds > SLOW_S:
        time = counted(max(round(seconds / 60.0), 1), "minute")
    return f"{line}, about {time} on the CPU"


def encoder_copy(codec: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The codec with a copy of its encoder, whatever its dtype; the decoder is left out."""
    clone = copy.copy(codec)
    clone._modules = dict(codec._modules)
    vae = copy.copy(codec.vae)
    vae._modules = {name: cast_copy(codec.vae._modules[name], dtype) for name in ENCODER_MODULES}
    clone._modules["vae"] = vae
    return clone


def ordinary(value: T) -> T:
    """A tensor, or a dataclass of tensors, that autograd accepts: those of inference mode cloned.

    Call it outside inference mode.
    """
    if isinstance(value, Tensor):
        return value.clone() if value.is_inference() else value
    if is_dataclass(value):
        copies = {each.name: ordinary(getattr(value, each.name)) for each in fields(value)}
        return replace(value, **copies)
    return value
