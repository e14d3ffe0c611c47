"""Camera rigs as plain settings; `cameras.orbit_cameras` turns one into cameras."""

from __future__ import annotations

from dataclasses import dataclass

from .conventions import CAMERA_KINDS, FOCAL_PER_WIDTH, ORBIT_RADIUS, CameraKind
from .errors import InputError


@dataclass(frozen=True)
class RigConfig:
    """An orbit of cameras that look at the origin, evenly spaced in azimuth."""

    count: int = 16
    """Number of views; view 0 is the front."""
    elevation_deg: float = 0.0
    """Height of all cameras above the horizon, -90 to 90."""
    azimuth_start_deg: float = 0.0
    """Azimuth of view 0; 0 looks from +Z, 90 from +X."""
    radius: float = ORBIT_RADIUS
    """Distance of the cameras from the origin, in world units (the object's longest side is 1)."""
    kind: CameraKind = "perspective"
    """Perspective, or orthographic (parallel rays)."""
    focal_per_width: float = FOCAL_PER_WIDTH
    """Focal length over picture width, for perspective cameras."""
    ortho_scale: float = 1.5
    """World size of the picture's width, for orthographic cameras."""
    width_px: int = 256
    """Picture width."""
    height_px: int = 256
    """Picture height."""

    def __post_init__(self):
        if self.count < 1:
            raise InputError(f"rig count is {self.count}, expected at least 1.")
        if self.kind not in CAMERA_KINDS:
            raise InputError(
                f"rig kind is '{self.kind}', expected one of {', '.join(CAMERA_KINDS)}."
            )
        if not -90.0 <= self.elevation_deg <= 90.0:
            raise InputError(f"rig elevation_deg is {self.elevation_deg}, expected -90 to 90.")
        for name in ("radius", "focal_per_width", "ortho_scale", "width_px", "height_px"):
            if not getattr(self, name) > 0:
                raise InputError(f"rig {name} is {getattr(self, name)}, expected above 0.")
