"""The training loss of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .config import TrainConfig
from .data.batches import ImageBatch, LatentBatch, domain_images
from .data.conditioning import TrainConditioning, sample_conditioning, to_network_order
from .losses import angle_weights, edm_loss, network_input, noise_level_weights
from .noise import log_normal_sigmas, stage_at, stratified_normals
from .step_rng import StepRandomness, draw_views
from .train_module import TrainModule

COMPUTE_DTYPE = {"float32": torch.float32, "bfloat16": torch.bfloat16, "autocast": torch.float32}


@dataclass(eq=False)
class Objective:
    """EDM's loss, on the device of the network."""

    config: TrainConfig
    """Settings of the run."""
    module: TrainModule
    """The module to train."""
    network: Any
    """What to call: the module, or a launcher's wrapper around it."""
    device: torch.device
    """Device of the network."""

    def sigmas(self, randomness: StepRandomness, step: int) -> Tensor:
        """(B,) noise levels: one for all views and both domains of an object.

        Takes tensors on the CPU: it uses float64, which MPS lacks.
        """
        config = self.config
        stage = stage_at(config.noise, step, config.optimiser.steps)
        normals = stratified_normals(
            randomness.level, randomness.batch_index, config.optimiser.batch_size
        )
        return log_normal_sigmas(stage, normals)

    def losses(
        self, batch: ImageBatch | LatentBatch, randomness: StepRandomness, step: int
    ) -> tuple[Tensor, Tensor]:
        """The loss per domain and object, (D, B) float32, and the noise levels (B,)."""
        sigmas = self.sigmas(randomness, step).to(self.device)
        batch, randomness = self._select_views(batch, randomness, step)
        batch, randomness = batch.to(self.device), randomness.to(self.device)
        family = self.module.family
        with torch.no_grad():
            clean = to_network_order(self.clean_latents(batch), family, 2)
            conditioning = sample_conditioning(batch, randomness, self.config.conditioning, family)
            x = self.concat(network_input(clean, randomness.noise, sigmas), conditioning)
        prediction = self.predict(x, sigmas, conditioning)
        weights = self._view_weights(batch)
        losses = edm_loss(prediction, clean, randomness.noise, sigmas, weights)
        return losses * noise_level_weights(sigmas, self.config.loss_sigma_floor), sigmas

    def _select_views(
        self, batch: ImageBatch | LatentBatch, randomness: StepRandomness, step: int
    ) -> tuple[ImageBatch | LatentBatch, StepRandomness]:
        """The views that the step trains on, the same of all objects."""
        views, count = batch.azimuth_deg.shape[1], self.config.data.views_per_step
        if not 0 < count < views:
            return batch, randomness
        chosen = draw_views(self.config.seed, step, views, count)
        return batch.select_views(chosen), randomness.select_views(chosen)

    def _view_weights(self, batch: ImageBatch | LatentBatch) -> Tensor | None:
        """(B, V) weights of the views in the network's order; None where all are 1."""
        lowest, family = self.config.input_view_weight, self.module.family
        if lowest == 1.0:
            return None
        weights = angle_weights(batch.elevation_deg, batch.azimuth_deg, lowest)
        return to_network_order(weights, family, 1)

    def clean_latents(self, batch: ImageBatch | LatentBatch) -> Tensor:
        """(D, B, V, C, h, w) float32 scaled latents of the family's domains.

        Raises:
            InputError: precomputed latents, but the image encoder is trained.
        """
        domains = len(self.module.family.domains)
        if not isinstance(batch, LatentBatch):
            return self.encode(domain_images(batch, domains))
        self._check_encoder_frozen()
        return batch.clean[:domains].float()

    def encode(self, images: Tensor) -> Tensor:
        """(D, B, V, C, h, w) float32 scaled latents of images (D, B, V, 3, H, W) in -1..1."""
        flat = self.module.codec.encode_scaled(images.flatten(0, 2))
        return flat.float().unflatten(0, images.shape[:3])

    def concat(self, scaled: Tensor, conditioning: TrainConditioning) -> Tensor:
        """Concatenates noisy latents and the input image's latent along channels.

        Args:
            scaled: (D, B, V, C, h, w) scaled noisy latents.
            conditioning: provides the input image.

        Returns:
            (D, B, V, 2 C, h, w) in the compute dtype.
        """
        domains, _, views = scaled.shape[:3]
        latent = conditioning.latent  # (B, C, h, w)
        if latent is None:
            latent = self.module.codec.encode(conditioning.noisy_image).float()
        if conditioning.latent_noise is not None:
            latent = latent + conditioning.latent_noise
        latent = latent * conditioning.keep_latent[:, None, None, None]
        latent = latent[None, :, None].expand(domains, -1, views, -1, -1, -1)
        return torch.cat([scaled, latent], dim=3).to(COMPUTE_DTYPE[self.config.precision])

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Names of the losses that `losses` returns."""
        return self.module.family.domains

    def total(self, losses: Tensor) -> Tensor:
        """(B,) loss of each object: the mean of losses (D, B) over domains."""
        return losses.mean(dim=0)

    def autocast(self) -> torch.autocast:
        """Context of the network's pass."""
        enabled = self.config.precision == "autocast"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def embedding(self, conditioning: TrainConditioning) -> Tensor:
        """The input images (B, 3, H, W) if the encoder is trained, else embeddings (B, 1, Cc)."""
        image, embedding = conditioning.image, conditioning.embedding
        if embedding is None and self.module.encoder is None:
            with torch.no_grad():
                embedding = self.module.image_encoder.embed(image).float()
        return image if embedding is None else embedding

    def predict(self, x: Tensor, sigmas: Tensor, conditioning: TrainConditioning) -> Tensor:
        """(D, B, V, C, h, w) output of the network F."""
        embedding = self.embedding(conditioning)
        with self.autocast():
            return self.network(
                x,
                0.25 * sigmas.log(),
                embedding,
                conditioning.keep_embedding,
                conditioning.added_embeds,
                conditioning.camera_task if self.module.unet.config.camera_task_dim else None,
            )

    def _check_encoder_frozen(self) -> None:
        if self.module.encoder is not None:
            raise InputError(
                "the training data holds embeddings, but the image encoder is trained too: it "
                "needs the images.",
                "Pass the shards of images instead of their latents.",
            )
