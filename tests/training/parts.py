"""A small run: a network of one level, objects of sixteen views of sixteen pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from nova3d_core.diffusion.network.config import UNetConfig
from nova3d_core.training.config import (
    ConditioningConfig,
    DataConfig,
    NetworkConfig,
    NoiseStage,
    OptimiserConfig,
    RunConfig,
    TrainConfig,
)
from nova3d_core.training.data.prefetch import ObjectList
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
    conditions=ConditioningConfig(),
    optimiser=OptimiserConfig(
        steps=6, batch=2, at_once=2, learning_rate=2e-3, warm_up=2, ema_decay=0.99
    ),
    run=RunConfig(
        log_every=1,
        checkpoint_minutes=0.0,
        sheet_steps=0,
        validation_steps=0,
        tensorboard=False,
    ),
)


def objects(count: int, seed: int = 0, size: int = SIZE) -> list[dict]:
    """Discs on white, whose colour and normal change from view to view."""
    generator = torch.Generator().manual_seed(seed)
    row = torch.arange(size) - (size - 1) / 2
    far = (row[:, None] ** 2 + row**2).sqrt()
    made = []
    for index in range(count):
        radius = size * (0.25 + 0.2 * float(torch.rand((), generator=generator)))
        mask = ((radius + 0.5 - far).clamp(0, 1) * 255).to(torch.uint8).expand(VIEWS, -1, -1)
        share = mask[..., None].float() / 255
        images = []
        for _ in ("colour", "normal"):
            colours = torch.rand((VIEWS, 1, 1, 3), generator=generator) * 200
            images.append((share * colours + (1 - share) * 255).to(torch.uint8))
        made.append(
            {
                "key": f"disc-{seed}-{index}",
                "colour": images[0],
                "normal": images[1],
                "mask": mask.contiguous(),
                "elevation_deg": torch.zeros(VIEWS),
                "azimuth_deg": torch.arange(VIEWS) * 22.5,
            }
        )
    return made


def of(config: TrainConfig, **changes) -> TrainConfig:
    """Settings with changes named by dots written as two underlines: optimiser__steps=3."""
    for name, value in changes.items():
        *groups, last = name.split("__")
        if groups:
            value = replace(getattr(config, groups[0]), **{last: value})
            last = groups[0]
        config = replace(config, **{last: value})
    return config


def run(config: TrainConfig, output: Path, items: list[dict] | None = None, **more) -> TrainResult:
    """Trains on a few objects, on the CPU."""
    items = objects(5) if items is None else items

    def source(settings: TrainConfig, rank: int, world: int) -> ObjectList:
        return ObjectList(items, rank, world, settings.optimiser.batch // world)

    return train(config, output, cpu=True, make_source=source, **more)


def state(outcome: TrainResult) -> dict[str, torch.Tensor]:
    """Weights and their average, by name."""
    found = {f"weight.{name}": value for name, value in outcome.trainee.state_dict().items()}
    found |= {f"average.{name}": value for name, value in outcome.ema.weights.items()}
    return {name: value.detach().clone() for name, value in found.items()}


def assert_equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    """Bit for bit."""
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.equal(value, two[name]), name
