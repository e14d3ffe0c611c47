"""Throughput of the training data: generating and rendering objects, and reading shards.

    python dev.py bench dataset [--count 100] [--step-seconds 1.5 --batch 8] [-o FOLDER]

Everything runs on one thread. Times are process times, so that other load matters little.
Targets: 20 objects generated, rendered and packed per second; reading at least 3 times what a
training step consumes. `train` logs the seconds of a step; without `--step-seconds`, a step of the
mini network is timed.
"""

from __future__ import annotations

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
from results import ResultPage, Table, markdown_page, save_page

from nova3d_core.training.data.config import DatasetConfig, ImageConfig
from nova3d_core.training.data.mesh_sources import ProceduralObjects
from nova3d_core.training.data.render import render_object
from nova3d_core.training.data.render_dataset import render_dataset
from nova3d_core.training.data.shard_writer import encode_members
from nova3d_core.training.data.shards import ShardDataset
from nova3d_core.training.procedural import KINDS, procedural_object

RENDER_TARGET, READ_TARGET = 20.0, 3.0


@dataclass(frozen=True)
class DatasetBenchmark:
    """Settings of the benchmark."""

    count: int = 100
    """Number of objects."""
    image: ImageConfig = field(default_factory=ImageConfig)
    """Settings of the images."""
    step_seconds: float | None = None
    """Seconds of a training step; default: timed here."""
    batch: int = 8
    """Batch size of a training step."""
    config: str = "mini"
    """Training settings of the timed step."""
    kinds: bool = False
    """Also time each kind of object."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder for dataset.json and dataset.md."""


def time_each_ms(items: list[Any], function: Callable[[Any], Any]) -> tuple[float, list[Any]]:
    """Process time per item in milliseconds, and the results."""
    start = time.process_time()
    results = [function(item) for item in items]
    return (time.process_time() - start) * 1e3 / len(items), results


def rendering_ms(settings: DatasetBenchmark) -> dict[str, float]:
    """Milliseconds per object of each step of writing a shard."""
    config = settings.image
    render_object(procedural_object(0), config=config)  # loads the kernels
    making, meshes = time_each_ms(list(range(settings.count)), procedural_object)
    rendering, images = time_each_ms(
        meshes, lambda mesh: render_object(mesh, config=config, closed=True)
    )
    packing, _ = time_each_ms(images, lambda taken: encode_members(taken, {}, "png"))
    return {"making": making, "rendering": rendering, "packing": packing}


def reading_ms(settings: DatasetBenchmark, kind: str) -> float:
    """Milliseconds to read an object from a shard, with a warm page cache as in training."""
    with tempfile.TemporaryDirectory() as folder:
        config = DatasetConfig(image=settings.image, image_format=kind)
        render_dataset(ProceduralObjects(min(settings.count, 50)), folder, config)
        items = iter(ShardDataset(folder))
        list(islice(items, 10))
        start = time.process_time()
        list(islice(items, 200))
        return (time.process_time() - start) * 1e3 / 200


def step_seconds(settings: DatasetBenchmark) -> float:
    """Wall time of one training step on all cores."""
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
    times = []
    for step in range(3):
        start = time.perf_counter()
        randomness = draw_step_randomness(0, step, range(count), shape, config.data.size_px)
        objective.losses(batch, randomness, step)[0].mean().backward()
        times.append(time.perf_counter() - start)
    return min(times)


def kinds_ms(settings: DatasetBenchmark) -> dict[str, float]:
    """Milliseconds to make and render an object of each kind."""
    count = max(settings.count // 10, 3)
    return {
        kind: time_each_ms(
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
    times = {**parts, **{f"reading {kind}": value for kind, value in reading.items()}, **kinds}
    rendered, read = 1e3 / whole, 1e3 / reading["png"]
    rates: list[list[Any]] = [
        ["rendered, one core", rendered, RENDER_TARGET, verdict(rendered, RENDER_TARGET)],
        [f"consumed by training steps of {settings.batch}", consumed, None, ""],
    ]
    for name, rate in (("read from shards", read), ("made while training, one core", rendered)):
        target = READ_TARGET * consumed
        rates.append([name, rate, target, verdict(rate, target)])
    columns = [("objects per second", ""), ("rate", ".2f"), ("target", ".2f"), ("verdict", "")]
    config = {key: value for key, value in asdict(settings).items() if key != "output"}
    page = ResultPage(
        title="Training data",
        summary=f"Process times on one thread; a training step takes {seconds:.2f} s.",
        tables=[
            Table([("step", ""), ("ms per object", ".1f")], [list(item) for item in times.items()]),
            Table(columns, rates, "Throughput"),
        ],
        command=f"python dev.py bench dataset --count {settings.count}",
        machine=machine(),
        date=time.strftime("%Y-%m-%d"),
        details={"settings": config},
    )
    print(markdown_page(page, "dataset.json"))
    if settings.output:
        save_page(settings.output, "dataset", page)


def verdict(value: float, target: float) -> str:
    return "met" if value >= target else "missed"


if __name__ == "__main__":
    main(tyro.cli(DatasetBenchmark, description=__doc__))
