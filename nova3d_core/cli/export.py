"""`export`: a model's file out of a training run, which may still be going on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from ..progress import Progress
from .console import print_json, print_out


@dataclass(frozen=True)
class Export:
    """Write the averaged weights of a training run as a model's file."""

    run_folder: Positional[Path]
    """The folder of a run of `train`; its newest checkpoint is taken."""
    output: Annotated[Path, arg(aliases=("-o",), metavar="FILE")]
    """The .safetensors to write; `generate` and LoadNOVA3D read it."""
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """Number format of the weights."""
    overwrite: bool = False
    """Replace the output if it is there already."""
    json: bool = False
    """Say the result as JSON."""

    def run(self, progress: Progress) -> None:
        """Reads the checkpoint, writes the model."""
        from ..training.export import export_run

        made = export_run(self.run_folder, self.output, self.dtype, self.overwrite, progress)
        place, size = made.state.progress, self.output.stat().st_size
        if self.json:
            print_json({"output": str(self.output), "step": place.step, "bytes": size})
            return
        print_out(
            f"step {place.step} of {self.run_folder} in {self.output} ({size / 2**20:.1f} MB)"
        )
