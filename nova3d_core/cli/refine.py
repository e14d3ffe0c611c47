"""`refine`: the texture of a mesh, refined by a folder of views."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from ..conventions import UpAxis
from ..progress import Progress
from ..texturing.config import RefineConfig
from .console import print_json, print_out


@dataclass(frozen=True)
class Refine:
    """Refine the texture of a mesh by the folder of views that it was baked from."""

    mesh: Positional[Path]
    """A mesh with a texture, in the world frame of the views' cameras."""
    views: Positional[Path]
    """A folder of views, as for `fuse`."""
    output: Annotated[Path, arg(aliases=("-o",), metavar="MESH")]
    """The mesh file to write: .glb, .obj or .ply."""
    up_axis: UpAxis = "+Y"
    """Up axis of the mesh."""
    refine: Annotated[RefineConfig, arg(name="")] = field(default_factory=RefineConfig)
    """Settings of the refinement."""
    device: str = "cpu"
    """Device of the optimisation: cpu, cuda, cuda:1."""
    overwrite: bool = False
    """Replace an existing output."""
    json: bool = False
    """Print the result as JSON."""

    def run(self, progress: Progress) -> None:
        """Runs the command."""
        from ..compute.devices import resolve_device
        from ..io.mesh.read import read_mesh
        from ..io.mesh.write import check_can_write_mesh, write_mesh
        from ..io.views.transforms_json import read_views
        from ..texturing.refine import refine_texture

        device = resolve_device(self.device)
        check_can_write_mesh(self.output, self.overwrite, (self.mesh, self.views))
        mesh, views = read_mesh(self.mesh, self.up_axis), read_views(self.views, progress)
        refined = refine_texture(mesh, views, self.refine, progress, device)
        write_mesh(refined.mesh, self.output, self.overwrite)
        if self.json:
            print_json(
                {
                    "output": str(self.output),
                    "warp_px": refined.warp_px,
                    "difference_before": refined.difference_before,
                    "difference": refined.difference,
                }
            )
            return
        moved = f"views moved by {refined.warp_px:.1f} px, " if refined.warp_px else ""
        print_out(
            f"{self.output}: {moved}difference from the views "
            f"{refined.difference_before:.4f} -> {refined.difference:.4f}"
        )
