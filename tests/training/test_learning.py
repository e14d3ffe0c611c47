"""The training loop overfits one batch."""

from __future__ import annotations

import pytest
import torch

from nova3d_core.training.config import NoiseStage

from .parts import SMALL, log_of, objects, of, run

STEPS = 150
TARGET = 0.25
"""Target, as a fraction of the initial loss; noise and level are drawn anew at each step."""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_loss_of_one_batch_falls_to_a_quarter(tmp_path, name):
    config = of(
        SMALL,
        optimiser__name=name,
        optimiser__steps=STEPS,
        optimiser__learning_rate=1e-2,
        optimiser__warmup_steps=10,
        optimiser__lr_schedule="cosine",
        noise=(NoiseStage(0.0, 1.5, 1.0),),
        conditioning__dropout=0.0,
        conditioning__augmentation__random_background_fraction=0.0,
    )
    run(config, tmp_path, objects(2))
    lines = log_of(tmp_path)
    losses = torch.tensor([line["loss"] for line in lines if line["event"] == "train"])
    assert len(losses) == STEPS
    start, end = float(losses[:5].mean()), float(losses[-20:].mean())
    assert start > 0.8
    assert end < TARGET * start, (start, end)
