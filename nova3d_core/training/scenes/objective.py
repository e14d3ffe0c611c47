"""The training loss of scenes: EDM's, and the colours of the conditioner (V3D, equation 3)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ...diffusion.sampling.conditioning import add_noise, condition_embeds
from ..data.batches import to_signed
from ..data.conditioning import noise_strength
from ..losses import edm_loss, network_input
from ..objective import COMPUTE_DTYPE, Objective
from ..step_rng import StepRandomness
from .data import SceneBatch


class SceneObjective(Objective):
    """EDM's loss and the conditioner's colour loss, of a `SceneTrainModule`."""

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Names of the losses."""
        return ("diffusion", "colour")

    def losses(
        self, batch: SceneBatch, randomness: StepRandomness, step: int
    ) -> tuple[Tensor, Tensor]:
        """Both losses per clip, (2, B) float32, and the noise levels (B,)."""
        sigmas = self.sigmas(randomness, step).to(self.device)
        jitter = [torch.Generator().manual_seed(int(seed)) for seed in batch.jitter_seed]
        batch, randomness = batch.to(self.device), randomness.to(self.device)
        signed = to_signed(batch.images)  # (B, V, 3, H, W)
        row = torch.arange(len(batch), device=self.device)[:, None]
        sources = signed[row, batch.source_index]  # (B, S, 3, H, W)
        strength = noise_strength(randomness, self.config.conditioning.augmentation)  # (B,)
        with torch.no_grad():
            clean = self.encode(signed[None])  # (1, B, V, C, h, w)
            noise = strength[:, None, None, None]
            noisy = add_noise(sources[:, 0], randomness.image_noise, noise)
            latent = self.module.codec.encode(noisy).float()
            x = network_input(clean, randomness.noise, sigmas)
        prediction, rgb = self._predict(x, sigmas, latent, sources, batch, strength, jitter)
        target = functional.interpolate(
            (signed * 0.5 + 0.5).flatten(0, 1), size=rgb.shape[-2:], mode="area"
        )
        colour = (rgb - target.unflatten(0, signed.shape[:2])).square().mean(dim=(1, 2, 3, 4))
        diffusion = edm_loss(prediction, clean, randomness.noise, sigmas)[0]
        return torch.stack([diffusion, colour]), sigmas

    def total(self, losses: Tensor) -> Tensor:
        """(B,) weighted sum of losses (2, B)."""
        return losses[0] + self.config.scene.colour_weight * losses[1]

    def _predict(
        self,
        x: Tensor,
        sigmas: Tensor,
        latent: Tensor,
        sources: Tensor,
        batch: SceneBatch,
        strength: Tensor,
        jitter: list[torch.Generator],
    ) -> tuple[Tensor, Tensor]:
        """Output of the network and colours; see `SceneTrainModule.forward`."""
        row = torch.arange(len(batch), device=self.device)[:, None]
        with self.autocast():
            return self.network(
                x.to(COMPUTE_DTYPE[self.config.precision]),
                0.25 * sigmas.log(),
                latent,
                sources,
                batch.poses[row, batch.source_index],
                batch.poses,
                (batch.dropout >= self.config.scene.dropout).float(),
                self._added_embeds(strength, x.shape[2]),
                jitter,
            )

    def _added_embeds(self, strength: Tensor, views: int) -> Tensor:
        """(B, V, A) embeddings of the family's conditions; only the augmentation varies."""
        strengths = strength[:, None].expand(-1, views)
        no_angles = torch.zeros_like(strengths)
        return condition_embeds(self.module.family, no_angles, no_angles, strengths)
