"""Levels adapted to the size of the images, so that large images hardly cost more.

The presets are tuned for images with about one pixel per cell of the finest grid. Finer images show
each cell in several pixels: coarse levels then need no more rays, and registrations and plane
sweeps no denser pixels, to see every cell as often as before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .config import LevelConfig

TUNED_OBJECT_PX = 161.0
"""Longest side of the object in the images that the presets were tuned for: 16 views of 256 px."""
_MAX_STRIDE_CELLS = 1.2
"""Maximum distance between the rays of a registration, in cells: a surface that is sampled every
1.4 cells biases the poses, every 1.2 cells it does not."""
_COARSE_CELLS = 100
"""Levels with fewer cells compare smaller images; finer ones have fewer patches instead."""
_MAX_COARSE_RAYS = 16_000
"""Maximum rays per step of coarse levels without a limit of their own."""


def scale_levels(levels: Sequence[LevelConfig], object_px: float) -> tuple[LevelConfig, ...]:
    """The levels for images in which the object's longest side is `object_px` pixels."""
    last = len(levels) - 1
    return tuple(
        _scaled(level, object_px, is_finest=index == last and level.resolution >= _COARSE_CELLS)
        for index, level in enumerate(levels)
    )


def _scaled(level: LevelConfig, object_px: float, is_finest: bool) -> LevelConfig:
    stride = level.register_stride
    if level.register_every:
        stride = max(int(_MAX_STRIDE_CELLS * object_px / level.resolution), stride)
    finer = max(round(object_px / TUNED_OBJECT_PX), 1)
    max_rays = level.max_rays
    if max_rays == 0 and level.resolution < _COARSE_CELLS:
        max_rays = _MAX_COARSE_RAYS
    if is_finest:
        stereo = {"stereo_stride_px": min(level.stereo_stride_px * finer, 64)}
    else:
        stereo = {"stereo_downsampling": min(level.stereo_downsampling * finer, 16)}
    return replace(level, register_stride=min(stride, 16), max_rays=max_rays, **stereo)
