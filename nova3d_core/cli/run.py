"""`run`: a textured mesh from one image."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from ..pipeline.config import FuseConfig
from ..progress import Progress
from .console import print_json, print_out
from .sampling import GeneratedViews, SamplingOptions

if TYPE_CHECKING:
    from ..pipeline.stages import FusionResult


@dataclass(frozen=True, kw_only=True)
class Run(SamplingOptions):
    """Reconstruct a textured mesh of the object in an image: generate views and fuse them."""

    output: Annotated[Path, arg(aliases=("-o",), metavar="MESH")]
    """The mesh file to write: .glb, .obj or .ply."""
    fuse: Annotated[FuseConfig, arg(name="")] = field(default_factory=FuseConfig)
    """Settings of the pipeline from views to a mesh."""
    settings: Path | None = None
    """Read these settings from this JSON file instead; `presets` prints one."""
    views: Path | None = None
    """Also write the generated views to this folder."""

    def run(self, progress: Progress) -> None:
        """Runs the command."""
        from ..compute.devices import resolve_device
        from ..io.files.atomic import check_can_write_folder
        from ..io.files.ownership import reject_overlapping_outputs
        from ..io.mesh.write import check_can_write_mesh, mesh_output_files, write_mesh
        from ..io.settings import settings_or_options
        from ..io.views.transforms_json import FOLDER_CONTENT, write_views
        from ..pipeline.fuse import fuse_views

        inputs = (*self.inputs, self.settings)
        device = resolve_device(self.device)
        check_can_write_mesh(self.output, self.overwrite, inputs)
        if self.views is not None:
            check_can_write_folder(self.views, self.overwrite, FOLDER_CONTENT, inputs)
            reject_overlapping_outputs(mesh_output_files(self.output), (self.views,), "--views")
        config = settings_or_options(self.settings, self.fuse)
        generated = self.generate(progress)
        fused = fuse_views(generated.sample.views, config, progress, device)
        if self.views is not None:
            write_views(generated.sample.views, self.views, self.overwrite, progress)
        write_mesh(fused.mesh, self.output, self.overwrite)
        self._print_result(generated, fused)

    def _print_result(self, generated: GeneratedViews, fused: FusionResult) -> None:
        faces, texture_px = len(fused.mesh.faces), fused.mesh.texture.shape[0]
        seconds = {**generated.seconds, **fused.seconds}
        if self.json:
            print_json(
                {
                    "output": str(self.output),
                    "family": generated.family.name,
                    "views": len(generated.sample.views),
                    "faces": faces,
                    "texture_px": texture_px,
                    "unwrap_method": fused.unwrap_method,
                    "notes": list(generated.sample.notes),
                    "seconds": seconds,
                }
            )
            return
        timings = ", ".join(f"{stage} {each:.1f} s" for stage, each in seconds.items())
        print_out(f"{faces} faces, {texture_px} px texture in {self.output} ({timings})")
