"""The image size that a fusion works on: no larger than its finest grid can use."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from torch import Tensor

from ..views import Views
from .surface import Surface

logger = logging.getLogger(__name__)

_PIXELS_PER_CELL = 1.0
_SMALLEST_PX = 256
"""Images are reduced by a whole factor as long as a cell of the finest grid keeps this many pixels,
and the longer side of an image these."""


def working_views(views: Views, finest_resolution: int) -> Views:
    """The views, reduced by a whole factor where their images are much finer than the grid.

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


def at_full_size(surface: Surface, views: Views) -> Surface:
    """The surface of reduced views with the cameras and conflict maps of the full-size ones."""
    if surface.conflict.shape == views.masks.shape:
        return surface
    cameras = replace(views.cameras, world_to_camera=surface.cameras.world_to_camera)
    size = views.masks.shape[1:]
    maps = torch.zeros_like(views.masks)
    for view, (small, mask) in enumerate(zip(surface.conflict, views.masks, strict=True)):
        planes = small[None, None]
        large = torch.nn.functional.interpolate(planes, size=size, mode="bilinear")[0, 0]
        maps[view] = large * (mask > 0.5)
    return replace(surface, cameras=cameras, conflict=maps)


def reduction_factor(views: Views, finest_resolution: int) -> int:
    """By which whole factor `working_views` reduces images; below 2 it leaves them as they are."""
    per_cell = float(object_extents_px(views.masks).max()) / finest_resolution
    longer = max(views.cameras.width, views.cameras.height)
    return min(int(per_cell / _PIXELS_PER_CELL), longer // _SMALLEST_PX)


def object_extents_px(masks: Tensor) -> Tensor:
    """(V, 2) width and height of the object's bounding box in masks (V, H, W), in pixels."""
    extents = torch.zeros(len(masks), 2)
    for view, mask in enumerate(masks):
        inside = mask > 0.5
        for axis in (0, 1):
            at = inside.any(dim=axis).nonzero()
            extents[view, axis] = int(at[-1] - at[0]) + 1 if len(at) else 0
    return extents
