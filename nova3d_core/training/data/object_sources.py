"""Where a run's objects come from: shards on disk, or made while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from ...diffusion.families import Family
from ...errors import InputError
from ..config import TrainConfig
from ..validation import Truth, truth_of
from .shards import ShardDataset
from .stream import ObjectStream, ProceduralDataset

HELD_OUT_SEED = 2**31 + 1
"""Procedural objects for validation; a run's own seeds are smaller."""


def source_of(config: TrainConfig, rank: int, world: int) -> ObjectStream:
    """The run's objects for one of its processes.

    Raises:
        InputError: there are no shards, or the batch cannot be dealt out evenly.
    """
    data, place = config.data, {"rank": rank, "world": world, "block": block_of(config, world)}
    if data.source == "procedural":
        return ProceduralDataset(config.seed, data.size_px, **place)
    if not data.shards:
        raise InputError(
            "the training settings name no shards.",
            "Give --data, or set data.shards; `render-dataset` makes some.",
        )
    return ShardDataset(data.shards, config.seed, **place)


def block_of(config: TrainConfig, world: int) -> int:
    """Objects of a step for each process.

    Raises:
        InputError: they cannot be dealt out evenly.
    """
    batch = config.optimiser.batch
    if batch % world:
        raise InputError(
            f"a batch of {batch} objects cannot be dealt out evenly to {world} processes.",
            f"Take an optimiser.batch that is a multiple of {world}.",
        )
    return batch // world


def held_out_objects(config: TrainConfig, family: Family, count: int) -> Sequence[Truth]:
    """Objects that are never learnt from, always the same ones.

    Args:
        config: the run's settings.
        family: says how many views.
        count: so many at most.

    Raises:
        InputError: they do not have the views and the size that are trained.
    """
    if count == 0:
        return []
    if config.data.held_out:
        shards = ShardDataset(config.data.held_out, epochs=1, shuffle=False, rank=0, world=1)
        items = shards.readable_objects()
    else:
        items = iter(ProceduralDataset(HELD_OUT_SEED, config.data.size_px, rank=0, world=1))
    truths = [truth_of(item) for item in islice(items, count)]
    wanted = (family.views, config.data.size_px, config.data.size_px, 3)
    for truth in truths:
        if tuple(truth.colour.shape) != wanted:
            raise InputError(
                f"held-out object {truth.key} has images of shape {tuple(truth.colour.shape)}, "
                f"the settings want {wanted}."
            )
    return truths
