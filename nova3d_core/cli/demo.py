"""`demo`: the whole way on an object that ships with the package."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from ..pipeline_config import FuseConfig
from ..progress import Progress
from .console import say, say_json
from .evaluate import REPORT_FILES, write_report_files

OBJECT = Path(__file__).resolve().parents[1] / "assets" / "character_knight.glb"
DEMO_FILES = ("views", "mesh.glb", "turntable.webp", *REPORT_FILES)


@dataclass(frozen=True)
class Demo:
    """Render the object that ships with the package, fuse it, measure it against itself."""

    output: Annotated[Path, arg(aliases=("-o",), metavar="DIR")] = Path("demo_output")
    """The folder to write; an earlier demo's is replaced, one with anything else in it is not."""
    fuse: Annotated[FuseConfig, arg(name="")] = field(default_factory=FuseConfig)
    """All stages of the fusion."""
    json: bool = False
    """Say the report as JSON."""

    def run(self, progress: Progress) -> None:
        """Renders, fuses, measures, films; the folder appears when all of it is done."""
        from ..cameras import orbit_cameras
        from ..evaluation.protocol import evaluate_mesh_with_sheet
        from ..evaluation.report import markdown_table
        from ..io.atomic import new_folder
        from ..io.meshes import read_mesh, write_glb
        from ..io.transforms_json import read_views, write_views
        from ..pipeline import fuse_views
        from ..rendering.turntable import turntable, write_turntable
        from ..rendering.views import render_views

        start = time.perf_counter()
        truth = read_mesh(OBJECT).normalised()
        with new_folder(self.output, True, DEMO_FILES) as folder:
            views = render_views(truth, orbit_cameras(), progress=progress).views
            write_views(views, folder / "views", progress=progress)
            # what follows sees what a user's folder would give: pictures of eight bits
            fused = fuse_views(read_views(folder / "views", progress), self.fuse, progress)
            write_glb(fused.mesh, folder / "mesh.glb")
            report, sheet = evaluate_mesh_with_sheet(fused.mesh, truth, progress=progress)
            table = markdown_table({OBJECT.stem: report})
            write_report_files(folder, report, table, sheet)
            write_turntable(turntable(fused.mesh, progress=progress), folder / "turntable.webp")
        seconds = time.perf_counter() - start
        if self.json:
            say_json({**report.to_dict(), "fuse_seconds": fused.seconds, "demo_seconds": seconds})
            return
        say(table)
        say(f"Done in {seconds:.0f} s. Look at mesh.glb, turntable.webp and sheet.png in ")
        say(f"{self.output.resolve()}")
