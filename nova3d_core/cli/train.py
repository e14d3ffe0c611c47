"""`train`: a network, started or gone on with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from ..progress import Progress
from .console import print_json, print_out

if TYPE_CHECKING:
    from ..training.config import TrainConfig
    from ..training.runs import TrainResult

ENDS = {
    "finished": "the run is finished",
    "time": "its minutes are up",
    "terminated": "it was told to end",
    "interrupted": "it was interrupted",
    "cancelled": "it was cancelled",
}


@dataclass(frozen=True)
class Train:
    """Train a model; the same command goes on with a run that was stopped."""

    config: Positional[str]
    """Settings: mini or nova3d, or a .json or .toml file."""
    output: Annotated[Path, arg(aliases=("-o",), metavar="DIR")]
    """The run's folder: checkpoints, log, curves, sheets of samples."""
    minutes: float | None = None
    """End after so many minutes, with a checkpoint."""
    data: tuple[str, ...] = ()
    """Shards to learn from, instead of what the settings name: files, or folders of .tar files."""
    held_out: tuple[str, ...] = ()
    """Shards for validation, instead of what the settings name."""
    start: str | None = None
    """A model's file to start from, instead of what the settings name."""
    seed: int | None = None
    """Start of every random number, instead of the settings' own."""
    steps: int | None = None
    """Length of the run, instead of the settings' own; the noise and the learning rate follow."""
    device: str = "auto"
    """cpu, or auto: what the machine has."""
    accept_changes: bool = False
    """Go on with a run though its settings changed."""
    export: Path | None = None
    """When this ends, also write the averaged weights as a model's file (.safetensors)."""
    dtype: str = "float16"
    """Number format of the exported weights: float16, bfloat16 or float32."""
    overwrite: bool = False
    """Replace the exported file if it is there already."""
    json: bool = False
    """Say the result as JSON."""

    def run(self, progress: Progress) -> None:
        """Trains, and says how far it came."""
        from ..checks import check_bounds
        from ..errors import Cancelled
        from ..training.export import check_can_export, export_run
        from ..training.runs import train

        check_bounds(self, "option", minutes=(0.0, 1e6))
        config = self._config()
        if self.export is not None:
            inputs = (None if config.start is None else Path(config.start),)
            check_can_export(self.export, self.dtype, self.overwrite, inputs)
        outcome = train(
            config,
            self.output,
            self.minutes,
            cpu=self.device == "cpu",
            accept_changes=self.accept_changes,
            progress=progress,
        )
        if outcome.main and self.export is not None:
            export_run(self.output, self.export, self.dtype, self.overwrite, progress)
        if outcome.main:
            self._say(outcome, config)
        if outcome.reason == "interrupted":
            raise KeyboardInterrupt
        if outcome.reason == "cancelled":
            raise Cancelled("training")

    def _config(self) -> TrainConfig:
        """The settings, with what the command line says."""
        from ..checks import check_choice
        from ..training.presets import read_train_config

        check_choice("--device", self.device, ("auto", "cpu"))
        config = read_train_config(self.config)
        data, optimiser = config.data, config.optimiser
        if self.data:
            data = replace(data, source="shards", shards=self.data)
        if self.held_out:
            data = replace(data, held_out=self.held_out)
        if self.steps is not None:
            optimiser = replace(optimiser, steps=self.steps)
        config = replace(config, data=data, optimiser=optimiser)
        if self.start is not None:
            config = replace(config, start=self.start)
        return config if self.seed is None else replace(config, seed=self.seed)

    def _say(self, outcome: TrainResult, config: TrainConfig) -> None:
        place = outcome.progress
        if self.json:
            print_json(
                {
                    "output": str(self.output),
                    "ended": outcome.reason,
                    "step": place.step,
                    "steps": config.optimiser.steps,
                    "skipped": place.skipped,
                    "unreadable": outcome.unreadable,
                    "hours": place.seconds / 3600.0,
                    "export": None if self.export is None else str(self.export),
                }
            )
            return
        print_out(
            f"step {place.step} of {config.optimiser.steps} is kept in {self.output}: "
            f"{ENDS[outcome.reason]}."
        )
        if outcome.reason != "finished":
            print_out("The same command goes on from there.")
