"""The loss of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .config import TrainConfig
from .data.batches import Batch, Told, images_of, told_in_training
from .data.latent_batches import ReadyBatch, told_of_ready
from .losses import edm_loss, network_input
from .noise import sigmas_of, spread_normals, stage_at
from .step_rng import Draws
from .train_module import Trainee

COMPUTES_IN = {"float32": torch.float32, "bfloat16": torch.bfloat16, "autocast": torch.float32}


@dataclass(eq=False)
class Objective:
    """EDM's loss of objects, on the device of the network."""

    config: TrainConfig
    """The run's settings."""
    trainee: Trainee
    """The parts."""
    network: Any
    """What is called: the trainee, or what a launcher wrapped it in."""
    device: torch.device
    """Where it computes."""

    def sigmas(self, draws: Draws, step: int) -> Tensor:
        """(B,) noise levels: one for all views and both domains of an object.

        Takes draws on the CPU: float64 is used, which MPS lacks.
        """
        config = self.config
        stage = stage_at(config.noise, step, config.optimiser.steps)
        return sigmas_of(stage, spread_normals(draws.level, draws.place, config.optimiser.batch))

    def losses(self, batch: Batch | ReadyBatch, draws: Draws, step: int) -> tuple[Tensor, Tensor]:
        """The loss of each domain and object, (D, B) float32, and their noise levels (B,)."""
        sigmas = self.sigmas(draws, step).to(self.device)
        batch, draws = batch.to(self.device), draws.to(self.device)
        domains = len(self.trainee.family.domains)
        with torch.no_grad():
            if isinstance(batch, ReadyBatch):
                self._refuse_learning_encoder()
                clean = batch.clean[:domains].float()
                told = told_of_ready(batch, draws, self.config.conditions, domains)
            else:
                clean = self.latents(images_of(batch)[:domains])
                told = told_in_training(batch, draws, self.config.conditions, domains)
            x = self.beside(network_input(clean, draws.noise, sigmas), told)
        answer = self.answer(x, sigmas, told)
        return edm_loss(answer, clean, draws.noise, sigmas), sigmas

    def latents(self, images: Tensor) -> Tensor:
        """(D, B, V, C, h, w) float32 scaled latents of images (D, B, V, 3, H, W) in -1..1."""
        flat = self.trainee.codec.to_scaled(images.flatten(0, 2))
        return flat.float().unflatten(0, images.shape[:3])

    def beside(self, scaled: Tensor, told: Told) -> Tensor:
        """Scaled noisy latents (D, B, V, C, h, w) with the input image's beside each of them,
        (D, B, V, 2 C, h, w) in the format that the network computes in."""
        domains, _, views = scaled.shape[:3]
        latent = told.latent  # (B, C, h, w)
        if latent is None:
            latent = self.trainee.codec.encode(told.noisy_image).float()
        latent = latent * told.keep_latent[:, None, None, None]
        latent = latent[None, :, None].expand(domains, -1, views, -1, -1, -1)
        return torch.cat([scaled, latent], dim=3).to(COMPUTES_IN[self.config.precision])

    def answer(self, x: Tensor, sigmas: Tensor, told: Told) -> Tensor:
        """F of the network, (D, B, V, C, h, w)."""
        seen = told.image if told.embedding is None else told.embedding
        if self.trainee.encoder is None and told.embedding is None:
            with torch.no_grad():
                seen = self.trainee.image_encoder.embed(told.image).float()
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.config.precision == "autocast"
        ):
            return self.network(
                x, 0.25 * sigmas.log(), seen, told.keep_embedding, told.added, told.camera_task
            )

    def _refuse_learning_encoder(self) -> None:
        if self.trainee.encoder is not None:
            raise InputError(
                "the training data holds embeddings, but the image encoder is trained too: it "
                "needs the images.",
                "Give the shards of images instead of their latents.",
            )
