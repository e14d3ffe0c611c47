"""Batches of training objects: images, or precomputed latents (see `precompute_latents`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from ...diffusion.families import Family
from ...errors import InputError
from .orbits import TRAINING_ORBITS

ANGLE_TOLERANCE_DEG = 0.5
"""Angles that differ by less are considered equal."""
B = TypeVar("B", bound="TensorBatch")


class TensorBatch:
    """Base of dataclasses whose fields are tensors (B, ...), or None."""

    def to(self: B, device: torch.device) -> B:
        """A copy on a device."""
        return self._map(lambda value: value.to(device, non_blocking=True))

    def slice(self: B, start: int, end: int) -> B:
        """Objects start to end - 1."""
        return self._map(lambda value: value[start:end])

    def _map(self: B, function: Callable[[Tensor], Tensor]) -> B:
        values = (getattr(self, each.name) for each in fields(self))
        return type(self)(*(None if value is None else function(value) for value in values))


@dataclass(frozen=True, eq=False)
class ImageBatch(TensorBatch):
    """B objects as images."""

    colour: Tensor
    """(B, V, H, W, 3) uint8 on white; view 0 is the input."""
    normal: Tensor
    """(B, V, H, W, 3) uint8 encoded normals in the frame of view 0, on white."""
    mask: Tensor
    """(B, H, W) uint8 coverage of view 0's pixels."""
    elevation_deg: Tensor
    """(B, V) of the cameras."""
    azimuth_deg: Tensor
    """(B, V) of the cameras."""

    def __len__(self) -> int:
        return len(self.colour)

    def select_views(self, views: Tensor) -> ImageBatch:
        """The views of these indices (v,), of which the first is the input."""
        names = ("colour", "normal", "elevation_deg", "azimuth_deg")
        return replace(self, **{name: getattr(self, name)[:, views] for name in names})


@dataclass(frozen=True, eq=False)
class LatentBatch(TensorBatch):
    """B objects as latents, with K augmented variants of their input images."""

    latents: Tensor
    """(B, D, V, C, h, w) float16 scaled latents of colours and normals."""
    image_latent: Tensor
    """(B, K, C, h, w) float16 unscaled latents of the noisy input images."""
    embedding: Tensor
    """(B, K, Cc) float16 embeddings of the input images without noise."""
    strength: Tensor
    """(B, K) noise strength of the input images."""
    elevation_deg: Tensor
    """(B, V) of the cameras."""
    azimuth_deg: Tensor
    """(B, V) of the cameras."""
    colour: Tensor | None = None
    """(B, V, H, W, 3) uint8 images on white, where they were kept."""

    def __len__(self) -> int:
        return len(self.latents)

    def select_views(self, views: Tensor) -> LatentBatch:
        """The views of these indices (v,), of which the first is the input."""
        colour = None if self.colour is None else self.colour[:, views]
        return replace(
            self,
            latents=self.latents[:, :, views],
            elevation_deg=self.elevation_deg[:, views],
            azimuth_deg=self.azimuth_deg[:, views],
            colour=colour,
        )

    @property
    def clean(self) -> Tensor:
        """(D, B, V, C, h, w) scaled latents."""
        return self.latents.transpose(0, 1)


def collate_images(objects: Sequence[Mapping[str, Any]], views: int, size_px: int) -> ImageBatch:
    """Stacks objects of image shards.

    Args:
        objects: dicts with colour and normal (V, H, W, 3) uint8, mask (V, H, W) uint8,
            elevation_deg and azimuth_deg (V,), key.
        views: expected V.
        size_px: expected H and W.

    Raises:
        InputError: an object has another number of views or another size.
    """
    for each in objects:
        found = tuple(each["colour"].shape)
        if found != (views, size_px, size_px, 3):
            raise InputError(
                f"object {each.get('key', '?')} of the training data has images of shape {found},"
                f" the settings require {(views, size_px, size_px, 3)}.",
                "Render the data again, or change data.size_px.",
            )
    return ImageBatch(
        _stack(objects, "colour"),
        _stack(objects, "normal"),
        torch.stack([each["mask"][0] for each in objects]),
        _stack(objects, "elevation_deg").float(),
        _stack(objects, "azimuth_deg").float(),
    )


def has_latents(objects: Sequence[Mapping[str, Any]]) -> bool:
    """Whether objects hold latents instead of images."""
    return bool(objects) and "colour_latent" in objects[0]


def collate_latents(
    objects: Sequence[Mapping[str, Any]], shape: tuple[int, int, int, int, int]
) -> LatentBatch:
    """Stacks objects of latent shards.

    Args:
        objects: dicts with colour_latent and normal_latent (V, C, h, w), image_latent
            (K, C, h, w), embedding (K, Cc), strength (K,), elevation_deg and azimuth_deg (V,), key.
        shape: expected (D, V, C, h, w) of an object.

    Raises:
        InputError: an object's latents have another shape, or another number of variants than the
            first.
    """
    variants = len(objects[0]["strength"])
    for each in objects:
        found = tuple(each["colour_latent"].shape)
        if found != shape[1:] or len(each["strength"]) != variants:
            raise InputError(
                f"object {each.get('key', '?')} of the training data has {len(each['strength'])} "
                f"variants and latents of shape {found}, expected {variants} and "
                f"{tuple(shape[1:])}.",
                "Precompute the latents again, with the model that the run starts from.",
            )
    latents = [_stack(objects, "colour_latent"), _stack(objects, "normal_latent")]
    return LatentBatch(
        torch.stack(latents, dim=1),
        _stack(objects, "image_latent"),
        _stack(objects, "embedding"),
        _stack(objects, "strength").float(),
        _stack(objects, "elevation_deg").float(),
        _stack(objects, "azimuth_deg").float(),
        _stack(objects, "colour") if "colour" in objects[0] else None,
    )


def check_orbits(objects: Sequence[Mapping[str, Any]], family: Family) -> None:
    """Checks that a family can be trained on the cameras of objects.

    Raises:
        InputError: elevations vary, or azimuths are uneven, where the network is not conditioned on
            them.
    """
    if family.free_angles:
        return
    for each in objects:
        azimuths, elevations = each["azimuth_deg"], each["elevation_deg"]
        expected = torch.tensor(TRAINING_ORBITS[family.name].base_azimuths(len(azimuths)))
        steps = azimuths.diff() % 360.0 - expected.diff()
        uneven = float(steps.abs().max()) > ANGLE_TOLERANCE_DEG
        if uneven or float(elevations.max() - elevations.min()) > ANGLE_TOLERANCE_DEG:
            raise InputError(
                f"object {each.get('key', '?')} of the training data has cameras at varying "
                f"elevations or uneven azimuths, on which {family.label} is not conditioned.",
                f"Render the data again with --image.family {family.name}.",
            )


def _stack(objects: Sequence[Mapping[str, Any]], name: str) -> Tensor:
    return torch.stack([each[name] for each in objects])


def to_signed(images: Tensor) -> Tensor:
    """(..., H, W, 3) uint8 -> (..., 3, H, W) float32 in -1..1."""
    return images.movedim(-1, -3).float().div_(255 / 2).sub_(1.0)


def domain_images(batch: ImageBatch, domains: int = 2) -> Tensor:
    """(D, B, V, 3, H, W) float32 in -1..1: colours, then normals if D is 2."""
    return torch.stack([to_signed(each) for each in (batch.colour, batch.normal)[:domains]])
