"""`evaluate`: metrics of a mesh, or of the images of Gaussian splats, against a reference."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from ..conventions import SPLAT_UP_AXIS, UpAxis
from ..evaluation.config import EvaluateConfig
from ..progress import Progress
from .console import print_json, print_out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ..evaluation.report import Report
    from ..perceptual.lpips import Lpips

REPORT_FILES = ("report.json", "report.md", "comparison.png")


@dataclass(frozen=True)
class Evaluate:
    """Evaluate a mesh against a reference: distances, volume, normals and rendered images; or
    Gaussian splats: rendered images."""

    file: Positional[Path]
    """The mesh to evaluate, or Gaussian splats (.ply, .splat)."""
    reference: Path
    """The mesh of the true shape, which is centred and scaled to a longest side of 1."""
    up_axis: UpAxis | None = None
    """Up axis of the evaluated file. Default: +Y for meshes, -Y for splats, as the command splats
    writes them."""
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
        from ..evaluation.report import markdown_table, undefined_metrics
        from ..io.files.atomic import atomic_folder, check_can_write_folder
        from ..perceptual.backbones import no_backbone_error
        from ..perceptual.lpips import load_all_lpips

        if self.output is not None:
            inputs = (self.file, self.reference)
            check_can_write_folder(self.output, self.overwrite, REPORT_FILES, inputs)
        nets = load_all_lpips() if self.evaluate.with_images else ()
        report, grid = self._evaluate(nets, progress)
        table = markdown_table({self.file.stem: report})
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

    def _evaluate(self, nets: Sequence[Lpips], progress: Progress) -> tuple[Report, Tensor | None]:
        """The report, and the comparison grid (H, W, 3) if images are rendered and written."""
        from ..evaluation.protocol import evaluate_mesh, evaluate_mesh_with_grid
        from ..io.mesh.read import read_mesh
        from ..io.splats.files import contains_splats, read_splats
        from ..splatting.evaluate import evaluate_splats

        shared = (read_mesh(self.reference), self.evaluate, progress, nets)
        if contains_splats(self.file):
            return evaluate_splats(read_splats(self.file, self.up_axis or SPLAT_UP_AXIS), *shared)
        mesh = read_mesh(self.file, self.up_axis or "+Y")
        if self.output is not None and self.evaluate.with_images:
            return evaluate_mesh_with_grid(mesh, *shared)
        return evaluate_mesh(mesh, *shared), None


def write_report(folder: Path, report: Report, table: str, grid: Tensor | None) -> None:
    """Writes `REPORT_FILES` to a folder; the comparison grid (H, W, 3) only if there is one."""
    from ..io.images.images import write_image

    (folder / "report.json").write_text(report.to_json(), encoding="utf-8")
    (folder / "report.md").write_text(table, encoding="utf-8")
    if grid is not None:
        write_image(folder / "comparison.png", grid)
