"""`evaluate`: metrics of a mesh against a reference."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from ..conventions import UpAxis
from ..evaluation.config import EvaluateConfig
from ..progress import Progress
from .console import print_json, print_out

if TYPE_CHECKING:
    from torch import Tensor

    from ..evaluation.report import Report

REPORT_FILES = ("report.json", "report.md", "comparison.png")


@dataclass(frozen=True)
class Evaluate:
    """Evaluate a mesh against a reference: distances, volume, normals and rendered images."""

    mesh: Positional[Path]
    """The mesh to evaluate."""
    reference: Path
    """The mesh of the true shape, which is centred and scaled to a longest side of 1."""
    up_axis: UpAxis = "+Y"
    """Up axis of the evaluated mesh."""
    output: Annotated[Path | None, arg(aliases=("-o",), metavar="DIR")] = None
    """Output folder for report.json, report.md and comparison.png."""
    evaluate: Annotated[EvaluateConfig, arg(name="")] = field(default_factory=EvaluateConfig)
    """Settings of the evaluation."""
    overwrite: bool = False
    """Replace an existing output folder."""
    json: bool = False
    """Print the report as JSON."""

    def run(self, progress: Progress) -> None:
        """Runs the command."""
        from ..evaluation.protocol import evaluate_mesh, evaluate_mesh_with_grid
        from ..evaluation.report import markdown_table, undefined_metrics
        from ..io.files.atomic import atomic_folder, check_can_write_folder
        from ..io.mesh.read import read_mesh
        from ..perceptual.backbones import no_backbone_error
        from ..perceptual.lpips import load_all_lpips

        if self.output is not None:
            inputs = (self.mesh, self.reference)
            check_can_write_folder(self.output, self.overwrite, REPORT_FILES, inputs)
        mesh = read_mesh(self.mesh, self.up_axis)
        reference = read_mesh(self.reference)
        nets = load_all_lpips() if self.evaluate.with_images else ()
        arguments, grid = (mesh, reference, self.evaluate, progress, nets), None
        if self.output is not None and self.evaluate.with_images:
            report, grid = evaluate_mesh_with_grid(*arguments)
        else:
            report = evaluate_mesh(*arguments)
        table = markdown_table({self.mesh.stem: report})
        if self.output is not None:
            with atomic_folder(self.output, self.overwrite, REPORT_FILES) as folder:
                write_report(folder, report, table, grid)
        if self.json:
            print_json(report.to_dict())
        else:
            print_out(table.rstrip())
            for reason in undefined_metrics(report):
                print_out(reason)
            if self.evaluate.with_images and not nets:
                print_out(f"No LPIPS: {no_backbone_error()}")


def write_report(folder: Path, report: Report, table: str, grid: Tensor | None) -> None:
    """Writes `REPORT_FILES` to a folder; the comparison grid (H, W, 3) only if there is one."""
    from ..io.images.images import write_image

    (folder / "report.json").write_text(report.to_json(), encoding="utf-8")
    (folder / "report.md").write_text(table, encoding="utf-8")
    if grid is not None:
        write_image(folder / "comparison.png", grid)
