"""`splats`: Gaussian splats from a folder of views."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from ..conventions import SPLAT_UP_AXIS, UpAxis
from ..progress import Progress
from ..splatting.config import SplatFitConfig
from .console import print_json, print_out
from .splats_from_model import ReconstructionOptions

if TYPE_CHECKING:
    import torch

    from ..views import Views


@dataclass(frozen=True)
class MakeSplats:
    """Fit Gaussian splats to a folder of views, or make them of four views with --model."""

    views: Positional[Path]
    """A folder with a transforms.json (as `render`, nerfstudio and instant-ngp write it), with a
    COLMAP model and its images, or with Wonder3D's output."""
    output: Annotated[Path, arg(aliases=("-o",), metavar="SPLATS")]
    """The file to write: .ply as in 3D Gaussian splatting, or .splat."""
    fit: Annotated[SplatFitConfig, arg(name="")] = field(default_factory=SplatFitConfig)
    """Settings of the fit."""
    reconstruction: Annotated[ReconstructionOptions, arg(name="")] = field(
        default_factory=ReconstructionOptions
    )
    """One pass of a reconstruction model instead of a fit."""
    mesh: Path | None = None
    """Textured mesh of the object in the world of the views, as `fuse` writes it, to start on and
    to stay close to, instead of --init."""
    device: str = "cpu"
    """Device of the fit or the model: cpu, cuda, cuda:1."""
    up_axis: UpAxis = SPLAT_UP_AXIS
    """Up axis of the file: -Y in viewers of Gaussian splats and in ComfyUI; +Y as in the views."""
    overwrite: bool = False
    """Replace an existing .ply file of an earlier run."""
    json: bool = False
    """Print the result as JSON."""

    def run(self, progress: Progress) -> None:
        """Runs the command."""
        from ..compute.devices import resolve_device
        from ..io.mesh.read import read_mesh
        from ..io.splats.files import check_can_write_splats, write_splats
        from ..io.views.transforms_json import read_views
        from ..pipeline.stages import ensure_masks
        from ..splatting.fit import fit_splats

        self.reconstruction.check(self.fit == SplatFitConfig() and self.mesh is None)
        device = resolve_device(self.device)
        inputs = (self.views,) if self.mesh is None else (self.views, self.mesh)
        check_can_write_splats(self.output, self.overwrite, inputs)
        views = ensure_masks(read_views(self.views, progress))
        if self.reconstruction.model is not None:
            self._reconstruct(views, device, progress)
            return
        mesh = None if self.mesh is None else read_mesh(self.mesh)
        fit = fit_splats(views, self.fit, progress, device, mesh=mesh)
        write_splats(fit.splats, self.output, self.overwrite, self.up_axis)
        if self.json:
            print_json({"output": str(self.output), **fit.report.to_dict()})
            return
        report = fit.report
        warped = f", views warped by {report.warp_px:.1f} px" if report.warp_px else ""
        if report.gain_percent:
            warped += f", scaled by {report.gain_percent:.1f} %"
        print_out(f"{report.count} splats in {self.output} ({report.steps} steps{warped})")

    def _reconstruct(self, views: Views, device: torch.device, progress: Progress) -> None:
        """Makes the splats with a model instead of a fit."""
        from ..io.splats.files import write_splats

        result, seconds = self.reconstruction.reconstruct(views, device, progress)
        write_splats(result.splats, self.output, self.overwrite, self.up_axis)
        report = result.report
        if self.json:
            rows = {"seconds": {name: round(value, 3) for name, value in seconds.items()}}
            print_json({"output": str(self.output), **report.to_dict(), **rows})
            return
        names = ", ".join(map(str, report.views))
        print_out(f"{report.count} splats in {self.output} ({report.model}, views {names})")
