"""The training loop: one run in one folder, ended and gone on with as often as one likes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..diffusion.model import OneDevice
from ..errors import Cancelled, InputError, StageError
from ..io.images.images import write_image
from ..progress import SILENT, Progress
from .checkpoint import TrainProgress, CheckpointState, write_checkpoint
from .config import TrainConfig
from .data.batches import ImageBatch, collate_images
from .data.latent_batches import LatentBatch, has_latents, collate_latents
from .data.prefetch import BatchPrefetcher
from .data.stream import ObjectStream
from .deepspeed_zero import is_sharded_module
from .dtensor import whole
from .ema import Ema
from .launch import any_process, all_processes, accumulate
from .objective import COMPUTE_DTYPE, Objective
from .optimiser import learning_rate, set_learning_rate
from .run_logger import RunLogger, peak_memory_gib
from .step_rng import StepRandomness, draw
from .stopping import StopReason, StopHandler
from .train_module import TrainModule
from .validation import ValidationSample, ValidationResult, sheet, validate

TRAINING = "training"
SHEETS = "sheets"


@dataclass
class _Since:
    """Sums since the last line of the log."""

    started: float = field(default_factory=time.monotonic)
    steps: int = 0
    loss: Tensor | None = None
    waited: float = 0.0
    norm: float = 0.0


@dataclass(eq=False)
class TrainLoop:
    """Takes steps; everything it needs is made by `runs.train`."""

    config: TrainConfig
    output: Path
    accelerator: Any
    trainee: TrainModule
    network: Any
    optimiser: Any
    ema: Ema
    source: ObjectStream
    place: TrainProgress
    truths: Sequence[ValidationSample]
    watch: RunLogger
    progress: Progress = SILENT
    notes: list[str] = field(default_factory=list)

    def run(self, stopping: StopHandler) -> StopReason:
        """Takes steps until the run is finished or shall end, and leaves a checkpoint.

        Raises:
            StageError: too many steps in a row had a loss that is not finite; the last checkpoint
                is kept.
            InputError: the last checkpoint cannot be written.
        """
        steps, prefetch_batches = self.config.optimiser.steps, self.config.data.prefetch_batches
        each = self.config.optimiser.batch // self.accelerator.num_processes
        self._objective = Objective(
            self.config, self.trainee, self.network, self.accelerator.device
        )
        self._since, self._kept_at, self._kept_step = _Since(), time.monotonic(), self.place.step
        self._split = is_sharded_module(self.trainee)
        reason: StopReason | None = "finished" if self.place.step >= steps else None
        with BatchPrefetcher(self.source, each, self._made, self.place.step, prefetch_batches) as feed:
            self._feed = feed
            while reason is None:
                self.step()
                self._look(stopping)
                reason = self._end(stopping, steps)
            self.keep()
        return reason

    def _end(self, stopping: StopHandler, steps: int) -> StopReason | None:
        """Why the run ends here, if it does; all processes end at the same step."""
        reason = stopping.reason
        try:
            self.progress.update(TRAINING, self.place.step, steps)
        except Cancelled:
            reason = reason or "cancelled"
        if self.place.step >= steps:
            return "finished"
        if any_process(self.accelerator, reason is not None):
            return reason or "terminated"
        return None

    def _made(self, objects: list[dict[str, Any]], step: int) -> tuple[Any, StepRandomness]:
        """A batch and all its random numbers."""
        family, config, codec = self.trainee.family, self.config, self.trainee.codec
        first = self.accelerator.process_index * len(objects)
        side = config.data.size_px // codec.factor
        shape = (len(family.domains), family.views, codec.latent_channels, side, side)
        places = range(first, first + len(objects))
        if has_latents(objects):
            batch: ImageBatch | LatentBatch = collate_latents(objects, shape)
        else:
            batch = collate_images(objects, family.views, config.data.size_px)
        return batch, draw(config.seed, step, places, shape, config.data.size_px)

    def step(self) -> None:
        """One step of the optimiser; one whose loss or gradient is not finite changes nothing."""
        asked = time.monotonic()
        batch, draws = self._feed.next()
        self._since.waited += time.monotonic() - asked
        config = self.config.optimiser
        set_learning_rate(self.optimiser, learning_rate(config, self.place.step))
        loss, norm = self._gradients(batch, draws)
        good = all_processes(self.accelerator, norm is not None)
        if good:
            self.optimiser.step()
            self.ema.update()
        self.optimiser.zero_grad(set_to_none=True)
        self.place.step += 1
        self.place.objects += config.batch
        self.place.seconds += time.monotonic() - asked
        self._count(good, loss, norm)

    def _gradients(self, batch: ImageBatch, draws: StepRandomness) -> tuple[Tensor, float | None]:
        """The losses (D,) of a batch, and its gradient's norm; None if either is not finite."""
        config, count = self.config.optimiser, len(batch)
        total: Tensor | None = None
        for first in range(0, count, config.at_once):
            last = min(first + config.at_once, count)
            with accumulate(self.accelerator, self.network, last == count):
                part = batch.part(first, last), draws.part(first, last)
                losses, _ = self._objective.losses(*part, self.place.step)  # (D, b)
                loss = losses.mean(dim=0).sum() / count
                if not all_processes(self.accelerator, bool(torch.isfinite(loss))):
                    return losses.detach().mean(dim=1), None
                self.accelerator.backward(loss)
            share = losses.detach().sum(dim=1) / count  # (D,)
            total = share if total is None else total + share
        norm = self.accelerator.clip_grad_norm_(self.network.parameters(), config.clip)
        norm = float(whole(torch.as_tensor(0.0 if norm is None else norm)))
        return total, norm if norm < float("inf") else None

    def _count(self, good: bool, loss: Tensor, norm: float | None) -> None:
        """Sums for the log; raises StageError after too many bad steps in a row."""
        place = self.place
        if good:
            place.consecutive_skips = 0
            since = self._since
            since.steps += 1
            since.norm += norm or 0.0
            since.loss = loss if since.loss is None else since.loss + loss
            return
        place.skipped += 1
        place.consecutive_skips += 1
        self.watch.event("skipped", place.step, skipped=place.skipped)
        if place.consecutive_skips >= self.config.run.bad_steps:
            raise StageError(
                TRAINING,
                f"the loss of {place.consecutive_skips} steps in a row was not finite "
                f"({place.skipped} in all), the last one step {place.step}.",
                "The last checkpoint is kept; go on from it with a lower learning rate, or in "
                "float32.",
            )

    def _look(self, stopping: StopHandler) -> None:
        """What is done now and then: the log, checkpoints, sheets, validation."""
        run, step = self.config.run, self.place.step
        if step % run.log_every == 0:
            self._log()
        due = time.monotonic() - self._kept_at >= 60.0 * run.checkpoint_minutes > 0
        wanted = step % run.checkpoint_steps == 0 or any_process(self.accelerator, due)
        if wanted and not self.place.consecutive_skips:  # a bad row must not push good ones out
            try:
                self.keep()
            except InputError as error:  # a full disk may have room again: go on, try again
                self.watch.event("not kept", step, reason=error.message)
                self._kept_at = time.monotonic()
        sheets = run.sheet_steps and step % run.sheet_steps == 0
        figures = run.validation_steps and step % run.validation_steps == 0
        if self.truths and (sheets or figures):
            self.show(run.validation_objects if figures else run.sheet_objects, stopping)

    def _log(self) -> None:
        since, config = self._since, self.config.optimiser
        if since.steps:
            took = time.monotonic() - since.started
            losses = self.accelerator.reduce(since.loss / since.steps, "mean").tolist()
            names = self.trainee.family.domains
            self.watch.event(
                "train",
                self.place.step,
                loss=sum(losses) / len(losses),
                **{f"loss_{name}": loss for name, loss in zip(names, losses, strict=True)},
                gradient=since.norm / since.steps,
                learning_rate=learning_rate(config, self.place.step - 1),
                objects_per_s=round(since.steps * config.batch / took, 3),
                waiting=round(since.waited / took, 4),
                skipped=self.place.skipped,
                unreadable=len(self.source.unreadable),
                hours=round(self.place.seconds / 3600.0, 4),
                peak_memory_gib=peak_memory_gib(self.accelerator.device),
            )
        self._since = _Since()

    def keep(self) -> None:
        """Writes a checkpoint of this step, if there is none yet.

        Raises:
            InputError: it cannot be written; only the process that writes raises it.
        """
        if self.place.step == self._kept_step:
            return
        started, main = time.monotonic(), self.accelerator.is_main_process
        state = CheckpointState(
            config=asdict(self.config),
            place=self.place,
            world=self.accelerator.num_processes,
            data=self._feed.place,
            updates=self.ema.updates,
            notes=self.notes,
        )
        self._kept_at = time.monotonic()
        try:
            if main or self._split:
                write_checkpoint(
                    self.output, state, self.trainee, self.ema, self.optimiser,
                    self.config.run.checkpoints, main,
                )  # fmt: skip
            self._kept_step = self.place.step
        finally:
            self.accelerator.wait_for_everyone()
        self.watch.event("kept", self.place.step, seconds=round(time.monotonic() - started, 2))

    def show(self, objects: int, stopping: StopHandler) -> None:
        """Paints held-out objects with the averaged weights: figures, and a sheet of the first.

        Nothing comes of it if the run shall end before it is done.
        """
        started, device = time.monotonic(), self.accelerator.device
        model = self.trainee.model()
        placement = OneDevice(model, device, COMPUTE_DTYPE[self.config.precision], keep=True)
        truths, steps = self.truths[:objects], self.config.run.sampling_steps or None
        alone = self.accelerator.num_processes == 1  # several must not part ways
        quiet = Progress(None, lambda: alone and stopping.reason not in (None, "time"))
        with self.ema.average_parameters(), suppress(Cancelled):
            if self.accelerator.is_main_process or self._split:  # split weights need all processes
                found = validate(model, truths, placement, steps, quiet)
                self._show(found, truths, time.monotonic() - started)
        self.accelerator.wait_for_everyone()
        self._since.started += time.monotonic() - started

    def _show(self, found: ValidationResult, truths: Sequence[ValidationSample], seconds: float) -> None:
        figures = {name: value for name, value in found.means.items() if value is not None}
        self.watch.event(
            "validation",
            self.place.step,
            objects=len(found.objects),
            seconds=round(seconds, 1),
            **{name: round(value, 4) for name, value in figures.items()},
        )
        shown = min(self.config.run.sheet_objects, len(found.painted))
        if shown and self.accelerator.is_main_process:
            image = sheet(truths[:shown], found.painted[:shown])
            path = self.output / SHEETS / f"{self.place.step:08d}.png"
            write_image(path, image, overwrite=True)
            self.watch.image("samples", image, self.place.step)
