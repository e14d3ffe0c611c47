"""Settings of camera rigs; `cameras.orbit_cameras` makes cameras of one."""

from __future__ import annotations

from dataclasses import dataclass

from ..checks import check_bounds
from ..conventions import CAMERA_KINDS, FOCAL_PER_WIDTH, ORBIT_RADIUS, CameraKind
from ..errors import InputError

MAX_VIEWS = 4096
"""Sanity limit on the number of cameras in a rig."""
MAX_IMAGE_PX = 16_384
"""Maximum width and height of a rendered image."""


@dataclass(frozen=True)
class RigConfig:
    """Cameras that look at the origin, evenly spaced in azimuth."""

    count: int = 16
    """Number of views; view 0 is the front."""
    elevation_deg: float = 0.0
    """Elevation of all cameras above the horizon, -90 to 90."""
    azimuth_start_deg: float = 0.0
    """Azimuth of view 0; a camera at azimuth 0 is on +Z, at 90 on +X."""
    radius: float = ORBIT_RADIUS
    """Distance of the cameras from the origin in world units; the object's longest side is 1."""
    kind: CameraKind = "perspective"
    """Perspective or orthographic projection."""
    focal_per_width: float = FOCAL_PER_WIDTH
    """Focal length over image width, for perspective cameras."""
    ortho_scale: float = 1.5
    """Width of the image in world units, for orthographic cameras."""
    width_px: int = 256
    """Image width."""
    height_px: int = 256
    """Image height."""

    def __post_init__(self):
        check_bounds(
            self,
            "rig",
            count=(1, MAX_VIEWS),
            elevation_deg=(-90.0, 90.0),
            azimuth_start_deg=(-360.0, 360.0),
            radius=(1e-3, 1e4),
            focal_per_width=(0.01, 1e3),
            ortho_scale=(1e-3, 1e4),
            width_px=(1, MAX_IMAGE_PX),
            height_px=(1, MAX_IMAGE_PX),
        )
        if self.kind not in CAMERA_KINDS:
            raise InputError(
                f"rig kind is '{self.kind}', expected one of {', '.join(CAMERA_KINDS)}."
            )
