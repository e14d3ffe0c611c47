"""`ablate`: what each part of the fusion is worth on a folder of views with a known truth."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from ..evaluation.config import EvaluateConfig
from ..pipeline.config import FuseConfig
from ..progress import Progress
from .console import print_json, print_out

ABLATION_FILES = ("report.json", "table.md", "sheet.png")


@dataclass(frozen=True)
class Ablate:
    """Fuse the same views with one part after another left out; measure each against the truth."""

    views: Positional[Path]
    """A folder with a transforms.json (as `render`, nerfstudio and instant-ngp write it), with a
    COLMAP model and its images, or with Wonder3D's output."""
    reference: Path
    """The truth; it is centred and scaled to longest side 1 first."""
    output: Annotated[Path, arg(aliases=("-o",), metavar="DIR")]
    """A folder for report.json, table.md and the image sheet."""
    variants: tuple[str, ...] = ()
    """Only these of full, without-conflict, robust-instead, without-poses, without-normals,
    without-hull-start; all without any."""
    fuse: Annotated[FuseConfig, arg(name="")] = field(default_factory=FuseConfig)
    """All stages of the full fusion."""
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    """Protocol and settings of the measurement."""
    overwrite: bool = False
    """Replace the output if it is there already."""
    json: bool = False
    """Say the report as JSON."""

    def run(self, progress: Progress) -> None:
        """Reads, fuses and measures each variant, writes."""
        from ..evaluation.ablation import ablate, ablation_configs
        from ..io.files.atomic import atomic_folder, check_can_write_folder
        from ..io.images.images import write_image
        from ..io.mesh.read import read_mesh
        from ..io.settings import settings_dict
        from ..io.views.transforms_json import read_views

        inputs = (self.views, self.reference)
        check_can_write_folder(self.output, self.overwrite, ABLATION_FILES, inputs)
        configs = ablation_configs(self.fuse, self.variants)
        views, reference = read_views(self.views, progress), read_mesh(self.reference)
        found = ablate(views, reference, configs, self.evaluate, progress)
        document = {"fuse": settings_dict(self.fuse), "variants": found.to_dict()}
        with atomic_folder(self.output, self.overwrite, ABLATION_FILES) as folder:
            text = json.dumps(document, indent=2, allow_nan=False)
            (folder / "report.json").write_text(text, encoding="utf-8")
            (folder / "table.md").write_text(found.table(), encoding="utf-8")
            write_image(folder / "sheet.png", found.grid)
        if self.json:
            print_json(document)
        else:
            print_out(found.table().rstrip())
