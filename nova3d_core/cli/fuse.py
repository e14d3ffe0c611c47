"""`fuse`: a folder of views to a textured mesh."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from ..pipeline_config import FuseConfig
from ..progress import Progress
from .console import say, say_json


@dataclass(frozen=True)
class Fuse:
    """Fuse a folder of views into a textured mesh."""

    views: Positional[Path]
    """A folder with a transforms.json, as `render` writes it and nerfstudio reads it."""
    output: Annotated[Path, arg(aliases=("-o",), metavar="MESH")]
    """The mesh to write: .glb, .obj or .ply."""
    fuse: Annotated[FuseConfig, arg(name="")] = field(default_factory=FuseConfig)
    """All stages."""
    overwrite: bool = False
    """Replace the output if it is there already."""
    json: bool = False
    """Say the result as JSON."""

    def run(self, progress: Progress) -> None:
        """Reads, fuses, writes."""
        from ..io.meshes import refuse_mesh_path, write_mesh
        from ..io.transforms_json import read_views
        from ..pipeline import fuse_views

        refuse_mesh_path(self.output, self.overwrite)
        fused = fuse_views(read_views(self.views, progress), self.fuse, progress)
        write_mesh(fused.mesh, self.output, self.overwrite)
        texture_px = fused.mesh.texture.shape[0]
        if self.json:
            say_json(
                {
                    "output": str(self.output),
                    "faces": len(fused.mesh.faces),
                    "texture_px": texture_px,
                    "unwrap_method": fused.unwrap_method,
                    "seconds": fused.seconds,
                }
            )
            return
        spent = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in fused.seconds.items())
        say(f"{len(fused.mesh.faces)} faces, {texture_px} px texture in {self.output} ({spent})")
