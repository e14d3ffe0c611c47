"""A run's averaged weights as a model's file, which every other command reads."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch

from ..checks import check_choice
from ..io.atomic import refuse_existing, refuse_unwritable
from ..weights.saving import save_nova3d
from .config import TrainConfig
from .runs import Outcome

FORMATS = ("float16", "bfloat16", "float32")


def refuse_export(path: Path, dtype: str, overwrite: bool) -> None:
    """Raises InputError if the file cannot be written, before long work."""
    check_choice("--dtype", dtype, FORMATS)
    refuse_existing(path, overwrite)
    refuse_unwritable(path)


def export_model(
    outcome: Outcome, config: TrainConfig, path: Path, dtype: str, overwrite: bool = False
) -> None:
    """Writes the moving average of a run's weights as one .safetensors file.

    Args:
        outcome: a run that came to its end, or to a stop.
        config: its settings; they are kept in the file.
        path: the file to write.
        dtype: number format of the weights.
        overwrite: replace a file that is there already.
    """
    refuse_export(path, dtype, overwrite)
    with outcome.ema.in_place():
        model = outcome.trainee.frozen_copy()
    for part in (model.unet, model.image_encoder):
        part.to(getattr(torch, dtype))
    place = outcome.place
    note = {
        "trained": {
            "steps": place.step,
            "objects": place.objects,
            "hours": round(place.seconds / 3600.0, 2),
        },
        "settings": asdict(config),
    }
    save_nova3d(model, path, note=json.dumps(note), overwrite=overwrite)
