"""Views onto a mesh: each texel takes its colour from the pictures that see it well."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import StageError
from ..mesh import Mesh
from ..progress import SILENT, Progress
from ..rendering.raycast import RayCaster
from ..views import Views
from .config import BakeConfig
from .fill import fill_unseen, pad_charts
from .sampling import sample_picture
from .texels import Texels, texels_of
from .visibility import solid_pixels, view_weights

STAGE = "baking"
_SURE = 0.02
"""A texel whose weights add up to this needs no help from its neighbours."""


@dataclass(frozen=True, eq=False)
class Baked:
    """A textured mesh, and which part of its texture the views have seen."""

    mesh: Mesh
    """The mesh with its texture."""
    coverage: Tensor
    """(size, size) in 0..1: 1 where views have seen the texel, 0 where it was filled."""


def bake_texture(
    mesh: Mesh, views: Views, config: BakeConfig | None = None, progress: Progress = SILENT
) -> Baked:
    """Bakes the views' colours into a texture; the result is on the CPU.

    Args:
        mesh: a mesh with uv.
        views: V views; with masks, what lies outside them never reaches the texture.
        config: texture size and weights.
        progress: told about each view.

    Raises:
        InputError: the mesh has no uv.
        StageError: no view sees any of it.
    """
    config = config or BakeConfig()
    mesh, views = mesh.to("cpu"), views.to("cpu")
    if mesh.normals is None:
        mesh = mesh.with_smooth_normals()
    texels = texels_of(mesh, config.texture_px)
    colour, seen = _blend(mesh, texels, views, config, progress)
    if not bool(seen.any()):
        raise StageError(
            STAGE,
            "no view sees any part of the mesh.",
            "Check that the mesh lies in the world of the cameras, and that the masks hold it.",
        )
    colour = fill_unseen(mesh, texels, colour, seen)
    coverage = torch.zeros(config.texture_px**2)
    coverage[texels.index] = seen
    texture = pad_charts(texels, colour).clamp(0.0, 1.0)
    return Baked(
        replace(mesh, texture=texture, vertex_colours=None),
        coverage.reshape(config.texture_px, config.texture_px),
    )


def _blend(
    mesh: Mesh, texels: Texels, views: Views, config: BakeConfig, progress: Progress
) -> tuple[Tensor, Tensor]:
    """Weighted mean colour (T, 3) over the views, and how sure it is (T,) in 0..1."""
    caster = RayCaster(mesh.vertices.numpy(), mesh.faces.numpy())
    total = torch.zeros(len(texels.index))
    sums = torch.zeros(len(texels.index), 3)
    masks = views.masks
    if masks is None:
        masks = torch.ones(views.colour.shape[:3])
    for view in progress.track(range(len(views)), STAGE, len(views)):
        camera = views.cameras[view]
        weights, pixels = view_weights(mesh, caster, texels, camera, masks[view], config)
        some = torch.nonzero(weights)[:, 0]
        colour = sample_picture(_without_background(views.colour[view], masks[view]), pixels[some])
        total.index_add_(0, some, weights[some])
        sums.index_add_(0, some, weights[some, None] * colour)
    return sums / total.clamp_min(1e-9)[:, None], (total / _SURE).clamp(0.0, 1.0)


def _without_background(colour: Tensor, mask: Tensor) -> Tensor:
    """Colour (H, W, 3) whose pixels not wholly on the object repeat the nearest that is.

    A silhouette's pixels hold a share of the white background, which would bleed into the texture.
    """
    from scipy.ndimage import distance_transform_edt

    inside = solid_pixels(mask)
    if not bool(inside.any()):
        return colour
    row, column = distance_transform_edt(
        ~inside.numpy(), return_distances=False, return_indices=True
    )
    return colour[torch.from_numpy(row).long(), torch.from_numpy(column).long()]
