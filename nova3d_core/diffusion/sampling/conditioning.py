"""What the network is told beside the noise: the image, the camera, and how it was trained."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...errors import InputError
from ..families import Family
from ..network.embeddings import camera_task_numbers, sinusoid
from .trajectory import Stations

NUMBER_SIZE, ANGLE_SIZE = 256, 512
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

    def without_image(self) -> Conditioning:
        """The unconditional half: no image, all else the same."""
        return replace(
            self, latent=torch.zeros_like(self.latent), context=torch.zeros_like(self.context)
        )

    def beside(self, other: Conditioning) -> Conditioning:
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


def added_numbers(family: Family, stations: Stations, augmentation: float | None = None) -> Tensor:
    """The sinusoids that are embedded beside the noise level, in the family's order.

    fps, motion and augmentation are the same for every view. SV3D p is told 90 degrees minus the
    elevation, and the azimuth from the input view, in radians; with the input view's own at 0.

    Args:
        family: which numbers, and the constants among them.
        stations: the views.
        augmentation: standard deviation of the noise on the input image; the family's if None.

    Returns:
        (V, A) float32; 256 numbers each, 512 for an angle.
    """
    strength = family.noise_augmentation if augmentation is None else augmentation
    shared = {"fps": family.fps_id, "motion": family.motion_id, "augmentation": strength}
    angles = {
        "polar": torch.deg2rad(90.0 - stations.elevations_deg),
        "azimuth": torch.deg2rad(stations.azimuths_deg),
    }
    parts = []
    for name in family.added:
        if name in angles:
            parts.append(sinusoid(angles[name], ANGLE_SIZE))
        elif name in shared:
            value = torch.full_like(stations.azimuths_deg, float(shared[name]))
            parts.append(sinusoid(value, NUMBER_SIZE))
        else:
            raise InputError(f"family {family.name} adds '{name}', which nobody knows.")
    return torch.cat(parts, dim=-1)


def camera_tasks(family: Family, stations: Stations) -> Tensor:
    """(D, V, 10) cameras relative to the input view, and tasks, as NOVA3D is told them."""
    return camera_task_numbers(
        torch.deg2rad(stations.elevations_deg),
        torch.deg2rad(stations.azimuths_deg),
        len(family.domains),
        stations.input_view,
    )


def augmented(clean: Tensor, noise: Tensor, strength: float) -> Tensor:
    """An image or latent with noise of the same shape added, as the network saw it in training."""
    return clean + strength * noise.to(clean.device, clean.dtype)
