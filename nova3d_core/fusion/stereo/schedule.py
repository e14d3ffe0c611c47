"""When a fusion uses stereo, and what its sweeps look for."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import LevelConfig

MAX_POSE_ERROR = 0.3
"""Initial pose error in 0..1 up to which stereo does not wait for the registration of poses."""
_MAX_OUTWARD = 0.03
"""Maximum depth offset of stereo out of the object: the visual hull encloses the object."""
_LATE_BAND = 0.04
"""Minimum depth offset into the object where stereo starts only after registration."""
MIN_BROAD_CONFIDENCE = 0.1
"""Mean confidence of the first sweep below which a surface that keeps its details is left alone."""
_COARSE_DOWNSAMPLING = 2
"""Factor by which images are downsampled further where stereo does not determine details."""


@dataclass(frozen=True)
class SweepPlan:
    """A plane sweep of a level."""

    outward: float
    """Maximum depth offset out of the object, relative to its longest side."""
    inward: float
    """Maximum depth offset into the object, relative to its longest side."""
    downsampling: int
    """Factor by which images are downsampled."""
    broad: bool
    """Whether the surface keeps its details and only moves as a whole."""


def plan_sweep(level: LevelConfig, wrong_poses: bool, has_normals: bool) -> SweepPlan:
    """The sweeps of a level.

    Details of exact normals are better than those of stereo, which then carves on coarse levels,
    and moves the surface as a whole on fine ones.

    Args:
        level: settings of the level.
        wrong_poses: whether the input poses were wrong, so that stereo starts late.
        has_normals: whether the views have normals.
    """
    broad = has_normals and level.stereo_keeps_details
    band = max(level.stereo_band, _LATE_BAND) if wrong_poses else level.stereo_band
    factor = _COARSE_DOWNSAMPLING if broad or wrong_poses else 1
    return SweepPlan(min(band, _MAX_OUTWARD), band, level.stereo_downsampling * factor, broad)
