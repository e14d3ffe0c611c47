"""EDM's denoiser D(x; sigma) with per-view classifier-free guidance."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...compute.devices import is_out_of_memory
from ..network.token_transformer import TokenTransformer
from ..network.unet import VideoUNet
from ..network.unet_2d import MultiviewUNet2D
from .conditioning import Conditioning
from .schedule import Preconditioning, preconditioning

logger = logging.getLogger(__name__)


def _no_op() -> None:
    """The default of `Denoiser.before_forward`."""


@dataclass(eq=False)
class Denoiser:
    """D(x; sigma) = c_skip x + c_out (F_u + s_v (F_c - F_u)) of noisy latents.

    F_c is the UNet conditioned on the input image, F_u the UNet without it; both have the same
    camera conditions. The noisy latents stay in float32, whatever the compute dtype.
    """

    unet: VideoUNet | MultiviewUNet2D | TokenTransformer
    """F."""
    conditioning: Conditioning
    """Conditioning of B objects, on the UNet's device."""
    guidance_scale: Tensor
    """(V,) guidance scales s; where all are 1, the unconditional pass is skipped."""
    dtype: torch.dtype = torch.float32
    """Compute dtype of the UNet."""
    batch_cfg: bool = True
    """Run both passes as one batch: faster on a GPU, twice the memory, the same result."""
    guidance_interval: tuple[float, float] = (0.0, float("inf"))
    """Noise levels within which guidance is applied, bounds included."""
    precondition: Callable[[float], Preconditioning] = preconditioning
    """EDM's coefficients at a noise level; they depend on what F predicts."""
    before_forward: Callable[[], None] = _no_op
    """Called before each forward pass; an exception in it ends the sampling."""

    def __post_init__(self):
        # checked once, since it synchronises a GPU
        self._has_guidance = bool((self.guidance_scale != 1.0).any())

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """The denoised estimate of the data.

        Args:
            x: (D, B, V, C, h, w) float32 noisy latents.
            sigma: the noise level, above 0.

        Returns:
            (D, B, V, C, h, w) float32.
        """
        edm = self.precondition(sigma)
        start, end = self.guidance_interval
        apply_cfg = self._has_guidance and start <= sigma <= end
        if not apply_cfg:
            out = self._forward(x, edm, self.conditioning)
        else:
            cond, uncond = self._forward_cfg(x, edm)
            scale = self.guidance_scale.to(x.device)[:, None, None, None]  # (V, 1, 1, 1)
            out = uncond + scale * (cond - uncond)
        return edm.c_skip * x + edm.c_out * out

    def _forward_cfg(self, x: Tensor, edm: Preconditioning) -> tuple[Tensor, Tensor]:
        """Conditional and unconditional output of F."""
        unconditional = self.conditioning.unconditional()
        if self.batch_cfg:
            try:
                both = self.conditioning.concat(unconditional)
                twice = torch.cat([x, x], dim=1)  # (D, 2 B, V, C, h, w)
                return self._forward(twice, edm, both).chunk(2, dim=1)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                logger.warning("out of memory: running both guidance passes one after the other.")
                self.batch_cfg = False
        return self._forward(x, edm, self.conditioning), self._forward(x, edm, unconditional)

    def _forward(self, x: Tensor, edm: Preconditioning, conditioning: Conditioning) -> Tensor:
        """F(c_in x; c_noise, conditioning) in float32."""
        self.before_forward()
        domains, objects, views = x.shape[:3]
        scaled = (edm.c_in * x).to(self.dtype)
        latent = conditioning.latent.to(self.dtype)
        if latent.dim() == 4:
            latent = latent[:, None]  # (B, 1, C, h, w), the same for all views
        latent = latent[None].expand(domains, -1, views, -1, -1, -1)
        c_noise = torch.full((objects,), edm.c_noise, device=x.device)
        feedback = {} if conditioning.feedback is None else {"feedback": conditioning.feedback}
        out = self.unet(
            torch.cat([scaled, latent], dim=3),
            c_noise,
            conditioning.context,
            conditioning.added_embeds,
            conditioning.camera_task,
            **feedback,
        )
        return out.float()
