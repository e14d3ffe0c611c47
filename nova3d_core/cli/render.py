"""`render`: a folder of views from a mesh."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from ..cameras.rigs import RigConfig
from ..conventions import UpAxis
from ..progress import Progress
from ..rendering.config import RenderConfig
from .console import print_json, print_out


@dataclass(frozen=True)
class Render:
    """Render a mesh to a folder of views with colour, normals, masks and cameras."""

    mesh: Positional[Path]
    """A .glb, .gltf, .obj, .ply, .stl or .off file."""
    output: Annotated[Path, arg(aliases=("-o",), metavar="DIR")]
    """The output folder, for a transforms.json and the images."""
    up_axis: UpAxis = "+Y"
    """Up axis of the mesh: +Y in glTF, +Z in many scans."""
    normalise: bool = True
    """Centre the mesh and scale its longest side to 1, as the default camera rig expects."""
    rig: RigConfig = field(default_factory=RigConfig)
    """Camera rig."""
    render: RenderConfig = field(default_factory=RenderConfig)
    """Settings of the renderer."""
    turntable: Path | None = None
    """Also write a turntable animation of the mesh, .webp or .gif."""
    overwrite: bool = False
    """Replace existing outputs."""
    json: bool = False
    """Print the result as JSON."""

    def run(self, progress: Progress) -> None:
        """Runs the command."""
        from ..cameras.cameras import orbit_cameras
        from ..io.files.atomic import check_can_write_folder
        from ..io.files.ownership import reject_overlapping_outputs
        from ..io.mesh.read import read_mesh
        from ..io.views.transforms_json import FOLDER_CONTENT, write_views
        from ..rendering.turntable import check_turntable_path, turntable, write_turntable
        from ..rendering.views import render_views

        check_can_write_folder(self.output, self.overwrite, FOLDER_CONTENT, (self.mesh,))
        if self.turntable is not None:
            check_turntable_path(self.turntable, self.overwrite, (self.mesh,))
            reject_overlapping_outputs((self.turntable,), (self.output,), "--turntable")
        mesh = read_mesh(self.mesh, self.up_axis)
        mesh = mesh.normalised() if self.normalise else mesh
        views = render_views(mesh, orbit_cameras(self.rig), self.render, progress).views
        write_views(views, self.output, self.overwrite, progress)
        if self.turntable is not None:
            write_turntable(turntable(mesh, progress=progress), self.turntable, self.overwrite)
        if self.json:
            print_json({"output": str(self.output), "views": len(views), "faces": len(mesh.faces)})
        else:
            print_out(f"{len(views)} views of {len(mesh.faces)} faces in {self.output}")
