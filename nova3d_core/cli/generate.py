"""`generate`: a folder of views from one image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from ..conventions import SPLAT_UP_AXIS
from ..errors import InputError
from ..progress import Progress
from ..wording import counted
from .console import print_json, print_out
from .sampling import GeneratedViews, SamplingOptions


@dataclass(frozen=True, kw_only=True)
class Generate(SamplingOptions):
    """Generate views around the object in an image with a multi-view model."""

    output: Annotated[Path, arg(aliases=("-o",), metavar="DIR")]
    """The output folder, for a transforms.json and the images."""
    splats: Annotated[Path | None, arg(metavar="SPLATS")] = None
    """Ouroboros3D: also write the splats that it samples together with the views: .ply or .splat,
    with the up axis of viewers of Gaussian splats, -Y."""

    def run(self, progress: Progress) -> None:
        """Runs the command."""
        from ..io.files.atomic import check_can_write_folder
        from ..io.files.ownership import reject_overlapping_outputs
        from ..io.splats.files import check_can_write_splats, write_splats
        from ..io.views.transforms_json import FOLDER_CONTENT, write_views

        check_can_write_folder(self.output, self.overwrite, FOLDER_CONTENT, self.inputs)
        if self.splats is not None:
            check_can_write_splats(self.splats, self.overwrite, (*self.inputs, self.output))
            reject_overlapping_outputs((self.splats,), (self.output,), "--splats")
        generated = self.generate(progress)
        write_views(generated.sample.views, self.output, self.overwrite, progress)
        if self.splats is not None:
            write_splats(generated.sample.splats, self.splats, self.overwrite, SPLAT_UP_AXIS)
        self._print_result(generated)

    def check_model(self, path: Path) -> None:
        """Raises InputError for options that have no effect with the model of this file."""
        from ..recursion.load import is_recursive

        super().check_model(path)
        if self.splats is not None and not is_recursive(path):
            raise InputError(
                f"--splats has no effect with {path}, which makes no splats.",
                "Use Ouroboros3D's mv_model_unet.pth, or `splats` with the folder of views.",
            )

    def _print_result(self, generated: GeneratedViews) -> None:
        views = generated.sample.views
        size_px = views.cameras.width
        report = getattr(generated.sample, "report", None)  # of Ouroboros3D
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
                    **({} if report is None else {"recursion": report.to_dict()}),
                    **({} if self.splats is None else {"splats": str(self.splats)}),
                }
            )
            return
        channels = "colour and normals" if views.normals is not None else "colour"
        timings = ", ".join(f"{name} {each:.1f} s" for name, each in generated.seconds.items())
        print_out(f"{len(views)} views of {size_px} px, {channels}, in {self.output} ({timings})")
        if report is not None:
            where = "" if self.splats is None else f" in {self.splats}"
            agreement = f"views and splats agree to {report.agreement_db:.1f} dB PSNR"
            print_out(
                f"{report.count} splats{where}, "
                f"{counted(report.reconstructions, 'reconstruction')}, {agreement}"
            )
