"""Data sources of a run: shards on disk, or procedural objects."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from ..diffusion.families import FAMILIES, SCENE_FAMILY, Family
from ..errors import InputError
from .config import TrainConfig
from .data.shards import ShardDataset
from .data.stream import ObjectStream, ProceduralDataset
from .scenes.data import make_clip_stream
from .scenes.validation import held_out_clips
from .validation import ValidationSample, validation_sample

HELD_OUT_SEED = 2**31 + 1
"""Seed of procedural validation objects; above all seeds of runs."""


def make_object_stream(config: TrainConfig, rank: int, world_size: int) -> ObjectStream:
    """The training objects of one process.

    Raises:
        InputError: there are no shards, or the batch cannot be split evenly.
    """
    data = config.data
    batch_size = batch_size_per_process(config, world_size)
    distributed = {"rank": rank, "world_size": world_size, "batch_size": batch_size}
    if data.source != "procedural" and not data.shards:
        raise InputError(
            "the training settings specify no shards.",
            "Pass --data, or set data.shards; `render-dataset` creates shards.",
        )
    if config.family == SCENE_FAMILY.name:
        return make_clip_stream(config, **distributed)
    if data.source == "procedural":
        return ProceduralDataset(config.seed, data.size_px, family=config.family, **distributed)
    dataset = ShardDataset(data.shards, config.seed, **distributed)
    _check_noise_target(dataset, FAMILIES[config.family])
    return dataset


def _check_noise_target(dataset: ShardDataset, family: Family) -> None:
    """Raises InputError if latents hold noise that was added elsewhere than the family needs it."""
    for shard in dataset.shards:
        target = shard.info.get("noise_target", "image")
        if "variants" in shard.info and target != family.noise_aug_target:
            raise InputError(
                f"the latents in {shard.path} have noise that was added to the {target}, but "
                f"{family.label} needs it added to the {family.noise_aug_target}.",
                f"Precompute them again with --precompute.noise-target {family.noise_aug_target}.",
            )


def batch_size_per_process(config: TrainConfig, world_size: int) -> int:
    """Objects per step and process.

    Raises:
        InputError: the batch cannot be split evenly.
    """
    batch_size = config.optimiser.batch_size
    if batch_size % world_size:
        raise InputError(
            f"a batch of {batch_size} objects cannot be split evenly over {world_size} processes.",
            f"Set optimiser.batch_size to a multiple of {world_size}.",
        )
    return batch_size // world_size


def held_out_objects(config: TrainConfig, family: Family, count: int) -> Sequence[ValidationSample]:
    """Objects that are never trained on, always the same.

    Args:
        config: settings of the run.
        family: decides the number of views.
        count: maximum number of objects.

    Raises:
        InputError: their views or size differ from the settings.
    """
    if count == 0:
        return []
    if config.family == SCENE_FAMILY.name:
        return held_out_clips(config, count)
    if config.data.held_out:
        items = ShardDataset(config.data.held_out, epochs=1, shuffle=False).readable_objects()
    else:
        items = iter(ProceduralDataset(HELD_OUT_SEED, config.data.size_px, family=family.name))
    samples = [validation_sample(item) for item in islice(items, count)]
    expected = (family.views, config.data.size_px, config.data.size_px, 3)
    for sample in samples:
        if tuple(sample.colour.shape) != expected:
            raise InputError(
                f"held-out object {sample.key} has images of shape {tuple(sample.colour.shape)}, "
                f"the settings require {expected}."
            )
    return samples
