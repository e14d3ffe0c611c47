"""The network as EDM's denoiser D(x; sigma), with guidance of its own for every view."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...compute.devices import is_out_of_memory
from ..network.unet import VideoUNet
from .conditioning import Conditioning
from .schedule import Preconditioning, preconditioning

logger = logging.getLogger(__name__)


def _nothing() -> None:
    """What is done before each pass if nothing is asked for."""


@dataclass(eq=False)
class Denoiser:
    """D(x; sigma) = c_skip x + c_out (F_u + s_v (F_c - F_u)) of noisy latents.

    F_c is the network with the input image, F_u without it; both with the same cameras. The
    noisy latents stay float32, whatever the network computes in.
    """

    unet: VideoUNet
    """F."""
    conditioning: Conditioning
    """Of B objects, on the network's device."""
    guidance_scale: Tensor
    """(V,) guidance s; where all are 1, the pass without image is saved."""
    dtype: torch.dtype = torch.float32
    """What the network computes in."""
    batch_cfg: bool = True
    """Both passes in one batch: quicker on a GPU, twice the memory. The results are equal."""
    guidance_interval: tuple[float, float] = (0.0, float("inf"))
    """Noise levels within which guidance is used, both included."""
    before_pass: Callable[[], None] = _nothing
    """Called before each pass of the network; what it raises ends the sampling."""

    def __post_init__(self):
        self._has_guidance = bool(
            (self.guidance_scale != 1.0).any()
        )  # waits for a GPU: not in every step

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """What the network takes the data behind x to be.

        Args:
            x: (D, B, V, C, h, w) float32 noisy latents.
            sigma: their noise level, above 0.

        Returns:
            (D, B, V, C, h, w) float32.
        """
        edm = preconditioning(sigma)
        guidance_interval = (
            self._has_guidance and self.guidance_interval[0] <= sigma <= self.guidance_interval[1]
        )
        if not guidance_interval:
            answer = self._pass(x, edm, self.conditioning)
        else:
            with_image, without = self._both(x, edm)
            guidance_scale = self.guidance_scale.to(x.device)[:, None, None, None]  # (V, 1, 1, 1)
            answer = without + guidance_scale * (with_image - without)
        return edm.c_skip * x + edm.c_out * answer

    def _both(self, x: Tensor, edm: Preconditioning) -> tuple[Tensor, Tensor]:
        """F with the image, and without it."""
        uncond = self.conditioning.unconditional()
        if self.batch_cfg:
            try:
                twice = torch.cat([x, x], dim=1)  # (D, 2 B, V, C, h, w)
                return self._pass(twice, edm, self.conditioning.concat(uncond)).chunk(2, dim=1)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                logger.warning("both passes of a step do not fit into memory: one after the other.")
                self.batch_cfg = False
        return self._pass(x, edm, self.conditioning), self._pass(x, edm, uncond)

    def _pass(self, x: Tensor, edm: Preconditioning, told: Conditioning) -> Tensor:
        """F(c_in x; c_noise, conditions) in float32."""
        self.before_pass()
        domains, objects, views = x.shape[:3]
        scaled = (edm.c_in * x).to(self.dtype)
        concat = told.latent.to(self.dtype)[None, :, None]  # (1, B, 1, C, h, w)
        concat = concat.expand(domains, -1, views, -1, -1, -1)
        c_noise = torch.full((objects,), edm.c_noise, device=x.device)
        answer = self.unet(
            torch.cat([scaled, concat], dim=3),
            c_noise,
            told.context,
            told.added,
            told.camera_task,
        )
        return answer.float()
