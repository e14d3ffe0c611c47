"""`bake`: the texture of a given mesh from a folder of views."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from ..conventions import UpAxis
from ..progress import Progress
from ..texturing.config import BakeConfig
from .console import print_json, print_out

if TYPE_CHECKING:
    from torch import Tensor

MASK_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Bake:
    """Bake a folder of views into the texture of a mesh."""

    mesh: Positional[Path]
    """A mesh in the world frame of the views' cameras."""
    views: Positional[Path]
    """A folder of views, as for `fuse`."""
    output: Annotated[Path, arg(aliases=("-o",), metavar="MESH")]
    """The mesh file to write: .glb, .obj or .ply."""
    up_axis: UpAxis = "+Y"
    """Up axis of the mesh."""
    uv: Literal["keep", "xatlas", "box"] = "keep"
    """UV coordinates. keep: those of the mesh if it has any, else xatlas."""
    keep_texture: bool = True
    """Where no view sees the mesh, keep its own texture or vertex colours, if any; else inpaint."""
    edit_masks: Path | None = None
    """A folder with one mask image per view, in the order of their names: only their white pixels
    are baked, the rest keeps the mesh's own texture."""
    bake: Annotated[BakeConfig, arg(name="")] = field(default_factory=BakeConfig)
    """Settings of the bake."""
    overwrite: bool = False
    """Replace an existing output."""
    json: bool = False
    """Print the result as JSON."""

    def run(self, progress: Progress) -> None:
        """Runs the command."""
        from ..io.mesh.read import read_mesh
        from ..io.mesh.write import check_can_write_mesh, write_mesh
        from ..io.views.transforms_json import read_views
        from ..meshing.config import UnwrapConfig
        from ..pipeline.config import FuseConfig
        from ..pipeline.stages import bake_views

        check_can_write_mesh(self.output, self.overwrite, (self.mesh, self.views, self.edit_masks))
        mesh, views = read_mesh(self.mesh, self.up_axis), read_views(self.views, progress)
        method = "box" if self.uv == "box" else "xatlas"
        baked = bake_views(
            mesh,
            views,
            FuseConfig(unwrap=UnwrapConfig(method=method), bake=self.bake),
            keep_uv=self.uv == "keep",
            progress=progress,
            keep_colour=self.keep_texture,
            edit_masks=None if self.edit_masks is None else _read_masks(self.edit_masks),
        )
        write_mesh(baked.mesh, self.output, self.overwrite)
        coverage = float(baked.coverage.mean())
        height, width = baked.mesh.texture.shape[:2]
        if self.json:
            print_json(
                {
                    "output": str(self.output),
                    "texture_px": [width, height],
                    "coverage": coverage,
                    "unwrap_method": baked.unwrap_method,
                    "seconds": baked.seconds,
                }
            )
            return
        print_out(
            f"{width}x{height} px texture in {self.output}, {100.0 * coverage:.0f} % baked "
            f"({baked.seconds['baking']:.1f} s)"
        )


def _read_masks(folder: Path) -> Tensor:
    """The mask images of a folder (V, H, W) in 0..1, in the order of their names."""
    import torch

    from ..errors import InputError
    from ..io.images.images import read_mask

    paths = []
    if folder.is_dir():
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in MASK_SUFFIXES)
    if not paths:
        raise InputError(
            f"{folder} has no mask images.", f"Put {', '.join(MASK_SUFFIXES)} files there."
        )
    masks = [read_mask(path) for path in paths]
    for path, mask in zip(paths, masks, strict=True):
        if mask.shape != masks[0].shape:
            raise InputError(
                f"{path.name} is {mask.shape[1]}x{mask.shape[0]} px, but {paths[0].name} is "
                f"{masks[0].shape[1]}x{masks[0].shape[0]} px.",
                "All edit masks must have the size of the views.",
            )
    return torch.stack(masks)
