"""Exports a run's EMA weights as a model file."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..checks import check_choice
from ..errors import InputError
from ..io.files.atomic import check_can_write_file
from ..io.files.json_text import parse_json
from ..io.settings import config_from_dict
from ..progress import SILENT, Progress
from ..reconstruction.save import save_reconstruction
from ..recursion.model import RecursiveModel
from ..weights.discovery.built_in import resolve_model_file
from ..weights.discovery.companions import resolve_unet_file
from ..weights.files.inspect import read_header
from ..weights.infer_shapes import nova3d_metadata
from ..weights.save import save_nova3d
from .checkpoint import (
    EMA_WEIGHTS,
    WEIGHTS,
    CheckpointState,
    check_tensors_match,
    checkpoints_in,
    read_state,
)
from .config import TrainConfig
from .dispatch import JOINT_FAMILY, build_module
from .tensor_files import read_tensors
from .train_module import TrainModule

EXPORT_DTYPES = ("float16", "bfloat16", "float32")


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """The module of a checkpoint, with EMA weights."""

    module: TrainModule
    """In float32 on the CPU."""
    config: TrainConfig
    """Settings of the run."""
    state: CheckpointState
    """State of the checkpoint."""


def check_can_export(
    path: Path, dtype: str, overwrite: bool, inputs: Collection[Path | None] = ()
) -> None:
    """Raises InputError if the file cannot be written; a check before long work."""
    check_choice("--dtype", dtype, EXPORT_DTYPES)
    if path.suffix != ".safetensors":
        raise InputError(f"{path} must end in .safetensors to be saved as a model.")
    check_can_write_file(path, overwrite, inputs)


def load_trained(
    output: Path | str, average: bool = True, progress: Progress = SILENT
) -> TrainedModel:
    """Loads a run's newest checkpoint; the run may continue meanwhile.

    Args:
        output: folder of the run.
        average: load EMA weights instead of the plain ones.
        progress: updated while the run's start file is read.

    Raises:
        InputError: no checkpoint, or a damaged one; the run's start file is missing.
    """
    found = checkpoints_in(Path(output))
    if not found:
        raise InputError(f"{output} contains no checkpoint.", "Train there first.")
    state = read_state(found[-1])
    config = config_from_dict(state.config, TrainConfig, f"the settings of {found[-1]}")
    module = build_module(config, progress)
    weights = read_tensors(found[-1] / WEIGHTS)
    check_tensors_match(found[-1] / WEIGHTS, weights, module.state_dict())
    if average:
        weights |= read_tensors(found[-1] / EMA_WEIGHTS)
    module.load_state_dict(weights)
    return TrainedModel(module.requires_grad_(False).eval(), config, state)


def export_run(
    output: Path | str,
    path: Path,
    dtype: str = "float16",
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> TrainedModel:
    """Writes a run's EMA weights as one .safetensors file, those of a pair as two.

    Args:
        output: folder of the run; its newest checkpoint is used.
        path: the file to write.
        dtype: dtype of the weights.
        overwrite: replace an existing file.
        progress: updated for each tensor.

    Returns:
        The exported model, in that dtype.
    """
    check_can_export(path, dtype, overwrite)
    trained = load_trained(output, progress=progress)
    if trained.config.family == JOINT_FAMILY:
        check_can_write_file(reconstruction_file(path), overwrite, ())
    model = trained.module.model(str(path), trained.config.data.size_px)
    for name in model.parts:
        model.part(name).to(getattr(torch, dtype))
    note = _note(trained)
    save_nova3d(model, path, note=note, overwrite=overwrite, progress=progress)
    if isinstance(model, RecursiveModel):
        save_reconstruction(
            model.reconstruction.network,
            reconstruction_file(path),
            size_px=model.reconstruction.family.size_px,
            note=note,
            overwrite=overwrite,
            progress=progress,
        )
    return trained


def reconstruction_file(path: Path) -> Path:
    """The second file of a pair that is exported to a path."""
    return path.with_name(f"{path.stem}.reconstruction.safetensors")


def _note(trained: TrainedModel) -> str:
    """Provenance of the weights, for the file's metadata."""
    progress = trained.state.progress
    document: dict[str, Any] = {
        "trained": {
            "steps": progress.step,
            "objects": progress.objects,
            "hours": round(progress.seconds / 3600.0, 2),
        },
        "changes": trained.state.notes,
        "settings": trained.state.config,
    }
    if trained.config.start:
        start = resolve_unet_file(resolve_model_file(trained.config.start))
        metadata = nova3d_metadata(read_header(start).metadata, str(start))
        document["started_from"] = {
            "file": start.name,
            "note": _parse_note(metadata.get("note", "")),
        }
    return json.dumps(document)


def _parse_note(note: str) -> Any:
    """A note of ours as its JSON object, any other as text."""
    try:
        return parse_json(note, "note")
    except InputError:
        return note
