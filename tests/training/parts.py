"""A small run: a network of one level, objects with sixteen views of sixteen pixels."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nova3d_core.diffusion.network.config import UNetConfig
from nova3d_core.progress import Progress
from nova3d_core.training.config import (
    ConditioningConfig,
    DataConfig,
    NetworkConfig,
    NoiseStage,
    OptimiserConfig,
    RunConfig,
    TrainConfig,
)
from nova3d_core.training.data.stream import ObjectStream
from nova3d_core.training.runs import TrainResult, train

SIZE, VIEWS, FACTOR = 16, 16, 4
UNET = UNetConfig(
    in_channels=6 * FACTOR**2,
    out_channels=3 * FACTOR**2,
    model_channels=16,
    channel_mult=(1,),
    num_res_blocks=1,
    attention_levels=(True,),
    num_head_channels=8,
    context_dim=24,
    add_embed_dim=256,
    domains=2,
    alignment="gta",
    camera_task_dim=10,
    norm_num_groups=8,
)
SMALL = TrainConfig(
    family="nova3d-mini",
    precision="float32",
    network=NetworkConfig(UNET, FACTOR, encoder_channels=8),
    data=DataConfig("procedural", size_px=SIZE, prefetch_batches=1),
    noise=(NoiseStage(0.0, 0.0, 1.2),),
    conditioning=ConditioningConfig(),
    optimiser=OptimiserConfig(
        steps=6,
        batch_size=2,
        micro_batch_size=2,
        learning_rate=2e-3,
        warmup_steps=2,
        ema_decay=0.99,
    ),
    run=RunConfig(
        log_steps=1,
        checkpoint_minutes=0.0,
        sample_grid_steps=0,
        validation_steps=0,
        tensorboard=False,
    ),
)


def objects(count: int, seed: int = 0, size: int = SIZE) -> list[dict]:
    """Discs on white whose colour and normal differ between views."""
    generator = torch.Generator().manual_seed(seed)
    row = torch.arange(size) - (size - 1) / 2
    far = (row[:, None] ** 2 + row**2).sqrt()
    items = []
    for index in range(count):
        radius = size * (0.25 + 0.2 * float(torch.rand((), generator=generator)))
        mask = ((radius + 0.5 - far).clamp(0, 1) * 255).to(torch.uint8).expand(VIEWS, -1, -1)
        coverage = mask[..., None].float() / 255
        images = []
        for _ in ("colour", "normal"):
            colours = torch.rand((VIEWS, 1, 1, 3), generator=generator) * 200
            images.append((coverage * colours + (1 - coverage) * 255).to(torch.uint8))
        items.append(
            {
                "key": f"disc-{seed}-{index}",
                "colour": images[0],
                "normal": images[1],
                "mask": mask.contiguous(),
                "elevation_deg": torch.zeros(VIEWS),
                "azimuth_deg": torch.arange(VIEWS) * 22.5,
            }
        )
    return items


def of(config: Any, **changes) -> Any:
    """A copy of settings with changes; two underscores stand for a dot: optimiser__steps=3."""
    for name, value in changes.items():
        group, _, rest = name.partition("__")
        value = of(getattr(config, group), **{rest: value}) if rest else value
        config = replace(config, **{group: value})
    return config


class ObjectList(ObjectStream):
    """A few objects, repeated in order.

    Args:
        objects: as yielded by a dataset.
        rank, world_size, batch_size: see `ObjectStream`.
    """

    total = None

    def __init__(
        self,
        objects: Iterable[dict[str, Any]],
        rank: int = 0,
        world_size: int = 1,
        batch_size: int = 1,
    ):
        super().__init__(rank, world_size, batch_size)
        self._objects = list(objects)

    def fetch(self, number: int) -> dict[str, Any]:
        """One object of the sequence."""
        return self._objects[number % len(self._objects)]

    def identity(self) -> dict[str, Any]:
        """The number of objects."""
        return {"source": "list", "objects": len(self._objects)}


def run(config: TrainConfig, output: Path, items: list[dict] | None = None, **more) -> TrainResult:
    """Trains on a few objects, on the CPU."""
    items = objects(5) if items is None else items

    def source(settings: TrainConfig, rank: int, world_size: int) -> ObjectList:
        batch_size = settings.optimiser.batch_size // world_size
        return ObjectList(items, rank, world_size, batch_size)

    return train(config, output, cpu=True, make_source=source, **more)


def state(result: TrainResult) -> dict[str, torch.Tensor]:
    """Weights and their EMA, by name."""
    found = {f"weight.{name}": value for name, value in result.module.state_dict().items()}
    found |= {f"ema.{name}": value for name, value in result.ema.weights.items()}
    return {name: value.detach().clone() for name, value in found.items()}


def log_of(output: Path) -> list[dict[str, Any]]:
    """The events of a run's log."""
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


def cancel_after(steps: int) -> Progress:
    """A progress that cancels a run after some steps."""
    done = [0]

    def update(event):
        done[0] = event.step if event.stage == "training" else done[0]

    return Progress(update, lambda: done[0] >= steps)


def assert_equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    """Bit for bit."""
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.equal(value, two[name]), name
