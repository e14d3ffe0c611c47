"""Image size of a fusion: no larger than what its finest grid can resolve."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from torch import Tensor

from ..views import Views
from .surface import Surface

logger = logging.getLogger(__name__)

_MIN_PIXELS_PER_CELL = 1.0
_MIN_SIDE_PX = 256
"""Images are downsampled by an integer factor that keeps this many pixels per cell of the finest
grid, and on their longer side."""


def working_views(views: Views, finest_resolution: int) -> Views:
    """The views, downsampled by an integer factor where their images are much finer than the grid.

    Args:
        views: V views with masks.
        finest_resolution: cells along the object's longest side on the finest level.
    """
    cameras, factor = views.cameras, reduction_factor(views, finest_resolution)
    if factor < 2:
        return views
    width, height = -(-cameras.width // factor), -(-cameras.height // factor)
    logger.info(
        "fusing at %dx%d px: the grid is too coarse for %dx%d px",
        width,
        height,
        cameras.width,
        cameras.height,
    )
    return views.resized(width, height)


def upsample_surface(surface: Surface, views: Views) -> Surface:
    """The surface of downsampled views with cameras and conflict maps at full size."""
    if surface.conflict.shape == views.masks.shape:
        return surface
    cameras = replace(views.cameras, world_to_camera=surface.cameras.world_to_camera)
    size = views.masks.shape[1:]
    maps = torch.zeros_like(views.masks)
    for view, (low, mask) in enumerate(zip(surface.conflict, views.masks, strict=True)):
        planes = low[None, None]
        full = torch.nn.functional.interpolate(planes, size=size, mode="bilinear")[0, 0]
        maps[view] = full * (mask > 0.5)
    return replace(surface, cameras=cameras, conflict=maps)


def reduction_factor(views: Views, finest_resolution: int) -> int:
    """Integer downsampling factor of `working_views`; below 2 images keep their size."""
    per_cell = float(object_extents_px(views.masks).max()) / finest_resolution
    longer = max(views.cameras.width, views.cameras.height)
    return min(int(per_cell / _MIN_PIXELS_PER_CELL), longer // _MIN_SIDE_PX)


def object_extents_px(masks: Tensor) -> Tensor:
    """(V, 2) width and height of the object's bounding box in masks (V, H, W), in pixels."""
    extents = torch.zeros(len(masks), 2)
    for view, mask in enumerate(masks):
        inside = mask > 0.5
        for axis in (0, 1):
            at = inside.any(dim=axis).nonzero()
            extents[view, axis] = int(at[-1] - at[0]) + 1 if len(at) else 0
    return extents
