"""`demo`: the whole way on what ships with the package."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from ..pipeline.config import FuseConfig
from ..progress import Progress
from ..weights.discovery.built_in import is_shipped
from .console import print_json, print_out
from .evaluate import REPORT_FILES, write_report

ASSETS = Path(__file__).resolve().parents[1] / "assets"
OBJECT = ASSETS / "character_knight.glb"
IMAGE = ASSETS / "image"
"""A folder of one view: an object that the built-in model has not seen in training."""
PAINTED, SHEET = "image.png", "views.png"
DEMO_FILES = ("views", "mesh.glb", "turntable.webp", PAINTED, SHEET, *REPORT_FILES)

Start = Literal["auto", "image", "object"]


@dataclass(frozen=True)
class Demo:
    """Go the whole way, from one image, or from the views of an object with its measure."""

    output: Annotated[Path, arg(aliases=("-o",), metavar="DIR")] = Path("demo_output")
    """The folder to write; an earlier demo's is replaced, one with anything else in it is not."""
    start: Start = "auto"
    """image: paint views of the shipped image by the built-in model, fuse them. object: render
    the shipped object, fuse its views, measure the mesh. auto: image, where the model ships."""
    seed: int = 0
    """Start of the noise, from the image."""
    steps: int | None = None
    """Denoising steps, from the image; the model's own if not given."""
    fuse: Annotated[FuseConfig, arg(name="")] = field(default_factory=FuseConfig)
    """All stages of the fusion."""
    json: bool = False
    """Say the report as JSON."""

    def run(self, progress: Progress) -> None:
        """The folder appears when all of it is done."""
        from ..io.files.atomic import check_can_write_folder

        check_can_write_folder(self.output, True, DEMO_FILES)
        has_image = is_shipped() and IMAGE.is_dir()
        if self.start == "image" or (self.start == "auto" and has_image):
            self._from_image(progress)
        else:
            self._from_object(progress)

    def _from_image(self, progress: Progress) -> None:
        """Paints, fuses, films."""
        from ..diffusion.sampling.config import SampleConfig
        from ..diffusion.sampling.pipeline import sample
        from ..diffusion.sampling.preview import image_grid
        from ..io.files.atomic import atomic_folder
        from ..io.images.images import write_image
        from ..io.mesh.write import write_glb
        from ..io.views.transforms_json import read_views, write_views
        from ..pipeline.fuse import fuse_views
        from ..rendering.turntable import turntable, write_turntable
        from ..weights.discovery.built_in import NAME
        from ..weights.load import load_model

        start = time.perf_counter()
        model = load_model(NAME, progress=progress)
        seen = read_views(IMAGE)
        with atomic_folder(self.output, True, DEMO_FILES) as folder:
            write_image(folder / PAINTED, seen.colour[0])
            mask = None if seen.masks is None else seen.masks[0]
            config = SampleConfig(seed=self.seed, steps=self.steps)
            painted = sample(model, seen.colour[0], mask, config, progress=progress)
            seconds = {"painting": time.perf_counter() - start}
            write_image(folder / SHEET, image_grid(painted.images))
            write_views(painted.views, folder / "views", progress=progress)
            fused = fuse_views(painted.views, self.fuse, progress)
            write_glb(fused.mesh, folder / "mesh.glb")
            write_turntable(turntable(fused.mesh, progress=progress), folder / "turntable.webp")
        seconds |= {**fused.seconds, "demo": time.perf_counter() - start}
        faces = len(fused.mesh.faces)
        if self.json:
            print_json({"start": "image", "faces": faces, "seconds": seconds})
            return
        views = len(painted.views)
        print_out(
            f"One image, {views} views, a mesh of {faces} faces: done in {seconds['demo']:.0f} s."
        )
        print_out(
            f"Look at {PAINTED}, {SHEET}, mesh.glb and turntable.webp in {self.output.resolve()}"
        )

    def _from_object(self, progress: Progress) -> None:
        """Renders, fuses, measures, films."""
        from ..cameras.cameras import orbit_cameras
        from ..evaluation.protocol import evaluate_mesh_with_grid
        from ..evaluation.report import markdown_table
        from ..io.files.atomic import atomic_folder
        from ..io.mesh.read import read_mesh
        from ..io.mesh.write import write_glb
        from ..io.views.transforms_json import read_views, write_views
        from ..pipeline.fuse import fuse_views
        from ..rendering.turntable import turntable, write_turntable
        from ..rendering.views import render_views

        start = time.perf_counter()
        truth = read_mesh(OBJECT).normalised()
        with atomic_folder(self.output, True, DEMO_FILES) as folder:
            views = render_views(truth, orbit_cameras(), progress=progress).views
            write_views(views, folder / "views", progress=progress)
            # what follows sees what a user's folder would give: images of eight bits
            fused = fuse_views(read_views(folder / "views", progress), self.fuse, progress)
            write_glb(fused.mesh, folder / "mesh.glb")
            report, sheet = evaluate_mesh_with_grid(fused.mesh, truth, progress=progress)
            table = markdown_table({OBJECT.stem: report})
            write_report(folder, report, table, sheet)
            write_turntable(turntable(fused.mesh, progress=progress), folder / "turntable.webp")
        seconds = time.perf_counter() - start
        if self.json:
            print_json({**report.to_dict(), "fuse_seconds": fused.seconds, "demo_seconds": seconds})
            return
        print_out(table)
        print_out(f"Done in {seconds:.0f} s. Look at mesh.glb, turntable.webp and sheet.png in ")
        print_out(f"{self.output.resolve()}")
