"""`ablate`: the contribution of each part of the fusion, measured against a reference."""

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

ABLATION_FILES = ("report.json", "table.md", "comparison.png")


@dataclass(frozen=True)
class Ablate:
    """Fuse the same views with one component disabled at a time; evaluate against a reference."""

    views: Positional[Path]
    """A folder with a transforms.json (as `render`, nerfstudio and instant-ngp write it), with a
    COLMAP model and its images, or with Wonder3D's output."""
    reference: Path
    """The mesh of the true shape, which is centred and scaled to a longest side of 1."""
    output: Annotated[Path, arg(aliases=("-o",), metavar="DIR")]
    """Output folder for report.json, table.md and comparison.png."""
    variants: tuple[str, ...] = ()
    """Variants to run: full, without-conflict, robust-instead, without-poses, without-normals,
    without-hull-start; all if none are given."""
    fuse: Annotated[FuseConfig, arg(name="")] = field(default_factory=FuseConfig)
    """Settings of the full pipeline."""
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    """Settings of the evaluation."""
    overwrite: bool = False
    """Replace an existing output folder."""
    json: bool = False
    """Print the report as JSON."""

    def run(self, progress: Progress) -> None:
        """Runs the command."""
        from ..io.files.atomic import atomic_folder, check_can_write_folder
        from ..io.images.images import write_image
        from ..io.mesh.read import read_mesh
        from ..io.settings import settings_dict
        from ..io.views.transforms_json import read_views
        from ..pipeline.ablation import ablate, ablation_configs

        inputs = (self.views, self.reference)
        check_can_write_folder(self.output, self.overwrite, ABLATION_FILES, inputs)
        configs = ablation_configs(self.fuse, self.variants)
        views, reference = read_views(self.views, progress), read_mesh(self.reference)
        ablation = ablate(views, reference, configs, self.evaluate, progress)
        document = {"fuse": settings_dict(self.fuse), "variants": ablation.to_dict()}
        with atomic_folder(self.output, self.overwrite, ABLATION_FILES) as folder:
            text = json.dumps(document, indent=2, allow_nan=False)
            (folder / "report.json").write_text(text, encoding="utf-8")
            (folder / "table.md").write_text(ablation.table(), encoding="utf-8")
            write_image(folder / "comparison.png", ablation.grid)
        if self.json:
            print_json(document)
        else:
            print_out(ablation.table().rstrip())
