"""What the network is told beside the noise: the image, the camera, and how it was trained."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...errors import InputError
from ..families import Family
from ..network.embeddings import camera_task_embedding, sinusoidal_embedding
from .trajectory import CameraTrajectory

SCALAR_EMBED_DIM, ANGLE_EMBED_DIM = 256, 512
"""Length of a sinusoid: of fps, motion and augmentation, and of an angle."""


@dataclass(frozen=True, eq=False)
class Conditioning:
    """All conditions of B objects with V views each."""

    latent: Tensor
    """(B, C, h, w) of the input image, not scaled; laid beside every noisy latent."""
    context: Tensor
    """(B, 1, Cc) image embedding of the input image without noise."""
    added: Tensor
    """(B, V, A) further numbers, as sinusoids."""
    camera_task: Tensor | None = None
    """(D, B, V, 10) camera and task, where the network takes them."""

    def unconditional(self) -> Conditioning:
        """The unconditional half: no image, all else the same."""
        return replace(
            self, latent=torch.zeros_like(self.latent), context=torch.zeros_like(self.context)
        )

    def concat(self, other: Conditioning) -> Conditioning:
        """Both as 2 B objects of one batch, these first."""
        tasks = None
        if self.camera_task is not None:
            tasks = torch.cat([self.camera_task, other.camera_task], dim=1)
        return Conditioning(
            torch.cat([self.latent, other.latent]),
            torch.cat([self.context, other.context]),
            torch.cat([self.added, other.added]),
            tasks,
        )

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Conditioning:
        """The same on another device; the sinusoids stay float32 until the network casts them."""
        tasks = self.camera_task
        return Conditioning(
            self.latent.to(device, dtype),
            self.context.to(device, dtype),
            self.added.to(device),
            None if tasks is None else tasks.to(device),
        )


def added_embeds(
    family: Family, trajectory: CameraTrajectory, augmentation: float | None = None
) -> Tensor:
    """The sinusoids that are embedded beside the noise level, in the family's order.

    fps, motion and augmentation are the same for every view. SV3D p is told 90 degrees minus the
    elevation, and the azimuth from the input view, in radians; with the input view's own at 0.

    Args:
        family: which numbers, and the constants among them.
        trajectory: the views.
        augmentation: standard deviation of the noise on the input image; the family's if None.

    Returns:
        (V, A) float32; 256 numbers each, 512 for an angle.
    """
    strength = family.noise_aug_strength if augmentation is None else augmentation
    shared = {"fps": family.fps_id, "motion": family.motion_bucket_id, "augmentation": strength}
    angles = {
        "polar": torch.deg2rad(90.0 - trajectory.elevations_deg),
        "azimuth": torch.deg2rad(trajectory.azimuths_deg),
    }
    parts = []
    for name in family.added_conditions:
        if name in angles:
            parts.append(sinusoidal_embedding(angles[name], ANGLE_EMBED_DIM))
        elif name in shared:
            value = torch.full_like(trajectory.azimuths_deg, float(shared[name]))
            parts.append(sinusoidal_embedding(value, SCALAR_EMBED_DIM))
        else:
            raise InputError(f"family {family.name} adds '{name}', which nobody knows.")
    return torch.cat(parts, dim=-1)


def camera_task_embeds(family: Family, trajectory: CameraTrajectory) -> Tensor:
    """(D, V, 10) cameras relative to the input view, and tasks, as NOVA3D is told them."""
    return camera_task_embedding(
        torch.deg2rad(trajectory.elevations_deg),
        torch.deg2rad(trajectory.azimuths_deg),
        len(family.domains),
        trajectory.input_view,
    )


def add_noise(clean: Tensor, noise: Tensor, strength: float) -> Tensor:
    """An image or latent with noise of the same shape added, as the network saw it in training."""
    return clean + strength * noise.to(clean.device, clean.dtype)
