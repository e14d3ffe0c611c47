"""`demo`: the complete pipeline on data that ships with the package."""

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
"""A folder with one view of an object that was not in the training data of the built-in model."""
INPUT_IMAGE, VIEW_GRID = "input.png", "views.png"
DEMO_FILES = ("views", "mesh.glb", "turntable.webp", INPUT_IMAGE, VIEW_GRID, *REPORT_FILES)

Start = Literal["auto", "image", "object"]


@dataclass(frozen=True)
class Demo:
    """Run the complete pipeline on one image, or on rendered views of an object."""

    output: Annotated[Path, arg(aliases=("-o",), metavar="DIR")] = Path("demo_output")
    """The output folder. That of an earlier demo is replaced, any other non-empty folder is not."""
    start: Start = "auto"
    """image: generate views of the shipped image with the built-in model and fuse them. object:
    render the shipped object, fuse the views and evaluate the mesh. auto: image, if the built-in
    model is available."""
    seed: int = 0
    """Random seed of the sampling, with --start image."""
    steps: int | None = None
    """Denoising steps, with --start image; the model's default if omitted."""
    fuse: Annotated[FuseConfig, arg(name="")] = field(default_factory=FuseConfig)
    """Settings of the pipeline from views to a mesh."""
    json: bool = False
    """Print the report as JSON."""

    def run(self, progress: Progress) -> None:
        """Runs the command; the output folder appears when it is complete."""
        from ..io.files.atomic import check_can_write_folder

        check_can_write_folder(self.output, True, DEMO_FILES)
        has_image = is_shipped() and IMAGE.is_dir()
        if self.start == "image" or (self.start == "auto" and has_image):
            self._from_image(progress)
        else:
            self._from_object(progress)

    def _from_image(self, progress: Progress) -> None:
        """Generates views, fuses them and renders a turntable."""
        from ..diffusion.sampling.config import SampleConfig
        from ..diffusion.sampling.pipeline import sample
        from ..diffusion.sampling.preview import image_grid
        from ..io.files.atomic import atomic_folder
        from ..io.images.images import write_image
        from ..io.mesh.write import write_glb
        from ..io.views.transforms_json import read_views, write_views
        from ..pipeline.fuse import fuse_views
        from ..rendering.turntable import turntable, write_turntable
        from ..weights.discovery.built_in import BUILT_IN_NAME
        from ..weights.load import load_model

        start = time.perf_counter()
        model = load_model(BUILT_IN_NAME, progress=progress)
        input_view = read_views(IMAGE)
        with atomic_folder(self.output, True, DEMO_FILES) as folder:
            write_image(folder / INPUT_IMAGE, input_view.colour[0])
            mask = None if input_view.masks is None else input_view.masks[0]
            config = SampleConfig(seed=self.seed, steps=self.steps)
            generated = sample(model, input_view.colour[0], mask, config, progress=progress)
            seconds = {"generating": time.perf_counter() - start}
            write_image(folder / VIEW_GRID, image_grid(generated.images))
            write_views(generated.views, folder / "views", progress=progress)
            fused = fuse_views(generated.views, self.fuse, progress)
            write_glb(fused.mesh, folder / "mesh.glb")
            write_turntable(turntable(fused.mesh, progress=progress), folder / "turntable.webp")
        seconds |= {**fused.seconds, "demo": time.perf_counter() - start}
        faces = len(fused.mesh.faces)
        if self.json:
            print_json({"start": "image", "faces": faces, "seconds": seconds})
            return
        views = len(generated.views)
        total = seconds["demo"]
        print_out(f"Generated {views} views and a mesh of {faces} faces in {total:.0f} s.")
        print_out(f"See {INPUT_IMAGE}, {VIEW_GRID}, mesh.glb and turntable.webp in")
        print_out(f"{self.output.resolve()}")

    def _from_object(self, progress: Progress) -> None:
        """Renders views, fuses them, evaluates the mesh and renders a turntable."""
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
            # read back as 8-bit images, as from a user's folder
            fused = fuse_views(read_views(folder / "views", progress), self.fuse, progress)
            write_glb(fused.mesh, folder / "mesh.glb")
            report, grid = evaluate_mesh_with_grid(fused.mesh, truth, progress=progress)
            table = markdown_table({OBJECT.stem: report})
            write_report(folder, report, table, grid)
            write_turntable(turntable(fused.mesh, progress=progress), folder / "turntable.webp")
        seconds = time.perf_counter() - start
        if self.json:
            print_json({**report.to_dict(), "fuse_seconds": fused.seconds, "demo_seconds": seconds})
            return
        print_out(table)
        print_out(
            f"Finished in {seconds:.0f} s. See mesh.glb, turntable.webp and comparison.png in"
        )
        print_out(f"{self.output.resolve()}")
