"""Checkpoints: whole or not at all, the newest few kept, everything that an exact resume needs.

Random numbers need no place in a checkpoint: they follow from seed, step and object (`draws`).
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
from .deepspeed_zero import give_moments_to_zero, give_weights_to_zero, is_of_zero, moments_of_zero
from .dtensor import shard_like
from .ema import Ema
from .tensor_files import read_tensors, write_tensors

FOLDER = "checkpoints"
STATE, WEIGHTS, AVERAGE, OPTIMISER = (
    "state.json", "weights.safetensors", "average.safetensors", "optimiser.safetensors"
)  # fmt: skip
FILES = (STATE, WEIGHTS, AVERAGE, OPTIMISER)
VERSION = 1
_STEP = "step-"


@dataclass
class TrainProgress:
    """How far a run has come."""

    step: int = 0
    """Steps done, skipped ones included."""
    skipped: int = 0
    """Steps whose loss or gradient was not finite; they changed no weight."""
    consecutive_skips: int = 0
    """Of these, the last ones without a good one between."""
    objects: int = 0
    """Objects seen, over all processes."""
    seconds: float = 0.0
    """Time spent in steps."""


@dataclass(frozen=True)
class CheckpointState:
    """What a checkpoint keeps beside tensors."""

    config: dict[str, Any]
    """The run's settings."""
    place: TrainProgress
    """How far it has come."""
    world: int
    """Processes that worked together."""
    data: dict[str, Any]
    """Place in the data, the same for any number of processes."""
    updates: int
    """Updates of the moving average."""
    version: int = VERSION
    """Of the checkpoint's layout."""
    notes: list[str] = field(default_factory=list)
    """What changed when the run went on."""


def checkpoints_in(output: Path) -> list[Path]:
    """The checkpoints of a run's folder, the newest last."""
    folder = output / FOLDER
    found = folder.glob(f"{_STEP}*/{STATE}") if folder.is_dir() else []
    return sorted((path.parent for path in found), key=lambda path: int(path.name[len(_STEP) :]))


def write_checkpoint(
    output: Path,
    state: CheckpointState,
    module: nn.Module,
    ema: Ema,
    optimiser: torch.optim.Optimizer,
    kept: int,
    main: bool = True,
) -> Path:
    """Writes a checkpoint beside the earlier ones; only then the oldest go.

    It holds whole tensors, however they are split over processes, so a run can go on with another
    number of processes or another launcher.

    Args:
        output: the run's folder.
        state: what is kept beside tensors.
        module: the weights.
        ema: their moving average.
        optimiser: its moments.
        kept: number of checkpoints to keep, this one included.
        main: whether this process writes; the others only hand over their parts.

    Returns:
        Its folder.

    Raises:
        InputError: the disk is full or cannot be written; earlier checkpoints are untouched.
    """
    path = output / FOLDER / f"{_STEP}{state.place.step:08d}"
    parts = {
        WEIGHTS: module.state_dict(), AVERAGE: ema.weights, OPTIMISER: named_moments(module, optimiser)
    }  # fmt: skip
    if not main:
        for tensors in parts.values():
            write_tensors(None, tensors)
        return path
    waiting = dict(parts)
    try:
        with atomic_folder(path, overwrite=True, replaces=FILES) as folder:
            for name in parts:
                write_tensors(folder / name, waiting.pop(name))
            text = json.dumps(asdict(state), indent=1)
            (folder / STATE).write_text(text, encoding="utf-8")
    except Exception:  # the other processes still wait to hand over the rest
        for tensors in waiting.values():
            write_tensors(None, tensors)
        raise
    prune_checkpoints(output, kept)
    return path


def prune_checkpoints(output: Path, kept: int) -> None:
    """Deletes all but the newest checkpoints, and what a killed process left half-written."""
    for old in checkpoints_in(output)[:-kept]:
        (old / STATE).unlink()  # from here on it is none
        shutil.rmtree(old, ignore_errors=True)
    for half in (output / FOLDER).glob(f"{_STEP}*"):
        if not (half / STATE).exists():  # a killed process had begun to delete it
            shutil.rmtree(half, ignore_errors=True)


def read_state(path: Path) -> CheckpointState:
    """What a checkpoint keeps beside tensors.

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
            "Delete its folder to go on from the checkpoint before it.",
        ) from error
    if state is None:
        raise InputError(f"checkpoint {path} was written by a newer version of this package.")
    return state


def load_checkpoint(
    path: Path, state: CheckpointState, module: nn.Module, ema: Ema, optimiser: torch.optim.Optimizer
) -> None:
    """Puts a checkpoint's tensors into a module, its average and its optimiser.

    Raises:
        InputError: a file is missing or damaged, or belongs to another network.
    """
    weights, average = read_tensors(path / WEIGHTS), read_tensors(path / AVERAGE)
    own = module.state_dict()
    check_tensors_match(path / WEIGHTS, weights, own)
    check_tensors_match(path / AVERAGE, average, ema.weights)
    module.load_state_dict({name: shard_like(weights[name], own[name]) for name in own})
    give_weights_to_zero(module)
    ema.load(average, state.updates)
    load_optimiser(path / OPTIMISER, read_tensors(path / OPTIMISER), module, optimiser)


def check_tensors_match(path: Path, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raises InputError unless a file has just the tensors that a network needs."""
    for name in dict.fromkeys([*wanted, *found]):
        have = tuple(found[name].shape) if name in found else None
        want = tuple(wanted[name].shape) if name in wanted else None
        if have != want:
            raise InputError(
                f"{path} belongs to another network: '{name}' is {have or 'absent'} there, "
                f"{want or 'absent'} here."
            )


def named_moments(module: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimiser's tensors by the name of their weight: `exp_avg.unet.out.2.bias`."""
    if any(is_of_zero(weight) for weight in module.parameters()):
        return dict(moments_of_zero(module, optimiser))
    named = {}
    for name, weight in module.named_parameters():
        for key, value in optimiser.state.get(weight, {}).items():
            named[f"{key}.{name}"] = torch.as_tensor(value)
    return named


def load_optimiser(
    path: Path, named: Mapping[str, Tensor], module: nn.Module, optimiser: torch.optim.Optimizer
) -> None:
    """Gives the optimiser the tensors that `named_moments` took from it."""
    if any(is_of_zero(weight) for weight in module.parameters()):
        give_moments_to_zero(module, optimiser, dict(named))
        return
    weights = dict(module.named_parameters())
    held = [weight for group in optimiser.param_groups for weight in group["params"]]
    number = {id(weight): index for index, weight in enumerate(held)}
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in named.items():
        kind, name = key.split(".", 1)
        if name not in weights or id(weights[name]) not in number:
            raise InputError(f"{path} belongs to another network: it has '{name}'.")
        weight = weights[name]
        whole_or_part = shard_like(value, weight) if value.dim() else value
        state.setdefault(number[id(weight)], {})[kind] = whole_or_part.clone()
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})
