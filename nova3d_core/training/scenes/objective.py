"""The training loss of scenes: EDM's, and the colours of the conditioner (V3D, equation 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from ...diffusion.network.embeddings import sinusoidal_embedding
from ...diffusion.sampling.conditioning import SCALAR_EMBED_DIM, add_noise
from ..config import TrainConfig
from ..data.batches import to_signed
from ..data.conditioning import noise_strength
from ..losses import edm_loss, network_input
from ..noise import log_normal_sigmas, stage_at, stratified_normals
from ..step_rng import StepRandomness
from .data import SceneBatch
from .module import SceneTrainModule


@dataclass(eq=False)
class SceneObjective:
    """EDM's loss and the conditioner's colour loss, on the device of the network."""

    loss_names: ClassVar[tuple[str, ...]] = ("diffusion", "colour")
    """Names of the losses that `losses` returns."""

    config: TrainConfig
    """Settings of the run."""
    module: SceneTrainModule
    """The module to train."""
    network: Any
    """What to call: the module, or a launcher's wrapper around it."""
    device: torch.device
    """Device of the network."""

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
            codec = self.module.codec
            clean = codec.encode_scaled(signed.flatten(0, 1)).float()
            clean = clean.unflatten(0, signed.shape[:2])[None]  # (1, B, V, C, h, w)
            noise = strength[:, None, None, None]
            noisy = add_noise(sources[:, 0], randomness.image_noise, noise)
            latent = codec.encode(noisy).float()
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

    def sigmas(self, randomness: StepRandomness, step: int) -> Tensor:
        """(B,) noise levels, one for all views of a clip; takes tensors on the CPU."""
        config = self.config
        stage = stage_at(config.noise, step, config.optimiser.steps)
        normals = stratified_normals(
            randomness.level, randomness.batch_index, config.optimiser.batch_size
        )
        return log_normal_sigmas(stage, normals)

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
        from ..objective import COMPUTE_DTYPE

        row = torch.arange(len(batch), device=self.device)[:, None]
        precision = self.config.precision
        with torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "autocast"):
            return self.network(
                x.to(COMPUTE_DTYPE[precision]),
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
        family = self.module.family
        values = {"fps": family.fps_id, "motion": family.motion_bucket_id, "augmentation": strength}
        parts = []
        for name in family.added_conditions:
            value = torch.as_tensor(values[name], device=self.device).float().expand(len(strength))
            parts.append(sinusoidal_embedding(value[:, None].expand(-1, views), SCALAR_EMBED_DIM))
        return torch.cat(parts, dim=-1)
