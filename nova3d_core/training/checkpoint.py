"""Checkpoints: written atomically, the newest few kept, with everything an exact resume needs.

They hold no random state: all random numbers follow from seed, step and object (`step_rng`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..io.files.atomic import atomic_folder
from ..io.files.json_text import read_json
from ..io.settings import config_from_dict
from .dtensor import shard_like
from .ema import Ema
from .tensor_files import read_tensors, write_tensors

FOLDER = "checkpoints"
STATE, WEIGHTS, EMA_WEIGHTS, OPTIMISER = (
    "state.json", "weights.safetensors", "ema.safetensors", "optimiser.safetensors"
)  # fmt: skip
FILES = (STATE, WEIGHTS, EMA_WEIGHTS, OPTIMISER)
VERSION = 1
_STEP = "step-"


@dataclass
class TrainProgress:
    """Counters of a run."""

    step: int = 0
    """Steps done, including skipped ones."""
    skipped: int = 0
    """Steps skipped because loss or gradient was not finite."""
    consecutive_skips: int = 0
    """Steps skipped since the last successful one."""
    objects: int = 0
    """Objects processed, over all processes."""
    seconds: float = 0.0
    """Time spent in steps."""


@dataclass(frozen=True)
class CheckpointState:
    """A checkpoint's content besides tensors."""

    config: dict[str, Any]
    """Settings of the run."""
    progress: TrainProgress
    """Counters of the run."""
    world_size: int
    """Number of processes."""
    data: dict[str, Any]
    """State of the data stream, independent of the number of processes."""
    ema_updates: int
    """Updates of the EMA."""
    version: int = VERSION
    """Version of the checkpoint's layout."""
    notes: list[str] = field(default_factory=list)
    """What changed when the run was resumed."""


def checkpoints_in(output: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    folder = output / FOLDER
    found = folder.glob(f"{_STEP}*/{STATE}") if folder.is_dir() else []
    return sorted((path.parent for path in found), key=lambda path: int(path.name[len(_STEP) :]))


def write_checkpoint(
    output: Path,
    state: CheckpointState,
    module: nn.Module,
    ema: Ema,
    optimiser: torch.optim.Optimizer,
    keep: int,
    main: bool = True,
) -> Path:
    """Writes a checkpoint, then deletes the oldest ones.

    It holds full tensors, however they are sharded, so a run can resume with another number of
    processes or another launcher.

    Args:
        output: folder of the run.
        state: content besides tensors.
        module: its weights are saved.
        ema: their EMA.
        optimiser: its state is saved.
        keep: number of checkpoints to keep, including this one.
        main: whether this process writes; the others only take part in gathering shards.

    Returns:
        Folder of the checkpoint.

    Raises:
        InputError: the disk is full or not writable; earlier checkpoints are untouched.
    """
    path = output / FOLDER / f"{_STEP}{state.progress.step:08d}"
    files = {
        WEIGHTS: module.state_dict(),
        EMA_WEIGHTS: ema.weights,
        OPTIMISER: optimiser_tensors(module, optimiser),
    }
    if not main:
        for tensors in files.values():
            write_tensors(None, tensors)
        return path
    pending = dict(files)
    try:
        with atomic_folder(path, overwrite=True, replaces=FILES) as folder:
            for name in files:
                write_tensors(folder / name, pending.pop(name))
            text = json.dumps(asdict(state), indent=1)
            (folder / STATE).write_text(text, encoding="utf-8")
    except Exception:  # the other processes still wait to gather the rest
        for tensors in pending.values():
            write_tensors(None, tensors)
        raise
    prune_checkpoints(output, keep)
    return path


def prune_checkpoints(output: Path, keep: int) -> None:
    """Deletes all but the newest checkpoints, and incomplete ones of a killed process."""
    for old in checkpoints_in(output)[:-keep]:
        (old / STATE).unlink()  # without it, the folder is no checkpoint
        shutil.rmtree(old, ignore_errors=True)
    for folder in (output / FOLDER).glob(f"{_STEP}*"):
        if not (folder / STATE).exists():  # a process was killed while deleting it
            shutil.rmtree(folder, ignore_errors=True)


def read_state(path: Path) -> CheckpointState:
    """Reads a checkpoint's content besides tensors.

    Raises:
        InputError: it is damaged, or of a newer layout.
    """
    try:
        document = read_json(path / STATE)
        version = document.get("version") if isinstance(document, dict) else None
        newer = isinstance(version, int) and version > VERSION
        state = None if newer else config_from_dict(document, CheckpointState, STATE)
    except InputError as error:
        raise InputError(
            f"checkpoint {path} is damaged: {error.message}",
            "Delete its folder to resume from the previous checkpoint.",
        ) from error
    if state is None:
        raise InputError(f"checkpoint {path} was written by a newer version of this package.")
    return state


def load_checkpoint(
    path: Path,
    state: CheckpointState,
    module: nn.Module,
    ema: Ema,
    optimiser: torch.optim.Optimizer,
) -> None:
    """Loads a checkpoint's tensors into module, EMA and optimiser.

    Raises:
        InputError: a file is missing or damaged, or belongs to another network.
    """
    weights, average = read_tensors(path / WEIGHTS), read_tensors(path / EMA_WEIGHTS)
    current = module.state_dict()
    check_tensors_match(path / WEIGHTS, weights, current)
    check_tensors_match(path / EMA_WEIGHTS, average, ema.weights)
    module.load_state_dict({name: shard_like(weights[name], current[name]) for name in current})
    ema.load(average, state.ema_updates)
    load_optimiser(path / OPTIMISER, read_tensors(path / OPTIMISER), module, optimiser)


def check_tensors_match(
    path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> None:
    """Raises InputError unless a file has exactly the tensors that a network needs."""
    for name in dict.fromkeys([*expected, *found]):
        actual = tuple(found[name].shape) if name in found else None
        required = tuple(expected[name].shape) if name in expected else None
        if actual != required:
            raise InputError(
                f"{path} belongs to another network: '{name}' is {actual or 'absent'} there, "
                f"{required or 'absent'} here."
            )


def optimiser_tensors(module: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state by kind and name of the weight: `exp_avg.unet.out.2.bias`."""
    return {
        f"{kind}.{name}": torch.as_tensor(value)
        for name, weight in module.named_parameters()
        for kind, value in optimiser.state.get(weight, {}).items()
    }


def load_optimiser(
    path: Path, tensors: Mapping[str, Tensor], module: nn.Module, optimiser: torch.optim.Optimizer
) -> None:
    """Loads the tensors of `optimiser_tensors` into an optimiser."""
    weights = dict(module.named_parameters())
    trained = [weight for group in optimiser.param_groups for weight in group["params"]]
    number = {id(weight): index for index, weight in enumerate(trained)}
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        kind, name = key.split(".", 1)
        if name not in weights or id(weights[name]) not in number:
            raise InputError(f"{path} belongs to another network: it has '{name}'.")
        weight = weights[name]
        value = shard_like(value, weight) if value.dim() else value
        state.setdefault(number[id(weight)], {})[kind] = value.clone()
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})
