"""A training run in a folder: started, or resumed from its newest checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..io.files.atomic import atomic_file, check_parent_writable, check_usable_path
from ..io.settings import settings_to_json
from ..progress import SILENT, Progress
from .attention import choose_attention
from .checkpoint import (
    FOLDER,
    CheckpointState,
    TrainProgress,
    checkpoints_in,
    load_checkpoint,
    read_state,
)
from .config import TrainConfig, changed_settings
from .data.stream import ObjectStream
from .dispatch import build_module
from .dtensor import has_sharded_weights
from .ema import Ema
from .launch import make_accelerator
from .loop import TrainLoop
from .object_sources import batch_size_per_process, held_out_objects, make_object_stream
from .optimiser import make_optimiser
from .run_logger import RunLogger
from .stopping import StopHandler, StopReason
from .train_module import TrainModule, check_image_size, check_views_per_step

logger = logging.getLogger(__name__)

SETTINGS = "settings.json"
SourceFactory = Callable[[TrainConfig, int, int], ObjectStream]
"""Makes the stream of objects from settings, rank and number of processes."""


@dataclass(frozen=True, eq=False)
class TrainResult:
    """Result of a call of `train`."""

    reason: StopReason
    """Why it ended; the run is complete only if "finished"."""
    progress: TrainProgress
    """Counters of the run."""
    module: TrainModule
    """The module with its current weights."""
    ema: Ema
    """The EMA of its weights."""
    main: bool
    """Whether this is the process that writes files."""
    unreadable: int = 0
    """Objects that this process could not read; others were used instead."""


def train(
    config: TrainConfig,
    output: Path | str,
    minutes: float | None = None,
    *,
    cpu: bool = False,
    accept_changes: bool = False,
    progress: Progress = SILENT,
    make_source: SourceFactory = make_object_stream,
) -> TrainResult:
    """Trains in a folder; resumes from its newest checkpoint if there is one.

    Args:
        config: settings of the run.
        output: folder of the run, for checkpoints, log, curves and sample grids.
        minutes: time limit; the run ends with a checkpoint, and the next call resumes it.
        cpu: train on the CPU.
        accept_changes: resume although settings changed.
        progress: updated each step; cancellation ends the run with a checkpoint.
        make_source: makes the stream of objects.

    Raises:
        InputError: changed settings, unusable data or start file, a full disk.
        StageError: too many consecutive steps whose loss was not finite.
        MissingDependencyError: accelerate or TensorBoard is not installed.
    """
    output = Path(output)
    check_usable_path(output / FOLDER / "step-00000000")
    check_parent_writable(output / SETTINGS)
    with StopHandler(minutes) as stopping:
        accelerator = make_accelerator(cpu)
        if not accelerator.is_main_process:
            progress = SILENT
        loop = _make_loop(config, output, accelerator, accept_changes, progress, make_source)
        try:
            reason = loop.run(stopping)
        finally:
            loop.log.close()
    return TrainResult(
        reason,
        loop.counters,
        loop.module,
        loop.ema,
        accelerator.is_main_process,
        _count_unreadable(loop.source),
    )


def _make_loop(
    config: TrainConfig,
    output: Path,
    accelerator: Any,
    accept_changes: bool,
    progress: Progress,
    make_source: SourceFactory,
) -> TrainLoop:
    """The loop of a new run, or of one resumed from its newest checkpoint; see `train`."""
    world_size = accelerator.num_processes
    batch_size_per_process(config, world_size)
    found = checkpoints_in(output)
    state = read_state(found[-1]) if found else None
    notes = []
    if state is not None:
        notes = resume_notes(output, state, config, world_size, accept_changes)
    module = build_module(config, progress)
    check_image_size(module, config.data.size_px)
    check_views_per_step(module, config.data.views_per_step)
    network, optimiser = prepare(module, config, accelerator)
    _check_muon_unsharded(module, config)
    ema = Ema(module, config.optimiser.ema_decay)
    source = make_source(config, accelerator.process_index, world_size)
    if state is not None:
        load_checkpoint(found[-1], state, module, ema, optimiser)
        source.load_state_dict(state.data)
    loop = TrainLoop(
        config=config,
        output=output,
        accelerator=accelerator,
        module=module,
        network=network,
        optimiser=optimiser,
        ema=ema,
        source=source,
        counters=TrainProgress() if state is None else state.progress,
        samples=held_out_objects(config, module.family, _validation_count(config)),
        log=RunLogger(output, config.run.tensorboard, accelerator.is_main_process),
        progress=progress,
        notes=notes,
    )
    _write_start(loop, state, world_size)
    return loop


def _count_unreadable(source: ObjectStream) -> int:
    """Number of unreadable objects; logs a warning if there are any."""
    count = len(source.unreadable)
    if count:
        logger.warning(
            "%d objects of the training data could not be read, for example %s. Others were used "
            "instead.",
            count,
            next(iter(source.unreadable)),
        )
    return count


def prepare(module: TrainModule, config: TrainConfig, accelerator: Any) -> tuple[Any, Any]:
    """Network and optimiser on their device, wrapped by the launcher for several processes."""
    for part in module.children():
        if hasattr(part, "gradient_checkpointing"):
            part.gradient_checkpointing = config.gradient_checkpointing
    choose_attention(module, accelerator.device, config.precision)
    for part in module.frozen:
        part.to(accelerator.device)
    module.to(accelerator.device)
    return accelerator.prepare(module, make_optimiser(module, config.optimiser))


def _check_muon_unsharded(module: TrainModule, config: TrainConfig) -> None:
    if config.optimiser.name == "muon" and has_sharded_weights(module):
        raise InputError(
            "optimiser.name muon needs full weights in each process, but the launcher shards them.",
            "Launch with DDP, or set optimiser.name to adamw.",
        )


def resume_notes(
    output: Path, state: CheckpointState, config: TrainConfig, world_size: int, accept: bool
) -> list[str]:
    """Notes of all changes of a run so far, including those of this resumption.

    Raises:
        InputError: settings changed, and that was not accepted.
    """
    notes, since = list(state.notes), f"from step {state.progress.step} on"
    changed = changed_settings(state.config, config)
    if changed and not accept:
        raise InputError(
            f"the run in {output} was started with other settings: {'; '.join(changed)}.",
            "Choose another folder, or pass --accept-changes to resume with the new ones.",
        )
    notes += [f"{since}: {each}" for each in changed]
    if world_size != state.world_size:
        note = f"{since}: {world_size} processes instead of {state.world_size}"
        logger.warning("%s. Objects and noise stay the same; rounding differs.", note)
        notes.append(note)
    return notes


def _write_start(loop: TrainLoop, state: CheckpointState | None, world_size: int) -> None:
    """Writes the settings and the first event of the log."""
    loop.log.event(
        "started" if state is None else "resumed",
        loop.counters.step,
        processes=world_size,
        device=str(loop.accelerator.device),
        parameters=sum(weight.numel() for weight in loop.module.parameters()),
        notes=loop.notes,
    )
    if loop.accelerator.is_main_process:
        with atomic_file(loop.output / SETTINGS, overwrite=True) as temporary:
            temporary.write_text(settings_to_json(loop.config), encoding="utf-8")


def _validation_count(config: TrainConfig) -> int:
    """Number of held-out objects for sample grids and validation."""
    run = config.run
    grid = run.sample_grid_objects if run.sample_grid_steps else 0
    return max(grid, run.validation_objects if run.validation_steps else 0)
