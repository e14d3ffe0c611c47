"""Objects of the data as one batch, and what the network is told and asked of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ...diffusion.network.embeddings import camera_task_numbers, sinusoid
from ...diffusion.sampling.conditioning import NUMBER_SIZE, augmented
from ...errors import InputError
from ..config import ConditionConfig
from ..step_rng import Draws

WHITE = 255


@dataclass(frozen=True, eq=False)
class Batch:
    """B objects as they were read."""

    colour: Tensor
    """(B, V, H, W, 3) uint8 on white, view 0 is the input."""
    normal: Tensor
    """(B, V, H, W, 3) uint8 images of normals in the frame of view 0, on white."""
    mask: Tensor
    """(B, H, W) uint8 how much of each pixel of view 0 the object covers."""
    elevation_deg: Tensor
    """(B, V) of the cameras."""
    azimuth_deg: Tensor
    """(B, V) of the cameras."""

    def __len__(self) -> int:
        return len(self.colour)

    def to(self, device: torch.device) -> Batch:
        """The same elsewhere."""
        values = (getattr(self, each.name) for each in fields(self))
        return Batch(*(value.to(device, non_blocking=True) for value in values))

    def part(self, first: int, last: int) -> Batch:
        """Some of the objects."""
        return Batch(*(getattr(self, each.name)[first:last] for each in fields(self)))


def batch_of(objects: Sequence[Mapping[str, Any]], views: int, size_px: int) -> Batch:
    """Objects as the data gives them, side by side.

    Args:
        objects: dicts with colour and normal (V, H, W, 3) uint8, mask (V, H, W) uint8,
            elevation_deg and azimuth_deg (V,), key.
        views: V that the network paints.
        size_px: H and W that it is trained on.

    Raises:
        InputError: an object has another number of views or another size.
    """
    for each in objects:
        found = tuple(each["colour"].shape)
        if found != (views, size_px, size_px, 3):
            raise InputError(
                f"object {each.get('key', '?')} of the training data has images of shape {found},"
                f" the settings want {(views, size_px, size_px, 3)}.",
                "Render the data again, or change data.size_px.",
            )
    return Batch(
        torch.stack([each["colour"] for each in objects]),
        torch.stack([each["normal"] for each in objects]),
        torch.stack([each["mask"][0] for each in objects]),
        torch.stack([each["elevation_deg"].float() for each in objects]),
        torch.stack([each["azimuth_deg"].float() for each in objects]),
    )


def signed(images: Tensor) -> Tensor:
    """(..., H, W, 3) uint8 -> (..., 3, H, W) float32 in -1..1."""
    return images.movedim(-1, -3).float().div_(WHITE / 2).sub_(1.0)


def images_of(batch: Batch) -> Tensor:
    """(D, B, V, 3, H, W) float32 in -1..1: colours, then normals, both on white."""
    return torch.stack([signed(batch.colour), signed(batch.normal)])


def input_images(batch: Batch, draws: Draws, config: ConditionConfig) -> Tensor:
    """(B, 3, H, W) float32 in -1..1: view 0, on white or on a random background.

    Only what the network is given changes; it always paints on white, so it learns to leave a
    background out. The colours are on white already, so white is exchanged where the mask lets it
    through.
    """
    white = signed(batch.colour[:, 0])
    through = 1.0 - batch.mask.float()[:, None] / WHITE  # (B, 1, H, W)
    other = draws.background[:, :, None, None] * 2.0 - 1.0  # (B, 3, 1, 1)
    changed = draws.plain < config.background_share  # (B,)
    return white + changed[:, None, None, None] * through * (other - 1.0)


def left_out(dropped: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Which conditions an object is trained without, decided once for all views and domains.

    Args:
        dropped: (B,) in 0..1.
        share: p; the embedding alone below p, both below 2 p, the latent alone below 3 p.

    Returns:
        (B,) 0 or 1 factors of the embedding and of the latent.
    """
    embedding = (dropped >= 2.0 * share).float()
    latent = ((dropped < share) | (dropped >= 3.0 * share)).float()
    return embedding, latent


@dataclass(frozen=True, eq=False)
class Told:
    """What the network is told of B objects beside the noise level."""

    image: Tensor | None
    """(B, 3, H, W) in -1..1 without noise, for the image encoder; None where that was done."""
    noisy_image: Tensor | None
    """(B, 3, H, W) with the noise that `added` tells of, for the codec; None likewise."""
    keep_embedding: Tensor
    """(B,) 0 or 1."""
    keep_latent: Tensor
    """(B,) 0 or 1."""
    added: Tensor
    """(B, V, 256) sinusoid of the noise's strength."""
    camera_task: Tensor
    """(D, B, V, 10)."""
    embedding: Tensor | None = None
    """(B, 1, Cc) of `image` where it was worked out before."""
    latent: Tensor | None = None
    """(B, C, h, w) of `noisy_image`, likewise."""


def told_in_training(batch: Batch, draws: Draws, config: ConditionConfig, domains: int) -> Told:
    """The conditions of a batch, with their noise and without what is left out."""
    image = input_images(batch, draws, config)
    mean, std = config.augmentation_mean, config.augmentation_std
    strength = torch.exp(mean + std * draws.strength)  # (B,)
    noisy = augmented(image, draws.image_noise, strength[:, None, None, None])
    return Told(image, noisy, *told_beside(batch, draws, config, strength, domains))


def told_beside(
    batch: Any, draws: Draws, config: ConditionConfig, strength: Tensor, domains: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The last four of `Told`, for objects whose input images have noise of a strength (B,)."""
    views = batch.elevation_deg.shape[1]
    embedding, latent = left_out(draws.dropped, config.dropout)
    elevations, azimuths = batch.elevation_deg.deg2rad(), batch.azimuth_deg.deg2rad()
    tasks = [
        camera_task_numbers(each, turn, domains)
        for each, turn in zip(elevations, azimuths, strict=True)
    ]
    added = sinusoid(strength[:, None].expand(-1, views), NUMBER_SIZE)
    return embedding, latent, added, torch.stack(tasks, dim=1)
