"""The data path: objects made and rendered a second on one core, and how quickly shards are read.

    python dev.py bench dataset [--count 100] [--step-seconds 1.5 --batch 8] [-o dataset.json]

All on one thread. Times are of the process, so that other work on the machine counts little.
Targets: 20 objects made, rendered and packed a second; reading at least 3 times what a training
step consumes. Give the step's seconds and batch as `train` logs them; without, a step of the mini
network is timed here.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from measure import machine

from nova3d_core.training.data.config import DatasetConfig, ImageConfig
from nova3d_core.training.data.mesh_sources import ProceduralObjects
from nova3d_core.training.data.render import render_object
from nova3d_core.training.data.render_dataset import render_dataset
from nova3d_core.training.data.shard_writer import encode_members
from nova3d_core.training.data.shards import ShardDataset
from nova3d_core.training.procedural import KINDS, procedural_object

RENDERED_TARGET, FEED_TARGET = 20.0, 3.0


@dataclass(frozen=True)
class DatasetBenchmark:
    """Settings of the benchmark."""

    count: int = 100
    """Objects."""
    image: ImageConfig = field(default_factory=ImageConfig)
    """How images are taken."""
    step_seconds: float | None = None
    """What a training step takes; timed here if not given."""
    batch: int = 8
    """Objects of a training step."""
    config: str = "mini"
    """Settings of the training whose step is timed."""
    kinds: bool = False
    """Also say how long each kind of object takes."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """A JSON file for the figures."""


def each_ms(things: list[Any], work: Callable[[Any], Any]) -> tuple[float, list[Any]]:
    """Milliseconds of this process for each thing, and what came of them."""
    start = time.process_time()
    made = [work(thing) for thing in things]
    return (time.process_time() - start) * 1e3 / len(things), made


def rendering_ms(settings: DatasetBenchmark) -> dict[str, float]:
    """Milliseconds of each part of making an object's shard."""
    config = settings.image
    render_object(procedural_object(0), config=config)  # loads the kernels
    making, meshes = each_ms(list(range(settings.count)), procedural_object)
    rendering, images = each_ms(
        meshes, lambda mesh: render_object(mesh, config=config, closed=True)
    )
    packing, _ = each_ms(images, lambda taken: encode_members(taken, {}, "png"))
    return {"making": making, "rendering": rendering, "packing": packing}


def reading_ms(settings: DatasetBenchmark, kind: str) -> float:
    """Milliseconds to read an object of a shard; the disk's cache is warm, as it is in training."""
    with tempfile.TemporaryDirectory() as folder:
        config = DatasetConfig(image=settings.image, image_format=kind)
        render_dataset(ProceduralObjects(min(settings.count, 50)), folder, config)
        items = iter(ShardDataset(folder))
        list(islice(items, 10))
        start = time.process_time()
        list(islice(items, 200))
        return (time.process_time() - start) * 1e3 / 200


def step_seconds(settings: DatasetBenchmark) -> float:
    """Wall time of one training step, all of the machine's cores at it."""
    from nova3d_core.diffusion.families import FAMILIES
    from nova3d_core.training.data.batches import collate_images
    from nova3d_core.training.data.stream import ProceduralDataset
    from nova3d_core.training.objective import Objective
    from nova3d_core.training.presets import read_train_config
    from nova3d_core.training.step_rng import draw_step_randomness
    from nova3d_core.training.train_module import init_train_module

    config = read_train_config(settings.config)
    family, count = FAMILIES[config.family], settings.batch
    module = init_train_module(config.network, family, 0)
    items = list(islice(iter(ProceduralDataset(0, config.data.size_px)), count))
    batch = collate_images(items, family.views, config.data.size_px)
    side = config.data.size_px // module.codec.factor
    shape = (len(family.domains), family.views, module.codec.latent_channels, side, side)
    objective = Objective(config, module, module, torch.device("cpu"))
    taken = []
    for step in range(3):
        start = time.perf_counter()
        randomness = draw_step_randomness(0, step, range(count), shape, config.data.size_px)
        objective.losses(batch, randomness, step)[0].mean().backward()
        taken.append(time.perf_counter() - start)
    return min(taken)


def kinds_ms(settings: DatasetBenchmark) -> dict[str, float]:
    """Milliseconds to make and render an object of each kind."""
    count = max(settings.count // 10, 3)
    return {
        kind: each_ms(
            list(range(count)),
            lambda seed, kind=kind: render_object(
                procedural_object(seed, kind), config=settings.image, closed=True
            ),
        )[0]
        for kind in KINDS
    }


def main(settings: DatasetBenchmark) -> None:
    cores = torch.get_num_threads()
    torch.set_num_threads(1)
    parts = rendering_ms(settings)
    whole = sum(parts.values())
    reading = {kind: reading_ms(settings, kind) for kind in ("png", "npy")}
    kinds = kinds_ms(settings) if settings.kinds else {}
    torch.set_num_threads(cores)
    seconds = settings.step_seconds or step_seconds(settings)
    consumed = settings.batch / seconds
    print(f"{'part':<12} ms of an object")
    for name, spent in {**parts, **{f"read {k}": v for k, v in reading.items()}, **kinds}.items():
        print(f"{name:<12} {spent:6.1f}")
    rendered, read = 1e3 / whole, 1e3 / reading["png"]
    verdict = "met" if rendered >= RENDERED_TARGET else "missed"
    print(f"\n{rendered:.1f} objects a second and core rendered: {RENDERED_TARGET:g} {verdict}")
    print(f"a training step of {settings.batch} takes {seconds:.2f} s: {consumed:.2f} objects/s")
    for name, rate in (("shards, one reader", read), ("made while training, one core", rendered)):
        verdict = "met" if rate >= FEED_TARGET * consumed else "missed"
        print(f"{name}: {rate / consumed:.1f} times that; {FEED_TARGET:g} {verdict}")
    if settings.output:
        about = {key: value for key, value in asdict(settings).items() if key != "output"}
        figures = {
            "machine": machine(),
            "settings": about,
            "ms": {**parts, **{f"read {kind}": value for kind, value in reading.items()}},
            "kinds_ms": kinds,
            "step_seconds": seconds,
            "objects_per_second": {"rendered": rendered, "read": read, "consumed": consumed},
        }
        settings.output.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main(tyro.cli(DatasetBenchmark))
