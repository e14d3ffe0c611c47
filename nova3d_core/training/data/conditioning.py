"""Conditioning of the network during training: augmented input image, dropout, cameras."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...diffusion.families import Family
from ...diffusion.network.embeddings import camera_task_embedding
from ...diffusion.sampling.conditioning import add_noise, condition_embeds
from ..config import ConditioningConfig
from ..step_rng import StepRandomness
from .batches import ImageBatch, LatentBatch, to_signed
from .config import AugmentationConfig


@dataclass(frozen=True, eq=False)
class TrainConditioning:
    """Conditioning of B objects. The input image is given as images or as precomputed tensors."""

    keep_embedding: Tensor
    """(B,) 1, or 0 where the embedding is dropped."""
    keep_latent: Tensor
    """(B,) 1, or 0 where the input image's latent is dropped."""
    added_embeds: Tensor
    """(B, V, A) sinusoidal embeddings of the family's added conditions, in the network's order of
    views."""
    camera_task: Tensor
    """(D, B, V, 10)."""
    image: Tensor | None = None
    """(B, 3, H, W) input image in -1..1 without noise, for the image encoder."""
    noisy_image: Tensor | None = None
    """(B, 3, H, W) input image for the codec, with noise where the family adds it to the image."""
    latent_noise: Tensor | None = None
    """(B, C, h, w) noise that is added to the latent of the input image instead."""
    embedding: Tensor | None = None
    """(B, 1, Cc) precomputed embedding of `image`."""
    latent: Tensor | None = None
    """(B, C, h, w) precomputed unscaled latent of `noisy_image`."""


def sample_conditioning(
    batch: ImageBatch | LatentBatch,
    randomness: StepRandomness,
    config: ConditioningConfig,
    family: Family,
) -> TrainConditioning:
    """Augments the input images, or picks one of the precomputed variants, and applies dropout.

    Args:
        batch: B objects, the input view first.
        randomness: of the step.
        config: dropout and augmentation.
        family: its conditions, and its order of views.
    """
    if isinstance(batch, LatentBatch):
        variants = batch.strength.shape[1]
        chosen = (randomness.variant * variants).long().clamp_max(variants - 1)  # (B,)
        row = torch.arange(len(batch), device=chosen.device)
        strength = batch.strength[row, chosen]  # (B,)
        inputs = {
            "embedding": batch.embedding[row, chosen].float()[:, None],
            "latent": batch.image_latent[row, chosen].float(),
        }
    else:
        image = input_images(batch, randomness, config.augmentation)
        strength = noise_strength(randomness, config.augmentation)
        scale = strength[:, None, None, None]
        if family.noise_aug_target == "image":
            noisy = add_noise(image, randomness.image_noise, scale)
            inputs = {"image": image, "noisy_image": noisy}
        else:
            noise = scale * randomness.image_noise
            inputs = {"image": image, "noisy_image": image, "latent_noise": noise}
    views = batch.elevation_deg.shape[1]
    masks = independent_dropout_masks if config.independent_dropout else dropout_masks
    keep_embedding, keep_latent = masks(randomness.dropout, config.dropout)
    elevations = to_network_order(batch.elevation_deg, family, 1)  # (B, V)
    azimuths = to_network_order(batch.azimuth_deg - batch.azimuth_deg[:, :1], family, 1) % 360.0
    tasks = [
        camera_task_embedding(
            elevation.deg2rad(), azimuth.deg2rad(), len(family.domains), family.input_view
        )
        for elevation, azimuth in zip(elevations, azimuths, strict=True)
    ]
    strengths = strength[:, None].expand(-1, views)
    added_embeds = condition_embeds(family, elevations, azimuths, strengths)
    return TrainConditioning(
        keep_embedding, keep_latent, added_embeds, torch.stack(tasks, dim=1), **inputs
    )


def to_network_order(batch: Tensor, family: Family, dim: int) -> Tensor:
    """Rolls views along an axis from the data's order, the input view first, to the network's."""
    return batch.roll(family.input_view, dim) if family.input_view else batch


def noise_strength(randomness: StepRandomness, config: AugmentationConfig) -> Tensor:
    """(B,) log-normal strength of the noise on the input images."""
    return torch.exp(config.noise_log_mean + config.noise_log_std * randomness.strength)


def input_images(
    batch: ImageBatch, randomness: StepRandomness, config: AugmentationConfig
) -> Tensor:
    """(B, 3, H, W) float32 in -1..1: view 0, on white or on a random background.

    Target images stay on white, so the network learns to remove backgrounds. The colours are
    composited over white already, so the background is exchanged by 1 - mask.
    """
    white = to_signed(batch.colour[:, 0])
    uncovered = 1.0 - batch.mask.float()[:, None] / 255  # (B, 1, H, W)
    background = randomness.background[:, :, None, None] * 2.0 - 1.0  # (B, 3, 1, 1)
    changed = randomness.variant < config.random_background_fraction  # (B,)
    return white + changed[:, None, None, None] * uncovered * (background - 1.0)


def dropout_masks(uniforms: Tensor, probability: float) -> tuple[Tensor, Tensor]:
    """Conditioning dropout of each object, for all its views and both domains.

    Args:
        uniforms: (B,) in 0..1.
        probability: p; the embedding only is dropped below p, both below 2 p, the latent only
            below 3 p.

    Returns:
        (B,) 0 or 1 factors of the embedding and of the latent.
    """
    embedding = (uniforms >= 2.0 * probability).float()
    latent = ((uniforms < probability) | (uniforms >= 3.0 * probability)).float()
    return embedding, latent


def independent_dropout_masks(uniforms: Tensor, probability: float) -> tuple[Tensor, Tensor]:
    """Conditioning dropout that drops embedding and latent independently (SVD, SV3D, V3D).

    Args:
        uniforms: (B,) in 0..1.
        probability: p of each. The embedding is dropped below p, the latent in an interval of
            length p that overlaps it by p^2.

    Returns:
        As `dropout_masks`.
    """
    start = probability * (1.0 - probability)
    embedding = (uniforms >= probability).float()
    latent = ((uniforms < start) | (uniforms >= start + probability)).float()
    return embedding, latent
