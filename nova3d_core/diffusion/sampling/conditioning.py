"""Conditioning of the UNet: input image, cameras, task, and the constants of its training."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...errors import InputError
from ..families import Family
from ..network.embeddings import camera_task_embedding, sinusoidal_embedding
from ..network.feedback_unet import Feedback
from .trajectory import CameraTrajectory

SCALAR_EMBED_DIM, ANGLE_EMBED_DIM = 256, 512
"""Length of the sinusoidal embedding of a scalar (fps, motion, augmentation) and of an angle."""


@dataclass(frozen=True, eq=False)
class Conditioning:
    """Conditioning of B objects with V views each."""

    latent: Tensor
    """(B, C, h, w) unscaled latent of the input image, concatenated with each noisy latent; or one
    per view (B, V, C, h, w)."""
    context: Tensor
    """(B, 1, Cc) image embedding of the clean input image; or one per view (B, V, 1, Cc)."""
    added_embeds: Tensor
    """(B, V, A) sinusoidal embeddings of the added conditions."""
    camera_task: Tensor | None = None
    """(D, B, V, A) camera and task embedding, where the network takes one."""
    feedback: Feedback | None = None
    """Renders of the latest reconstruction and the cameras, where the network takes them."""

    def unconditional(self) -> Conditioning:
        """The unconditional counterpart: latent and image embedding are zero."""
        return replace(
            self, latent=torch.zeros_like(self.latent), context=torch.zeros_like(self.context)
        )

    def concat(self, other: Conditioning) -> Conditioning:
        """Both as one batch of 2 B objects, this one first."""
        tasks = None
        if self.camera_task is not None:
            tasks = torch.cat([self.camera_task, other.camera_task], dim=1)
        feedback = self.feedback
        if feedback is not None:
            feedback = feedback.concat(other.feedback)
        return Conditioning(
            torch.cat([self.latent, other.latent]),
            torch.cat([self.context, other.context]),
            torch.cat([self.added_embeds, other.added_embeds]),
            tasks,
            feedback,
        )

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Conditioning:
        """The same on another device; the sinusoids stay float32 until the network casts them."""
        tasks, feedback = self.camera_task, self.feedback
        return Conditioning(
            self.latent.to(device, dtype),
            self.context.to(device, dtype),
            self.added_embeds.to(device),
            None if tasks is None else tasks.to(device),
            None if feedback is None else feedback.to(device, dtype),
        )


def added_embed_dim(family: Family) -> int:
    """Length of the embeddings of a family's added conditions."""
    return sum(
        ANGLE_EMBED_DIM if name in ("polar", "azimuth") else SCALAR_EMBED_DIM
        for name in family.added_conditions
    )


def added_embeds(
    family: Family, trajectory: CameraTrajectory, augmentation: float | None = None
) -> Tensor:
    """Sinusoidal embeddings of the family's added conditions, concatenated in its order.

    fps, motion and augmentation are equal for all views. SV3D p has the polar angle (90 degrees
    minus the elevation) and the azimuth relative to the input view, in radians.

    Args:
        family: the added conditions and their constants.
        trajectory: the cameras.
        augmentation: standard deviation of the noise on the input image; the family's if None.

    Returns:
        (V, A) float32; 256 channels per condition, 512 per angle.
    """
    strength = family.noise_aug_strength if augmentation is None else augmentation
    elevations, azimuths = trajectory.elevations_deg, trajectory.azimuths_deg
    return condition_embeds(family, elevations, azimuths, torch.full_like(azimuths, strength))


def condition_embeds(
    family: Family, elevations_deg: Tensor, azimuths_deg: Tensor, augmentation: Tensor
) -> Tensor:
    """The same for any batch of views.

    Args:
        family: the added conditions and their constants.
        elevations_deg: (..., V) of the cameras.
        azimuths_deg: (..., V) relative to the input view.
        augmentation: (..., V) standard deviation of the noise on the input image.

    Returns:
        (..., V, A) float32.
    """
    parts = []
    for name in family.added_conditions:
        if name == "polar":
            parts.append(
                sinusoidal_embedding(torch.deg2rad(90.0 - elevations_deg), ANGLE_EMBED_DIM)
            )
        elif name == "azimuth":
            parts.append(sinusoidal_embedding(torch.deg2rad(azimuths_deg), ANGLE_EMBED_DIM))
        elif name == "augmentation":
            parts.append(sinusoidal_embedding(augmentation, SCALAR_EMBED_DIM))
        elif name in ("fps", "motion"):
            constant = family.fps_id if name == "fps" else family.motion_bucket_id
            value = torch.full_like(azimuths_deg, float(constant))
            parts.append(sinusoidal_embedding(value, SCALAR_EMBED_DIM))
        else:
            raise InputError(f"family {family.name} has the unknown added condition '{name}'.")
    return torch.cat(parts, dim=-1) if parts else azimuths_deg.new_zeros(*azimuths_deg.shape, 0)


def camera_task_embeds(family: Family, trajectory: CameraTrajectory) -> Tensor:
    """(D, V, A) camera and task embeddings, relative to the input view."""
    elevations = torch.deg2rad(trajectory.elevations_deg)  # (V,)
    azimuths = torch.deg2rad(trajectory.azimuths_deg)  # (V,)
    if family.condition_angles_rad:
        elevations, azimuths = torch.tensor(family.condition_angles_rad).unbind(1)
    return camera_task_embedding(
        elevations, azimuths, len(family.domains), trajectory.input_view, family.camera_type
    )


def add_noise(clean: Tensor, noise: Tensor, strength: float) -> Tensor:
    """Noise augmentation: an image or latent plus `strength` times noise of the same shape."""
    return clean + strength * noise.to(clean.device, clean.dtype)
