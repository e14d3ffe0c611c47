"""The loop learns: one batch by heart, and the moving average follows."""

from __future__ import annotations

import json

import pytest
import torch

from nova3d_core.training.config import NoiseStage

from .parts import SMALL, objects, of, run

STEPS = 150
LEVEL = 0.25
"""Of the loss of a network that answers nothing; noise and level are drawn anew at each step."""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["adamw", "muon"])
def test_the_loss_of_one_batch_falls_to_a_quarter(tmp_path, method):
    config = of(
        SMALL,
        optimiser__name=method,
        optimiser__steps=STEPS,
        optimiser__learning_rate=1e-2,
        optimiser__warmup_steps=10,
        optimiser__lr_schedule="cosine",
        noise=(NoiseStage(0.0, 1.5, 1.0),),
        conditioning__dropout=0.0,
        conditioning__augmentation__random_background_fraction=0.0,
    )
    run(config, tmp_path, objects(2))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    losses = torch.tensor([line["loss"] for line in lines if line["event"] == "train"])
    assert len(losses) == STEPS
    start, end = float(losses[:5].mean()), float(losses[-20:].mean())
    assert start > 0.8
    assert end < LEVEL * start, (start, end)
