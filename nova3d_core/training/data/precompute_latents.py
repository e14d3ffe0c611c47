"""Latents and embeddings of shards, worked out once, so that training reads no images."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...diffusion.model import Codec, ImageEncoder
from ...errors import InputError, StageError
from ...progress import SILENT, Progress
from ..config import ConditioningConfig
from ..step_rng import draw
from .batches import ImageBatch, to_signed, sample_conditioning
from .config import PrecomputeConfig
from .dataset_lock import open_dataset_dir, read_settings
from .shard_members import DamagedObjectError
from .shard_writer import FORMAT, Members, encode_npy, write_shard
from .shards import Shard, ShardDataset, read_shard, shard_paths

logger = logging.getLogger(__name__)

STAGE = "precomputing"


@dataclass(frozen=True, eq=False)
class Encoders:
    """The parts of a model that turn images into what its network sees, ready to run."""

    codec: Codec
    image_encoder: ImageEncoder
    name: str
    """What is written of them: the file they came from."""
    device: torch.device | str = "cpu"
    """Where they are."""


@dataclass
class PrecomputeSummary:
    """What came of it."""

    folder: Path
    shards: int = 0
    kept: int = 0
    """Of these, how many an earlier run had finished."""
    objects: int = 0
    skipped: list[str] = field(default_factory=list)
    """What was wrong with objects that were left out; those of kept shards are not in it."""


def precompute_latents(
    shards: Path | str,
    folder: Path | str,
    encoders: Encoders,
    config: PrecomputeConfig | None = None,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> PrecomputeSummary:
    """Writes a shard of latents for each shard of images; `ShardDataset` reads those too.

    Each object has colour_latent and normal_latent (V, C, h, w) float16, scaled as the network
    paints them; and for K draws of its input image (background, noise): condition_latent
    (K, C, h, w) float16 of the noisy image, unscaled; strength (K,) float32 of that noise;
    embedding (K, Cc) float16 of the image without noise; and the cameras' angles.

    Args:
        shards: a folder of shards as `render_dataset` makes it.
        folder: for the new shards; run again, finished ones are kept.
        encoders: a model's codec and image encoder, both frozen.
        config: number of draws, noise, backgrounds.
        overwrite: make anew what is in the folder with other settings.
        progress: told of each object.

    Raises:
        InputError: no shards, or the folder holds something else.
        StageError: a latent is not finite, or too large for float16.
        Cancelled: the user stopped; finished shards stay.
    """
    config, folder = config or PrecomputeConfig(), Path(folder)
    paths = shard_paths(shards)
    of = read_settings(Path(shards)) if Path(shards).is_dir() else {}
    settings = {key: value for key, value in asdict(config).items() if key != "at_once"}
    identity = {"format": FORMAT, "source": "latents", "model": encoders.name, **settings}
    open_dataset_dir(folder, {**identity, "shards": len(paths), "images": of}, overwrite)
    found = [read_shard(path) for path in paths]
    result, done = PrecomputeSummary(folder), 0
    total = sum(len(shard.objects) for shard in found)
    progress.update(STAGE, 0, total)
    for index, shard in enumerate(found):
        path = folder / f"shard-{index:06d}.tar"
        about = _about(shard, done, config)
        if _is_finished(path, about):
            result.kept += 1
        else:
            objects = _latents(shard, done, encoders, config, result.skipped)
            write_shard(path, progress_of(objects, progress, done, total), about, overwrite=True)
        done += len(shard.objects)
        progress.update(STAGE, done, total)
        result.shards += 1
    result.objects = done - len(result.skipped)
    if result.skipped and not result.objects:
        raise InputError(
            f"none of the {done} objects can be read, the first: {result.skipped[0]}",
            "Copy the shards again, or render them anew.",
        )
    return result


def progress_of(
    objects: Iterator[tuple[str, Members]], progress: Progress, done: int, total: int
) -> Iterator[tuple[str, Members]]:
    """The objects, each reported when it is made."""
    for step, each in enumerate(objects, done + 1):
        yield each
        progress.update(STAGE, step, total)


def _about(shard: Shard, first: int, config: PrecomputeConfig) -> dict[str, Any]:
    """What the new shard says of itself, but for what the writer adds."""
    return {
        "first": first,
        "stop": first + len(shard.objects),
        "views": shard.about.get("views", 1),
        "size_px": shard.about.get("size_px"),
        "variants": config.variants,
        "keys": f"{shard.keys[0]} to {shard.keys[-1]}" if shard.keys else "",
    }


def _is_finished(path: Path, about: Mapping[str, Any]) -> bool:
    if not path.exists():
        return False
    try:
        held = read_shard(path, strict=True).about
    except InputError as error:
        logger.warning("%s It is made again.", error.message)
        return False
    return all(held.get(name) == value for name, value in about.items())


def _latents(
    shard: Shard, first: int, encoders: Encoders, config: PrecomputeConfig, skipped: list[str]
) -> Iterator[tuple[str, Members]]:
    """Key and files of each object of a shard; `first` is the number of its first object.

    Damaged objects are left out; what is wrong with them is added to `skipped`.
    """
    reader = ShardDataset(shard.path, shuffle=False, epochs=1, rank=0, world=1)
    for index in range(len(shard.objects)):
        try:
            item = reader.read_object(reader.shards[0], index)
        except DamagedObjectError as error:
            skipped.append(error.message)
            logger.warning("%s It is left out (%d so far).", error.message, len(skipped))
            continue
        made = latents_of(item, first + index, encoders, config)
        for name, value in made.items():
            if not bool(torch.isfinite(value).all()):
                raise StageError(
                    STAGE,
                    f"{name} of object {item['key']} is not finite, or too large for float16.",
                    "Check the model's file; encode in float32.",
                )
        angles = {name: item[name].tolist() for name in ("elevation_deg", "azimuth_deg")}
        members = {f"{name}.npy": encode_npy(value.cpu().numpy()) for name, value in made.items()}
        yield item["key"], {"json": json.dumps(angles).encode(), **members}


@torch.no_grad()
def latents_of(
    item: Mapping[str, Any], number: int, encoders: Encoders, config: PrecomputeConfig
) -> dict[str, Tensor]:
    """Everything that is kept of one object; see `precompute_latents`.

    Args:
        item: as `ShardDataset` yields it.
        number: of the object, which with the seed decides its draws.
        encoders: codec and image encoder.
        config: the draws.
    """
    codec, device = encoders.codec, encoders.device

    def scaled(images: Tensor) -> Tensor:
        parts = to_signed(images.to(device)).split(config.at_once)
        return torch.cat([codec.encode_scaled(part) for part in parts])

    draws = draw(config.seed, number, range(config.variants), (1,) * 5, item["colour"].shape[-2])
    conditions = ConditioningConfig(
        augmentation_mean=config.augmentation_mean,
        augmentation_std=config.augmentation_std,
        background_share=config.background_share,
    )
    told = sample_conditioning(_front(item, config.variants), draws, conditions, domains=2)
    seen, noisy = told.image.to(device), told.noisy_image.to(device)
    embedding = [encoders.image_encoder.embed(part) for part in seen.split(config.at_once)]
    strength = torch.exp(config.augmentation_mean + config.augmentation_std * draws.strength)
    return {
        "colour_latent": scaled(item["colour"]).half(),
        "normal_latent": scaled(item["normal"]).half(),
        "condition_latent": torch.cat(
            [codec.encode(part) for part in noisy.split(config.at_once)]
        ).half(),
        "embedding": torch.cat(embedding)[:, 0].half(),
        "strength": strength,
    }


def _front(item: Mapping[str, Any], count: int) -> ImageBatch:
    """View 0 of an object, so many times."""
    return ImageBatch(
        item["colour"][None, :1].expand(count, -1, -1, -1, -1),
        item["normal"][None, :1].expand(count, -1, -1, -1, -1),
        item["mask"][None, 0].expand(count, -1, -1),
        item["elevation_deg"][None, :1].expand(count, -1),
        item["azimuth_deg"][None, :1].expand(count, -1),
    )


def load_encoders(
    path: Path | str, device: torch.device | str = "cpu", progress: Progress = SILENT
) -> Encoders:
    """Codec and image encoder out of a model's file: NOVA3D, or the SVD that it grows out of.

    Raises:
        InputError: the file holds no such model.
    """
    from ...weights.discovery.locate import inspect_file

    path, device = Path(path), torch.device(device)
    found = inspect_file(path).identity
    if found is not None and found.family == "svd":
        from ...weights.load import load_svd

        _, codec, encoder = load_svd(path, progress=progress)
    else:
        from ...weights.load import load_model

        model = load_model(path, progress=progress)
        codec, encoder = model.codec, model.image_encoder
    # in float32: it is done once, and float16 is slow or missing on CPUs
    parts = (part.to(device, torch.float32) for part in (codec, encoder))
    return Encoders(*parts, path.name, device)
