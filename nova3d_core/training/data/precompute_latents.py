"""Precomputed latents and embeddings of shards, so that training reads no images."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...diffusion.families import FAMILIES
from ...diffusion.model import Codec, ImageEncoder
from ...errors import InputError, StageError
from ...progress import SILENT, Progress
from ..config import ConditioningConfig
from ..step_rng import draw_step_randomness
from .batches import ImageBatch, to_signed
from .conditioning import noise_strength, sample_conditioning
from .config import PrecomputeConfig
from .dataset_lock import open_dataset_dir, read_settings
from .shard_members import DamagedObjectError
from .shard_writer import SHARD_FORMAT, Members, encode_npy, encode_png_strip, write_shard
from .shards import Shard, ShardDataset, read_shard, shard_paths

logger = logging.getLogger(__name__)

STAGE = "precomputing"
ENCODE_CHUNK_SIZE = 16
"""Images encoded together."""


@dataclass(frozen=True, eq=False)
class Encoders:
    """Codec and image encoder of a model, loaded on a device."""

    codec: Codec
    image_encoder: ImageEncoder
    name: str
    """Name of their file, for the dataset's identity."""
    device: torch.device | str = "cpu"
    """Device of the parts."""


@dataclass
class PrecomputeSummary:
    """Result of `precompute_latents`."""

    folder: Path
    shards: int = 0
    kept: int = 0
    """Of these, finished by an earlier run."""
    objects: int = 0
    skipped: list[str] = field(default_factory=list)
    """Why objects were skipped; excludes those of shards that were kept."""


