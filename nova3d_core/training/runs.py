"""A training run in a folder: started, or gone on with from its newest checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import InputError
from ..io.files.atomic import atomic_file, check_usable_path, check_parent_writable
from ..io.settings import settings_to_json
from ..progress import SILENT, Progress
from .attention import choose_attention
from .checkpoint import FOLDER, TrainProgress, CheckpointState, checkpoints_in, load_checkpoint, read_state
from .config import TrainConfig, changed_settings
from .data.object_sources import batch_size_per_process, held_out_objects, make_object_stream
from .data.stream import ObjectStream
from .deepspeed_zero import is_sharded_module
from .ema import Ema
from .launch import make_accelerator
from .loop import TrainLoop
from .optimiser import make_optimiser
from .run_logger import RunLogger
from .stopping import StopReason, StopHandler
from .train_module import TrainModule, check_image_size, build_train_module

logger = logging.getLogger(__name__)

SETTINGS = "settings.json"


@dataclass(frozen=True, eq=False)
class TrainResult:
    """How a call of `train` ended."""

    reason: StopReason
    """Why it ended; only "finished" means that the run is over."""
    place: TrainProgress
    """How far the run has come."""
    trainee: TrainModule
    """The network as it is."""
    ema: Ema
    """The moving average of its weights."""
    main: bool
    """Whether this is the process that writes files."""
    unreadable: int = 0
    """Objects of the data that this process could not read; others came in their places."""


def train(
    config: TrainConfig,
    output: Path | str,
    minutes: float | None = None,
    *,
    cpu: bool = False,
    accept_changes: bool = False,
    progress: Progress = SILENT,
    make_source: Callable[[TrainConfig, int, int], ObjectStream] = make_object_stream,
) -> TrainResult:
    """Trains in a folder, from its newest checkpoint on if there is one.

    Args:
        config: the run's settings.
        output: the run's folder; it gets checkpoints, a log, curves and sheets of samples.
        minutes: end after so many, with a checkpoint; the next call goes on.
        cpu: compute on the CPU.
        accept_changes: go on though settings changed.
        progress: told of each step; a cancel ends the run with a checkpoint.
        make_source: gives objects for settings, rank and number of processes.

    Raises:
        InputError: settings that changed, data or a start that cannot be used, a full disk.
        StageError: too many steps in a row whose loss was not finite.
        MissingDependencyError: accelerate or TensorBoard is not installed.
    """
    output = Path(output)
    check_usable_path(output / FOLDER / "step-00000000")
    check_parent_writable(output / SETTINGS)
    with StopHandler(minutes) as stopping:
        accelerator = make_accelerator(config.optimiser, cpu)
        world = accelerator.num_processes
        if not accelerator.is_main_process:
            progress = SILENT
        batch_size_per_process(config, world)
        found = checkpoints_in(output)
        state = read_state(found[-1]) if found else None
        notes = [] if state is None else changes(output, state, config, world, accept_changes)
        trainee = build_train_module(config, progress)
        check_image_size(trainee, config.data.size_px)
        network, optimiser = prepared(trainee, config, accelerator)
        _refuse_parts_for_muon(trainee, config)
        ema = Ema(trainee, config.optimiser.ema_decay)
        source = make_source(config, accelerator.process_index, world)
        if state is not None:
            load_checkpoint(found[-1], state, trainee, ema, optimiser)
            source.load_state_dict(state.data)
        place = TrainProgress() if state is None else state.place
        loop = TrainLoop(
            config, output, accelerator, trainee, network, optimiser, ema, source, place,
            held_out_objects(config, trainee.family, _shown(config)),
            RunLogger(output, config.run.tensorboard, accelerator.is_main_process),
            progress, notes,
        )  # fmt: skip
        _begin(loop, state, world)
        try:
            reason = loop.run(stopping)
        finally:
            loop.watch.close()
    return TrainResult(reason, place, trainee, ema, accelerator.is_main_process, _lost_objects(source))


def _lost_objects(source: ObjectStream) -> int:
    """How many objects could not be read, which is also said."""
    count = len(source.unreadable)
    if count:
        logger.warning(
            "%d objects of the training data could not be read, the first: %s. Others were taken "
            "in their places.",
            count,
            next(iter(source.unreadable)),
        )
    return count


def prepared(trainee: TrainModule, config: TrainConfig, accelerator: Any) -> tuple[Any, Any]:
    """Network and optimiser on their device, wrapped for several processes where there are some."""
    trainee.unet.gradient_checkpointing = config.gradient_checkpointing
    if config.channels_last:
        channels_last(trainee.unet)
    choose_attention(trainee.unet, accelerator.device, config.precision)
    for part in (trainee.codec, trainee.image_encoder):
        part.to(accelerator.device)
    trainee.to(accelerator.device)
    if config.compiled:
        trainee.unet.compile()
    return accelerator.prepare(trainee, make_optimiser(trainee, config.optimiser))


def _refuse_parts_for_muon(trainee: TrainModule, config: TrainConfig) -> None:
    if config.optimiser.method == "muon" and is_sharded_module(trainee):
        raise InputError(
            "optimiser.method muon needs whole weights in each process, but the launcher splits "
            "them.",
            "Launch with DDP, or set optimiser.method to adamw.",
        )


def channels_last(network: nn.Module) -> None:
    """Puts the weights of convolutions into the order that some kernels like better."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for weight in network.parameters():
        if weight.dim() in formats:
            weight.data = weight.data.contiguous(memory_format=formats[weight.dim()])


def changes(output: Path, state: CheckpointState, config: TrainConfig, world: int, accept: bool) -> list[str]:
    """What is different from before, as notes that the run keeps.

    Raises:
        InputError: settings differ, and that was not accepted.
    """
    notes, where = list(state.notes), f"from step {state.place.step} on"
    different = changed_settings(state.config, config)
    if different and not accept:
        raise InputError(
            f"the run in {output} was started with other settings: {'; '.join(different)}.",
            "Name another folder, or pass --accept-changes to go on with the new ones.",
        )
    notes += [f"{where}: {each}" for each in different]
    if world != state.world:
        note = f"{where}: {world} processes instead of {state.world}"
        logger.warning(
            "%s. The same objects and noise are learnt from; sums are rounded differently.", note
        )
        notes.append(note)
    return notes


def _begin(loop: TrainLoop, state: CheckpointState | None, world: int) -> None:
    """The run's settings in its folder, and the first line of the log."""
    kind = "started" if state is None else "resumed"
    weights = sum(weight.numel() for weight in loop.trainee.parameters())
    loop.watch.event(
        kind,
        loop.place.step,
        processes=world,
        device=str(loop.accelerator.device),
        weights=weights,
        notes=loop.notes,
    )
    if loop.accelerator.is_main_process:
        path = loop.output / SETTINGS
        with atomic_file(path, overwrite=True) as part:
            part.write_text(settings_to_json(loop.config), encoding="utf-8")


def _shown(config: TrainConfig) -> int:
    """Held-out objects that the run looks at."""
    run = config.run
    sheets = run.sheet_objects if run.sheet_steps else 0
    return max(sheets, run.validation_objects if run.validation_steps else 0)
