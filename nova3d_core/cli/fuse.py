"""`fuse`: a textured mesh from a folder of views."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from ..pipeline.config import FuseConfig
from ..progress import Progress
from ..wording import sentence_case
from .console import print_json, print_out

if TYPE_CHECKING:
    from ..pipeline.stages import FusionResult

DETAIL_FILES = (
    "settings.json", "report.json", "conflict_maps", "views", "shading", "light.png",
)  # fmt: skip


@dataclass(frozen=True)
class Fuse:
    """Fuse a folder of views into a textured mesh."""

    views: Positional[Path]
    """A folder with a transforms.json (as `render`, nerfstudio and instant-ngp write it), with a
    COLMAP model and its images, or with Wonder3D's output."""
    output: Annotated[Path, arg(aliases=("-o",), metavar="MESH")]
    """The mesh file to write: .glb, .obj or .ply."""
    fuse: Annotated[FuseConfig, arg(name="")] = field(default_factory=FuseConfig)
    """Settings of all stages."""
    settings: Path | None = None
    """Read the settings of all stages from this JSON file instead; `presets` prints one."""
    details: Path | None = None
    """Also write the settings, a report, conflict maps and the refined views to this folder, with
    --unlight also the shading and the light."""
    device: str = "cpu"
    """Device of the optimisation: cpu, cuda, cuda:1. The grid field falls back to the CPU if warp
    does not support the GPU."""
    overwrite: bool = False
    """Replace existing outputs."""
    json: bool = False
    """Print the result as JSON."""

    def run(self, progress: Progress) -> None:
        """Runs the command."""
        from ..compute.devices import resolve_device
        from ..io.files.atomic import check_can_write_folder
        from ..io.files.ownership import reject_overlapping_outputs
        from ..io.mesh.write import check_can_write_mesh, mesh_output_files, write_mesh
        from ..io.settings import settings_or_options
        from ..io.views.transforms_json import read_views
        from ..pipeline.fuse import fuse_views

        inputs = (self.views, self.settings)
        device = resolve_device(self.device)
        check_can_write_mesh(self.output, self.overwrite, inputs)
        if self.details is not None:
            check_can_write_folder(self.details, self.overwrite, DETAIL_FILES, inputs)
            reject_overlapping_outputs(mesh_output_files(self.output), (self.details,), "--details")
        config = settings_or_options(self.settings, self.fuse)
        fused = fuse_views(read_views(self.views, progress), config, progress, device)
        if self.details is not None:
            self._write_details(fused, config)
        write_mesh(fused.mesh, self.output, self.overwrite)
        self._print_result(fused)

    def _write_details(self, fused: FusionResult, config: FuseConfig) -> None:
        """Writes settings, report, conflict maps and refined views atomically."""
        import json

        from ..io.files.atomic import atomic_folder
        from ..io.images.images import write_image
        from ..io.settings import settings_to_json
        from ..io.views.transforms_json import write_views
        from ..texturing.lighting.images import light_image, shading_images

        with atomic_folder(self.details, self.overwrite, DETAIL_FILES) as folder:
            (folder / "settings.json").write_text(settings_to_json(config), encoding="utf-8")
            report = {"seconds": fused.seconds}
            if not fused.surface.is_hull:
                report["fusion"] = fused.surface.report.to_dict()
                for view, conflict in enumerate(fused.surface.conflict):
                    write_image(folder / "conflict_maps" / f"{view:03d}.png", conflict)
            if fused.unlit is not None:
                report["light"] = fused.unlit.report.to_dict()
                images = shading_images(fused.unlit)
                for view, image in enumerate(images):
                    write_image(folder / "shading" / f"{view:03d}.png", image)
                write_image(folder / "light.png", light_image(fused.unlit.light)[0])
            (folder / "report.json").write_text(json.dumps(report, indent=2), encoding="utf-8")
            write_views(fused.views, folder / "views")

    def _print_result(self, fused: FusionResult) -> None:
        texture_px = fused.mesh.texture.shape[0]
        if self.json:
            print_json(
                {
                    "output": str(self.output),
                    "faces": len(fused.mesh.faces),
                    "texture_px": texture_px,
                    "unwrap_method": fused.unwrap_method,
                    **_light_summary(fused),
                    "seconds": fused.seconds,
                }
            )
            return
        if fused.unlit is not None and fused.unlit.report.is_applied:
            reason = fused.unlit.report.reason
            print_out(sentence_case(reason))
        timings = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in fused.seconds.items())
        print_out(
            f"{len(fused.mesh.faces)} faces, {texture_px} px texture in {self.output} ({timings})"
        )


def _light_summary(fused: FusionResult) -> dict[str, Any]:
    """Entry of the JSON result about the light; none without --unlight."""
    if fused.unlit is None:
        return {}
    report = fused.unlit.report
    return {"light": {"is_applied": report.is_applied, "spread": report.spread}}
