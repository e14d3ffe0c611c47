"""`evaluate`: how close a mesh is to its reference."""

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

REPORT_FILES = ("report.json", "report.md", "sheet.png")


@dataclass(frozen=True)
class Evaluate:
    """Measure a mesh against its reference: distances, volume, normals, re-rendered images."""

    mesh: Positional[Path]
    """The result."""
    reference: Path
    """The truth; it is centred and scaled to longest side 1 first."""
    up_axis: UpAxis = "+Y"
    """Which way is up in the result's file."""
    output: Annotated[Path | None, arg(aliases=("-o",), metavar="DIR")] = None
    """A folder for report.json, report.md and the image sheet."""
    evaluate: Annotated[EvaluateConfig, arg(name="")] = field(default_factory=EvaluateConfig)
    """Protocol and settings."""
    overwrite: bool = False
    """Replace the output if it is there already."""
    json: bool = False
    """Say the report as JSON."""

    def run(self, progress: Progress) -> None:
        """Reads, measures, writes."""
        from ..evaluation.protocol import evaluate_mesh, evaluate_mesh_with_grid
        from ..evaluation.report import markdown_table
        from ..io.files.atomic import atomic_folder, check_can_write_folder
        from ..io.mesh.read import read_mesh

        if self.output is not None:
            inputs = (self.mesh, self.reference)
            check_can_write_folder(self.output, self.overwrite, REPORT_FILES, inputs)
        mesh = read_mesh(self.mesh, self.up_axis)
        reference = read_mesh(self.reference)
        sheet = None
        if self.output is not None and self.evaluate.with_images:
            report, sheet = evaluate_mesh_with_grid(mesh, reference, self.evaluate, progress)
        else:
            report = evaluate_mesh(mesh, reference, self.evaluate, progress)
        table = markdown_table({self.mesh.stem: report})
        if self.output is not None:
            with atomic_folder(self.output, self.overwrite, REPORT_FILES) as folder:
                write_report(folder, report, table, sheet)
        if self.json:
            print_json(report.to_dict())
        else:
            print_out(table.rstrip())


def write_report(folder: Path, report: Report, table: str, sheet: Tensor | None) -> None:
    """Writes `REPORT_FILES` into a folder; the image sheet (H, W, 3) where there is one."""
    from ..io.images.images import write_image

    (folder / "report.json").write_text(report.to_json(), encoding="utf-8")
    (folder / "report.md").write_text(table, encoding="utf-8")
    if sheet is not None:
        write_image(folder / "sheet.png", sheet)
