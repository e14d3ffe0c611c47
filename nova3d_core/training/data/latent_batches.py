"""Batches of objects whose latents and embeddings were worked out before; see `precompute`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from ..config import ConditionConfig
from ..step_rng import Draws
from .batches import Told, told_beside


@dataclass(frozen=True, eq=False)
class ReadyBatch:
    """B objects with K draws of their input images."""

    latents: Tensor
    """(B, D, V, C, h, w) float16 of colours and normals, scaled as the network paints them."""
    condition: Tensor
    """(B, K, C, h, w) float16 of the noisy input images, not scaled."""
    embedding: Tensor
    """(B, K, Cc) float16 of the input images without noise."""
    strength: Tensor
    """(B, K) of the noise on the input images."""
    elevation_deg: Tensor
    """(B, V) of the cameras."""
    azimuth_deg: Tensor
    """(B, V) of the cameras."""

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def clean(self) -> Tensor:
        """(D, B, V, C, h, w) latents of all domains."""
        return self.latents.transpose(0, 1)

    def to(self, device: torch.device) -> ReadyBatch:
        """The same elsewhere."""
        values = (getattr(self, each.name) for each in fields(self))
        return ReadyBatch(*(value.to(device, non_blocking=True) for value in values))

    def part(self, first: int, last: int) -> ReadyBatch:
        """Some of the objects."""
        return ReadyBatch(*(getattr(self, each.name)[first:last] for each in fields(self)))


def is_ready(objects: Sequence[Mapping[str, Any]]) -> bool:
    """Whether objects come as latents instead of images."""
    return bool(objects) and "colour_latent" in objects[0]


def ready_batch_of(
    objects: Sequence[Mapping[str, Any]], shape: tuple[int, int, int, int, int]
) -> ReadyBatch:
    """Objects as precomputed shards give them, side by side.

    Args:
        objects: dicts with colour_latent and normal_latent (V, C, h, w), condition_latent
            (K, C, h, w), embedding (K, Cc), strength (K,), elevation_deg and azimuth_deg (V,), key.
        shape: (D, V, C, h, w) of an object as the network wants it.

    Raises:
        InputError: an object's latents have another shape, or it has other draws than the first.
    """
    draws = len(objects[0]["strength"])
    for each in objects:
        found = tuple(each["colour_latent"].shape)
        if found != shape[1:] or len(each["strength"]) != draws:
            raise InputError(
                f"object {each.get('key', '?')} of the training data has {len(each['strength'])} "
                f"draws and latents of shape {found}, expected {draws} and {tuple(shape[1:])}.",
                "Precompute the latents again, with the model that the run starts from.",
            )

    def side_by_side(name: str) -> Tensor:
        return torch.stack([each[name] for each in objects])

    return ReadyBatch(
        torch.stack([side_by_side("colour_latent"), side_by_side("normal_latent")], dim=1),
        side_by_side("condition_latent"),
        side_by_side("embedding"),
        side_by_side("strength").float(),
        side_by_side("elevation_deg").float(),
        side_by_side("azimuth_deg").float(),
    )


def told_of_ready(batch: ReadyBatch, draws: Draws, config: ConditionConfig, domains: int) -> Told:
    """The conditions of a batch: one of each object's draws, and what is left out of it."""
    count = batch.strength.shape[1]
    chosen = (draws.plain * count).long().clamp_max(count - 1)  # (B,)
    row = torch.arange(len(batch), device=chosen.device)
    beside = told_beside(batch, draws, config, batch.strength[row, chosen], domains)
    return Told(
        None,
        None,
        *beside,
        embedding=batch.embedding[row, chosen].float()[:, None],
        latent=batch.condition[row, chosen].float(),
    )
