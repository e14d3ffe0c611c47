"""A run's averaged weights as a model's file, which every other command reads."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checks import check_choice
from ..errors import InputError
from ..io.files.atomic import check_can_write_file
from ..io.files.json_text import parse_json
from ..io.settings import config_from_dict
from ..progress import SILENT, Progress
from ..weights.discovery.built_in import resolve_model_file
from ..weights.discovery.companions import resolve_unet_file
from ..weights.files.inspect import read_header
from ..weights.infer_shapes import nova3d_metadata
from ..weights.save import save_nova3d
from .checkpoint import AVERAGE, WEIGHTS, CheckpointState, check_tensors_match, checkpoints_in, read_state
from .config import TrainConfig
from .tensor_files import read_tensors
from .train_module import TrainModule, build_train_module

FORMATS = ("float16", "bfloat16", "float32")


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """The network of a checkpoint, with its averaged weights."""

    trainee: TrainModule
    """The parts, in float32 on the CPU."""
    config: TrainConfig
    """The run's settings."""
    state: CheckpointState
    """How far the run had come."""


def check_can_export(
    path: Path, dtype: str, overwrite: bool, inputs: Collection[Path | None] = ()
) -> None:
    """Raises InputError if the file cannot be written, before long work."""
    check_choice("--dtype", dtype, FORMATS)
    if path.suffix != ".safetensors":
        raise InputError(f"{path} must end in .safetensors to be saved as a model.")
    check_can_write_file(path, overwrite, inputs)


def load_trained(output: Path | str, average: bool = True, progress: Progress = SILENT) -> TrainedModel:
    """The network of a run's newest checkpoint; the run itself may go on meanwhile.

    Args:
        output: the run's folder.
        average: with the moving average of the weights, or with the weights themselves.
        progress: told while a file that the run started from is read.

    Raises:
        InputError: no checkpoint, or a damaged one; the file that it started from is gone.
    """
    found = checkpoints_in(Path(output))
    if not found:
        raise InputError(f"{output} holds no checkpoint.", "Train there first.")
    state = read_state(found[-1])
    config = config_from_dict(state.config, TrainConfig, f"the settings of {found[-1]}")
    trainee = build_train_module(config, progress)
    weights = read_tensors(found[-1] / WEIGHTS)
    check_tensors_match(found[-1] / WEIGHTS, weights, trainee.state_dict())
    if average:
        weights |= read_tensors(found[-1] / AVERAGE)
    trainee.load_state_dict(weights)
    return TrainedModel(trainee.requires_grad_(False).eval(), config, state)


def export_run(
    output: Path | str,
    path: Path,
    dtype: str = "float16",
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> TrainedModel:
    """Writes the moving average of a run's weights as one .safetensors file.

    Args:
        output: the run's folder; its newest checkpoint is taken.
        path: the file to write.
        dtype: number format of the weights.
        overwrite: replace a file that is there already.
        progress: told of each tensor.

    Returns:
        What was written, in that number format.
    """
    check_can_export(path, dtype, overwrite)
    trained = load_trained(output, progress=progress)
    model = trained.trainee.model(str(path))
    for part in (model.unet, model.image_encoder, model.codec):
        if isinstance(part, nn.Module):
            part.to(getattr(torch, dtype))
    save_nova3d(model, path, note=_note(trained), overwrite=overwrite, progress=progress)
    return trained


def _note(trained: TrainedModel) -> str:
    """Where the weights come from, for the file's metadata."""
    place = trained.state.place
    document: dict[str, Any] = {
        "trained": {
            "steps": place.step,
            "objects": place.objects,
            "hours": round(place.seconds / 3600.0, 2),
        },
        "changes": trained.state.notes,
        "settings": trained.state.config,
    }
    if trained.config.start:
        start = resolve_unet_file(resolve_model_file(trained.config.start))
        said = nova3d_metadata(read_header(start).metadata, str(start))
        document["started_from"] = {"file": start.name, "note": _as_table(said.get("note", ""))}
    return json.dumps(document)


def _as_table(note: str) -> Any:
    """An older note of ours as the table that it is, any other as its text."""
    try:
        return parse_json(note, "note")
    except InputError:
        return note