def precompute_latents(
    shards: Path | str,
    folder: Path | str,
    encoders: Encoders,
    config: PrecomputeConfig | None = None,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> PrecomputeSummary:
    """Writes a shard of latents for each shard of images, to be read by `ShardDataset`.

    Each object has colour_latent and normal_latent (V, C, h, w) float16, scaled; the cameras'
    angles; and, for K augmented variants of its input image: image_latent (K, C, h, w) float16 of
    the noisy image, unscaled; strength (K,) float32 of the noise; embedding (K, Cc) float16 of the
    image without noise.

    Args:
        shards: a folder of shards written by `render_dataset`.
        folder: for the new shards; a second call keeps finished ones.
        encoders: codec and image encoder of a model, both frozen.
        config: number of variants and their augmentation.
        overwrite: replace shards with other settings.
        progress: updated for each object.

    Raises:
        InputError: no shards, or the folder holds other files.
        StageError: a latent is not finite, or too large for float16.
        Cancelled: by the user; finished shards are kept.
    """
    config, folder = config or PrecomputeConfig(), Path(folder)
    paths = shard_paths(shards)
    images = read_settings(Path(shards)) if Path(shards).is_dir() else {}
    identity = {"format": SHARD_FORMAT, "source": "latents", "model": encoders.name}
    identity |= {**asdict(config), "shards": len(paths), "images": images}
    open_dataset_dir(folder, identity, overwrite)
    found = [read_shard(path) for path in paths]
    result, done = PrecomputeSummary(folder), 0
    total = sum(len(shard.objects) for shard in found)
    progress.update(STAGE, 0, total)
    for index, shard in enumerate(found):
        path = folder / f"shard-{index:06d}.tar"
        info = _shard_info(shard, done, config)
        if _is_finished(path, info):
            result.kept += 1
        else:
            objects = _encode_shard(shard, done, encoders, config, result.skipped)
            objects = _with_progress(objects, progress, done, total)
            write_shard(path, objects, info, overwrite=True)
        done += len(shard.objects)
        progress.update(STAGE, done, total)
        result.shards += 1
    result.objects = done - len(result.skipped)
    if result.skipped and not result.objects:
        raise InputError(
            f"none of the {done} objects can be read; the first error: {result.skipped[0]}",
            "Copy the shards again, or render them again.",
        )
    return result


def _with_progress(
    objects: Iterator[tuple[str, Members]], progress: Progress, done: int, total: int
) -> Iterator[tuple[str, Members]]:
    """The objects; updates the progress after each."""
    for step, each in enumerate(objects, done + 1):
        yield each
        progress.update(STAGE, step, total)


def _shard_info(shard: Shard, first: int, config: PrecomputeConfig) -> dict[str, Any]:
    """Description of the new shard, without what the writer adds."""
    return {
        "first": first,
        "stop": first + len(shard.objects),
        "views": shard.info.get("views", 1),
        "size_px": shard.info.get("size_px"),
        "variants": config.variants,
        "noise_target": config.noise_target,
        "keys": f"{shard.keys[0]} to {shard.keys[-1]}" if shard.keys else "",
    }


def _is_finished(path: Path, info: Mapping[str, Any]) -> bool:
    if not path.exists():
        return False
    try:
        found = read_shard(path, strict=True).info
    except InputError as error:
        logger.warning("%s It will be computed again.", error.message)
        return False
    return all(found.get(name) == value for name, value in info.items())


def _encode_shard(
    shard: Shard, first: int, encoders: Encoders, config: PrecomputeConfig, skipped: list[str]
) -> Iterator[tuple[str, Members]]:
    """Key and files of each object of a shard; `first` is the number of its first object.

    Damaged objects are skipped; the reasons are added to `skipped`.
    """
    reader = ShardDataset(shard.path, shuffle=False, epochs=1)
    for index in range(len(shard.objects)):
        try:
            item = reader.read_object(reader.shards[0], index)
        except DamagedObjectError as error:
            skipped.append(error.message)
            logger.warning("%s It is skipped (%d so far).", error.message, len(skipped))
            continue
        tensors = encode_object(item, first + index, encoders, config)
        for name, value in tensors.items():
            if not bool(torch.isfinite(value).all()):
                raise StageError(
                    STAGE,
                    f"{name} of object {item['key']} is not finite, or too large for float16.",
                    "Check the model's file; encode in float32.",
                )
        angles = {name: item[name].tolist() for name in ("elevation_deg", "azimuth_deg")}
        members = {
            f"{name}.npy": encode_npy(value.cpu().numpy()) for name, value in tensors.items()
        }
        if config.keep_images:
            members["colour.png"] = encode_png_strip(item["colour"].numpy())
        yield item["key"], {"json": json.dumps(angles).encode(), **members}


@torch.no_grad()
def encode_object(
    item: Mapping[str, Any], number: int, encoders: Encoders, config: PrecomputeConfig
) -> dict[str, Tensor]:
    """Latents, embeddings and noise strengths of one object; see `precompute_latents`.

    Args:
        item: as yielded by `ShardDataset`.
        number: of the object; its variants follow from this and the seed.
        encoders: codec and image encoder.
        config: variants and augmentation.
    """
    codec, device = encoders.codec, encoders.device

    def encode_scaled(images: Tensor) -> Tensor:
        chunks = to_signed(images.to(device)).split(ENCODE_CHUNK_SIZE)
        return torch.cat([codec.encode_scaled(chunk) for chunk in chunks])

    size_px = item["colour"].shape[-2]
    variants, target = range(config.variants), config.noise_target
    side = size_px // codec.factor
    latents = (1, 1, 1, 1, 1) if target == "image" else (1, 1, codec.latent_channels, side, side)
    randomness = draw_step_randomness(config.seed, number, variants, latents, size_px, target)
    inputs = sample_conditioning(
        _repeat_front(item, config.variants),
        randomness,
        ConditioningConfig(augmentation=config.augmentation),
        replace(FAMILIES["nova3d"], noise_aug_target=target),
    )
    clean = inputs.image.to(device).split(ENCODE_CHUNK_SIZE)
    noisy = inputs.noisy_image.to(device).split(ENCODE_CHUNK_SIZE)
    embedding = [encoders.image_encoder.embed(chunk) for chunk in clean]
    image_latent = torch.cat([codec.encode(chunk) for chunk in noisy])
    if inputs.latent_noise is not None:
        image_latent = image_latent + inputs.latent_noise.to(image_latent)
    return {
        "colour_latent": encode_scaled(item["colour"]).half(),
        "normal_latent": encode_scaled(item["normal"]).half(),
        "image_latent": image_latent.half(),
        "embedding": torch.cat(embedding)[:, 0].half(),
        "strength": noise_strength(randomness, config.augmentation),
    }


def _repeat_front(item: Mapping[str, Any], count: int) -> ImageBatch:
    """View 0 of an object, repeated `count` times."""
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
    """Loads codec and image encoder of a model file: NOVA3D or SVD.

    Raises:
        InputError: the file holds neither.
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
    # float32: encoding runs once, and float16 is slow or missing on CPUs
    parts = (part.to(device, torch.float32) for part in (codec, encoder))
    return Encoders(*parts, path.name, device)
