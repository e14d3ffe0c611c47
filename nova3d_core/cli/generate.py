"""`generate`: a folder of views from one image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from ..progress import Progress
from .console import print_json, print_out
from .sampling import GeneratedViews, SamplingOptions


@dataclass(frozen=True, kw_only=True)
class Generate(SamplingOptions):
    """Generate views around the object in an image with a multi-view model."""

    output: Annotated[Path, arg(aliases=("-o",), metavar="DIR")]
    """The output folder, for a transforms.json and the images."""

    def run(self, progress: Progress) -> None:
        """Runs the command."""
        from ..io.files.atomic import check_can_write_folder
        from ..io.views.transforms_json import FOLDER_CONTENT, write_views

        check_can_write_folder(self.output, self.overwrite, FOLDER_CONTENT, self.inputs)
        generated = self.generate(progress)
        write_views(generated.sample.views, self.output, self.overwrite, progress)
        self._print_result(generated)

    def _print_result(self, generated: GeneratedViews) -> None:
        views = generated.sample.views
        size_px = views.cameras.width
        if self.json:
            print_json(
                {
                    "output": str(self.output),
                    "family": generated.family.name,
                    "views": len(views),
                    "size_px": size_px,
                    "normals": views.normals is not None,
                    "masks": views.masks is not None,
                    "notes": list(generated.sample.notes),
                    "seconds": generated.seconds,
                }
            )
            return
        channels = "colour and normals" if views.normals is not None else "colour"
        timings = ", ".join(f"{name} {each:.1f} s" for name, each in generated.seconds.items())
        print_out(f"{len(views)} views of {size_px} px, {channels}, in {self.output} ({timings})")
