"""Image size of a bake: images much finer than the texture are downsampled first.

A texel takes its colour from the interpolated image at its centre. Where it covers many pixels,
that is a sample of their detail instead of its mean, and every step of the bake takes longer.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from ..mesh import Mesh
from ..views import Views
from .texels import Texels

logger = logging.getLogger(__name__)

_MIN_PIXELS_PER_TEXEL = 1.5
"""Pixels along the side of a texel that are kept: those of views at an angle cover less of it."""


def downsampling_factor(mesh: Mesh, texels: Texels, views: Views) -> int:
    """Integer factor by which views can be downsampled for a texture; 1 if they are not finer.

    Args:
        mesh: the mesh of the texture.
        texels: all texels of its charts.
        views: V views.
    """
    area = mesh.face_areas.sum()
    texel_side = float((area / len(texels.index)).sqrt())
    pixel_side = _largest_pixel_side(views, mesh.bounds.mean(dim=0))
    return max(int(texel_side / max(pixel_side, 1e-12) / _MIN_PIXELS_PER_TEXEL), 1)


def downsample_for_bake(
    views: Views, conflict: Tensor | None, factor: int
) -> tuple[Views, Tensor | None]:
    """Views and their conflict maps (V, H, W), downsampled by an integer factor."""
    if factor < 2:
        return views, conflict
    width, height = (-(-side // factor) for side in (views.cameras.width, views.cameras.height))
    logger.info(
        "baking images of %dx%d px: the texture is too coarse for %dx%d px",
        width,
        height,
        views.cameras.width,
        views.cameras.height,
    )
    small = views.without_normals().resized(width, height)
    if conflict is not None:
        conflict = torch.nn.functional.interpolate(conflict[:, None], (height, width), mode="area")
        conflict = conflict[:, 0]
    return small, conflict


def _largest_pixel_side(views: Views, centre: Tensor) -> float:
    """World size of a pixel at a point (3,), in the view where it is largest."""
    cameras = views.cameras
    side = 1.0 / cameras.intrinsics.diagonal(dim1=1, dim2=2)[:, :2].amin(dim=1)  # (V,)
    if cameras.kind == "perspective":
        side = side * cameras.project(centre[None])[1][:, 0].abs()
    return float(side.max())
