"""`render`: a folder of views from a mesh or from Gaussian splats."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from ..cameras.rigs import RigConfig
from ..conventions import SPLAT_UP_AXIS, UpAxis
from ..progress import Progress
from ..rendering.config import RenderConfig
from ..wording import counted
from .console import print_json, print_out

if TYPE_CHECKING:
    from torch import Tensor

    from ..views import Views

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Render:
    """Render a mesh or Gaussian splats to a folder of views with colour, masks and cameras."""

    file: Positional[Path]
    """A mesh: .glb, .gltf, .obj, .ply, .stl or .off; its views have normals, too. Or Gaussian
    splats: .ply or .splat."""
    output: Annotated[Path, arg(aliases=("-o",), metavar="DIR")]
    """The output folder, for a transforms.json and the images."""
    up_axis: UpAxis | None = None
    """Up axis of the file. Default: +Y for meshes, as in glTF; -Y for splats, as the command splats
    writes them. +Z in many scans."""
    normalise: bool = True
    """Centre the object and scale its longest side to 1, as the default camera rig expects."""
    rig: RigConfig = field(default_factory=RigConfig)
    """Camera rig."""
    render: RenderConfig = field(default_factory=RenderConfig)
    """Settings of the renderer of meshes."""
    turntable: Path | None = None
    """Also write a turntable animation, .webp or .gif."""
    overwrite: bool = False
    """Replace existing outputs."""
    json: bool = False
    """Print the result as JSON."""

    def run(self, progress: Progress) -> None:
        """Runs the command."""
        from ..io.files.atomic import check_can_write_folder
        from ..io.files.ownership import reject_overlapping_outputs
        from ..io.splats.files import contains_splats
        from ..io.views.transforms_json import FOLDER_CONTENT, write_views
        from ..rendering.turntable import check_turntable_path, write_turntable

        check_can_write_folder(self.output, self.overwrite, FOLDER_CONTENT, (self.file,))
        if self.turntable is not None:
            check_turntable_path(self.turntable, self.overwrite, (self.file,))
            reject_overlapping_outputs((self.turntable,), (self.output,), "--turntable")
        is_splats = contains_splats(self.file)
        render = self._render_splats if is_splats else self._render_mesh
        views, frames, size = render(progress)
        write_views(views, self.output, self.overwrite, progress)
        if self.turntable is not None and frames is not None:
            write_turntable(frames, self.turntable, self.overwrite)
        unit = "splats" if is_splats else "faces"
        if self.json:
            print_json({"output": str(self.output), "views": len(views), unit: size})
        else:
            print_out(f"{counted(len(views), 'view')} of {size} {unit} in {self.output}")

    def _render_mesh(self, progress: Progress) -> tuple[Views, Tensor | None, int]:
        """Views, turntable frames and number of faces of a mesh."""
        from ..cameras.cameras import orbit_cameras
        from ..io.mesh.read import read_mesh
        from ..rendering.turntable import turntable
        from ..rendering.views import render_views

        mesh = read_mesh(self.file, self.up_axis or "+Y")
        mesh = mesh.normalised() if self.normalise else mesh
        views = render_views(mesh, orbit_cameras(self.rig), self.render, progress).views
        frames = None if self.turntable is None else turntable(mesh, progress=progress)
        return views, frames, len(mesh.faces)

    def _render_splats(self, progress: Progress) -> tuple[Views, Tensor | None, int]:
        """Views, turntable frames and number of splats of a file of splats."""
        from ..cameras.cameras import orbit_cameras
        from ..io.splats.files import read_splats
        from ..splatting.render import splat_views
        from ..splatting.turntable import splat_turntable

        if self.render != RenderConfig():
            logger.warning("render settings apply to meshes only, not to splats")
        splats = read_splats(self.file, self.up_axis or SPLAT_UP_AXIS)
        splats = splats.normalised() if self.normalise else splats
        views = splat_views(splats, orbit_cameras(self.rig), progress=progress)
        frames = None if self.turntable is None else splat_turntable(splats, progress=progress)
        return views, frames, len(splats)
