"""The training loop."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..diffusion.families import SCENE_FAMILY
from ..diffusion.model import OneDevice
from ..errors import Cancelled, InputError, StageError
from ..io.images.images import write_image
from ..progress import SILENT, Progress
from .checkpoint import CheckpointState, TrainProgress, write_checkpoint
from .config import TrainConfig
from .data.batches import (
    ImageBatch,
    LatentBatch,
    check_orbits,
    collate_images,
    collate_latents,
    has_latents,
)
from .data.prefetch import BatchPrefetcher
from .data.stream import ObjectStream
from .dispatch import make_objective, validation_of
from .dtensor import full_tensor, has_sharded_weights
from .ema import Ema
from .launch import accumulate, all_processes, any_process
from .objective import COMPUTE_DTYPE
from .optimiser import scheduled_lr, set_learning_rate
from .run_logger import RunLogger, peak_memory_gib
from .scenes.data import SceneBatch, collate_scenes
from .step_rng import StepRandomness, draw_step_randomness
from .stopping import StopHandler, StopReason
from .train_module import TrainModule
from .validation import ValidationResult, ValidationSample, sample_grid

TRAINING = "training"
SAMPLE_GRIDS = "samples"


@dataclass
class _LogWindow:
    """Sums since the last entry of the log."""

    started: float = field(default_factory=time.monotonic)
    steps: int = 0
    loss: Tensor | None = None
    data_wait: float = 0.0
    grad_norm: float = 0.0


@dataclass(eq=False)
class TrainLoop:
    """Steps of a run; built by `runs.train`."""

    config: TrainConfig
    output: Path
    accelerator: Any
    module: TrainModule
    network: Any
    optimiser: Any
    ema: Ema
    source: ObjectStream
    counters: TrainProgress
    samples: Sequence[ValidationSample]
    log: RunLogger
    progress: Progress = SILENT
    notes: list[str] = field(default_factory=list)

    def run(self, stopping: StopHandler) -> StopReason:
        """Trains until the run is finished or should stop; leaves a checkpoint.

        Raises:
            StageError: too many consecutive steps with a non-finite loss; the last checkpoint is
                kept.
            InputError: the last checkpoint cannot be written.
        """
        config, steps = self.config, self.config.optimiser.steps
        count = config.optimiser.batch_size // self.accelerator.num_processes
        self._objective = make_objective(config, self.module, self.network, self.accelerator.device)
        self._window, self._saved_at = _LogWindow(), time.monotonic()
        self._saved_step = self.counters.step
        self._sharded = has_sharded_weights(self.module)
        reason: StopReason | None = "finished" if self.counters.step >= steps else None
        with BatchPrefetcher(
            self.source, count, self._collate, self.counters.step, config.data.prefetch_batches
        ) as batches:
            self._batches = batches
            while reason is None:
                self.step()
                self._run_periodic(stopping)
                reason = self._stop_reason(stopping, steps)
            self.save_checkpoint()
        return reason

    def _stop_reason(self, stopping: StopHandler, steps: int) -> StopReason | None:
        """Why the run ends after this step, if it does; the same step in all processes."""
        reason = stopping.reason
        try:
            self.progress.update(TRAINING, self.counters.step, steps)
        except Cancelled:
            reason = reason or "cancelled"
        if self.counters.step >= steps:
            return "finished"
        if any_process(self.accelerator, reason is not None):
            return reason or "terminated"
        return None

    def _collate(
        self, objects: list[dict[str, Any]], step: int
    ) -> tuple[ImageBatch | LatentBatch | SceneBatch, StepRandomness]:
        """The batch of a step and all its random numbers."""
        family, config, codec = self.module.family, self.config, self.module.codec
        start = self.accelerator.process_index * len(objects)
        size_px = config.data.size_px
        side = size_px // codec.factor
        shape = (len(family.domains), family.views, codec.latent_channels, side, side)
        indices = range(start, start + len(objects))
        batch: ImageBatch | LatentBatch | SceneBatch
        if config.family == SCENE_FAMILY.name:
            most = config.scene.max_sources
            batch = collate_scenes(objects, indices, config.seed, step, most)
        else:
            if has_latents(objects):
                batch = collate_latents(objects, shape)
            else:
                batch = collate_images(objects, family.views, size_px)
            check_orbits(objects, family)
        target = family.noise_aug_target
        return batch, draw_step_randomness(config.seed, step, indices, shape, size_px, target)

    def step(self) -> None:
        """One optimiser step, skipped if loss or gradient is not finite."""
        started = time.monotonic()
        batch, randomness = self._batches.next()
        self._window.data_wait += time.monotonic() - started
        config = self.config.optimiser
        set_learning_rate(self.optimiser, scheduled_lr(config, self.counters.step))
        loss, grad_norm = self._backward(batch, randomness)
        finite = all_processes(self.accelerator, grad_norm is not None)
        if finite:
            self.optimiser.step()
            self.ema.update()
        self.optimiser.zero_grad(set_to_none=True)
        self.counters.step += 1
        self.counters.objects += config.batch_size
        self.counters.seconds += time.monotonic() - started
        self._count(finite, loss, grad_norm)

    def _backward(
        self, batch: ImageBatch | LatentBatch, randomness: StepRandomness
    ) -> tuple[Tensor, float | None]:
        """Accumulates and clips the gradient of a batch.

        Returns:
            Losses (D,), and the gradient's norm, None if loss or gradient is not finite.
        """
        config, count = self.config.optimiser, len(batch)
        total: Tensor | None = None
        for start in range(0, count, config.micro_batch_size):
            end = min(start + config.micro_batch_size, count)
            with accumulate(self.accelerator, self.network, end == count):
                part = batch.slice(start, end), randomness.slice(start, end)
                losses, _ = self._objective.losses(*part, self.counters.step)  # (D, b)
                loss = self._objective.total(losses).sum() / count
                if not all_processes(self.accelerator, bool(torch.isfinite(loss))):
                    return losses.detach().mean(dim=1), None
                self.accelerator.backward(loss)
            partial = losses.detach().sum(dim=1) / count  # (D,)
            total = partial if total is None else total + partial
        norm = self.accelerator.clip_grad_norm_(self.network.parameters(), config.max_grad_norm)
        norm = float(full_tensor(torch.as_tensor(norm)))
        return total, norm if norm < float("inf") else None

    def _count(self, finite: bool, loss: Tensor, grad_norm: float | None) -> None:
        """Updates counters; raises StageError after too many consecutive skips."""
        counters = self.counters
        if finite:
            counters.consecutive_skips = 0
            window = self._window
            window.steps += 1
            window.grad_norm += grad_norm or 0.0
            window.loss = loss if window.loss is None else window.loss + loss
            return
        counters.skipped += 1
        counters.consecutive_skips += 1
        self.log.event("skipped", counters.step, skipped=counters.skipped)
        if counters.consecutive_skips >= self.config.run.max_consecutive_skips:
            raise StageError(
                TRAINING,
                f"the loss of {counters.consecutive_skips} consecutive steps was not finite "
                f"({counters.skipped} in total), most recently at step {counters.step}.",
                "The last checkpoint is kept; resume from it with a lower learning rate, or in "
                "float32.",
            )

    def _run_periodic(self, stopping: StopHandler) -> None:
        """Log, checkpoints, sample grids and validation, at the steps where they are due."""
        run, step = self.config.run, self.counters.step
        if step % run.log_steps == 0:
            self._write_log()
        overdue = time.monotonic() - self._saved_at >= 60.0 * run.checkpoint_minutes > 0
        due = step % run.checkpoint_steps == 0 or any_process(self.accelerator, overdue)
        if due and not self.counters.consecutive_skips:  # keep the checkpoints of good steps
            try:
                self.save_checkpoint()
            except InputError as error:  # a full disk may have space again: retry later
                self.log.event("checkpoint_failed", step, reason=error.message)
                self._saved_at = time.monotonic()
        grid = run.sample_grid_steps and step % run.sample_grid_steps == 0
        metrics = run.validation_steps and step % run.validation_steps == 0
        if self.samples and (grid or metrics):
            count = run.validation_objects if metrics else run.sample_grid_objects
            self.validate(count, stopping)

    def _write_log(self) -> None:
        window, config = self._window, self.config.optimiser
        if window.steps:
            elapsed = time.monotonic() - window.started
            losses = self.accelerator.reduce(window.loss / window.steps, "mean")  # (D,)
            total = float(self._objective.total(losses[:, None]))
            named = zip(self._objective.loss_names, losses.tolist(), strict=True)
            self.log.event(
                "train",
                self.counters.step,
                loss=total,
                **{f"loss_{name}": loss for name, loss in named},
                grad_norm=window.grad_norm / window.steps,
                learning_rate=scheduled_lr(config, self.counters.step - 1),
                objects_per_s=round(window.steps * config.batch_size / elapsed, 3),
                data_wait_fraction=round(window.data_wait / elapsed, 4),
                skipped=self.counters.skipped,
                unreadable=len(self.source.unreadable),
                hours=round(self.counters.seconds / 3600.0, 4),
                peak_memory_gib=peak_memory_gib(self.accelerator.device),
            )
        self._window = _LogWindow()

    def save_checkpoint(self) -> None:
        """Writes a checkpoint of this step, if there is none yet.

        Raises:
            InputError: it cannot be written; only in the process that writes.
        """
        if self.counters.step == self._saved_step:
            return
        started, main = time.monotonic(), self.accelerator.is_main_process
        state = CheckpointState(
            config=asdict(self.config),
            progress=self.counters,
            world_size=self.accelerator.num_processes,
            data=self._batches.data_state,
            ema_updates=self.ema.updates,
            notes=self.notes,
        )
        self._saved_at = time.monotonic()
        try:
            if main or self._sharded:
                keep = self.config.run.max_checkpoints
                write_checkpoint(
                    self.output, state, self.module, self.ema, self.optimiser, keep, main
                )
            self._saved_step = self.counters.step
        finally:
            self.accelerator.wait_for_everyone()
        seconds = round(time.monotonic() - started, 2)
        self.log.event("checkpoint", self.counters.step, seconds=seconds)

    def validate(self, count: int, stopping: StopHandler) -> None:
        """Samples held-out objects with EMA weights; logs metrics and a grid of the first ones.

        Abandoned without result if the run should stop meanwhile.
        """
        started, device = time.monotonic(), self.accelerator.device
        model = self.module.model(size_px=self.config.data.size_px)
        placement = OneDevice(model, device, COMPUTE_DTYPE[self.config.precision], keep=True)
        samples, steps = self.samples[:count], self.config.run.sampling_steps or None
        single = self.accelerator.num_processes == 1  # several processes must stay in step
        quiet = Progress(None, lambda: single and stopping.reason not in (None, "time"))
        with self.ema.average_parameters(), suppress(Cancelled):
            if self.accelerator.is_main_process or self._sharded:  # shards need all processes
                run = validation_of(self.config)
                result = run(model, samples, placement, steps, quiet)
                self._write_validation(result, samples, time.monotonic() - started)
        self.accelerator.wait_for_everyone()
        self._window.started += time.monotonic() - started

    def _write_validation(
        self, result: ValidationResult, samples: Sequence[ValidationSample], seconds: float
    ) -> None:
        metrics = {name: value for name, value in result.means.items() if value is not None}
        self.log.event(
            "validation",
            self.counters.step,
            objects=len(result.objects),
            seconds=round(seconds, 1),
            **{name: round(value, 4) for name, value in metrics.items()},
        )
        shown = min(self.config.run.sample_grid_objects, len(result.generated))
        if shown and self.accelerator.is_main_process:
            image = sample_grid(samples[:shown], result.generated[:shown])
            path = self.output / SAMPLE_GRIDS / f"{self.counters.step:08d}.png"
            write_image(path, image, overwrite=True)
            self.log.image("samples", image, self.counters.step)
