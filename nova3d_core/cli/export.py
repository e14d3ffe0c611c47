"""`export`: writes a model file from a training run, which may still be running."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from ..progress import Progress
from .console import print_json, print_out


@dataclass(frozen=True)
class Export:
    """Write the EMA weights of a training run as a model file."""

    run_folder: Positional[Path]
    """The folder of a `train` run; its newest checkpoint is used."""
    output: Annotated[Path, arg(aliases=("-o",), metavar="FILE")]
    """The .safetensors file to write, for `generate` and LoadNOVA3D. For ouroboros3d, the
    reconstruction model is written next to it, as NAME.reconstruction.safetensors."""
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """Dtype of the weights."""
    overwrite: bool = False
    """Replace an existing output file."""
    json: bool = False
    """Print the result as JSON."""

    def run(self, progress: Progress) -> None:
        """Runs the command."""
        from ..training.export import export_run

        exported = export_run(self.run_folder, self.output, self.dtype, self.overwrite, progress)
        step, size = exported.state.progress.step, self.output.stat().st_size
        if self.json:
            print_json({"output": str(self.output), "step": step, "bytes": size})
            return
        print_out(
            f"Exported step {step} of {self.run_folder} to {self.output} ({size / 2**20:.1f} MB)."
        )
