"""`train`: starts or resumes a training run."""

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

STOP_REASONS = {
    "finished": "training is complete",
    "time": "the time limit was reached",
    "terminated": "it was terminated",
    "interrupted": "it was interrupted",
    "cancelled": "it was cancelled",
}


@dataclass(frozen=True)
class Train:
    """Train a model; the same command resumes a stopped run."""

    config: Positional[str]
    """Training preset (nova3d, sv3d_u, sv3d_p, v3d, v3d_scenes or ouroboros3d; mini, mini_tokens,
    sv3d_p_mini, v3d_mini, v3d_scenes_mini or ouroboros3d_mini for a CPU), or a .json or .toml
    settings file."""
    output: Annotated[Path, arg(aliases=("-o",), metavar="DIR")]
    """The folder of the run, for checkpoints, logs and sample grids."""
    minutes: float | None = None
    """Time limit; the run ends with a checkpoint."""
    data: tuple[str, ...] = ()
    """Training shards (files, or folders of .tar files), instead of those in the settings."""
    held_out: tuple[str, ...] = ()
    """Validation shards, instead of those in the settings."""
    start: str | None = None
    """A model file to start from, instead of the one in the settings."""
    seed: int | None = None
    """Random seed, instead of the one in the settings."""
    steps: int | None = None
    """Number of steps, instead of that in the settings; the schedules are scaled."""
    device: str = "auto"
    """cpu, or auto: a GPU if there is one."""
    accept_changes: bool = False
    """Resume a run even though its settings changed."""
    export: Path | None = None
    """At the end, also write the EMA weights as a model file (.safetensors)."""
    dtype: str = "float16"
    """Dtype of the exported weights: float16, bfloat16 or float32."""
    overwrite: bool = False
    """Replace an existing exported file."""
    json: bool = False
    """Print the result as JSON."""

    def run(self, progress: Progress) -> None:
        """Runs the command."""
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
            self._print_result(outcome, config)
        if outcome.reason == "interrupted":
            raise KeyboardInterrupt
        if outcome.reason == "cancelled":
            raise Cancelled("training")

    def _config(self) -> TrainConfig:
        """The settings, with the overrides of the command line."""
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

    def _print_result(self, outcome: TrainResult, config: TrainConfig) -> None:
        state = outcome.progress
        if self.json:
            print_json(
                {
                    "output": str(self.output),
                    "ended": outcome.reason,
                    "step": state.step,
                    "steps": config.optimiser.steps,
                    "skipped": state.skipped,
                    "unreadable": outcome.unreadable,
                    "hours": state.seconds / 3600.0,
                    "export": None if self.export is None else str(self.export),
                }
            )
            return
        print_out(
            f"step {state.step} of {config.optimiser.steps} is saved in {self.output}: "
            f"{STOP_REASONS[outcome.reason]}."
        )
        if outcome.reason != "finished":
            print_out("The same command resumes the run.")
