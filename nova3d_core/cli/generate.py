"""`generate`: one image to a folder of views."""

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
    """Paint views around the object in one image, with a multi-view model."""

    output: Annotated[Path, arg(aliases=("-o",), metavar="DIR")]
    """The folder to write; it gets a transforms.json and the images."""

    def run(self, progress: Progress) -> None:
        """Reads, loads, samples, writes."""
        from ..io.files.atomic import check_can_write_folder
        from ..io.views.transforms_json import FOLDER_CONTENT, write_views

        check_can_write_folder(self.output, self.overwrite, FOLDER_CONTENT, self.inputs)
        painted = self.paint(progress)
        write_views(painted.sample.views, self.output, self.overwrite, progress)
        self._say(painted)

    def _say(self, painted: GeneratedViews) -> None:
        views = painted.sample.views
        size_px = views.cameras.width
        if self.json:
            print_json(
                {
                    "output": str(self.output),
                    "family": painted.family.name,
                    "views": len(views),
                    "size_px": size_px,
                    "normals": views.normals is not None,
                    "masks": views.masks is not None,
                    "notes": list(painted.sample.notes),
                    "seconds": painted.seconds,
                }
            )
            return
        what = "colours and normals" if views.normals is not None else "colours"
        spent = ", ".join(f"{name} {each:.1f} s" for name, each in painted.seconds.items())
        print_out(f"{len(views)} views of {size_px} px, {what}, in {self.output} ({spent})")
