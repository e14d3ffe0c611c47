"""The kinds of camera orbits that families are trained on; `sampled_orbits` samples them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

OrbitMotion = Literal["level", "tilted", "static", "dynamic"]


@dataclass(frozen=True)
class TrainingOrbit:
    """The orbits that a family is trained on."""

    views: int
    """Views of an orbit."""
    cameras: str
    """Distance and field of view: a key of `cameras.orbits.ORBIT_PRESETS`."""
    motion: OrbitMotion = "level"
    """level: elevation 0, even azimuths. tilted: the same around an object that is pitched by a
    random angle, so that its input view is taken from above or below (V3D). static: a random
    elevation, the same for all views (SV3D u). dynamic: elevations are a random sum of sines,
    azimuths are jittered (SV3D p)."""
    random_yaw: bool = False
    """Whether procedural objects, which have a front, are rotated by a random yaw, so that any view
    may be the input. Listed meshes always are."""
    fit_distance: bool = False
    """Whether the distance is chosen per object, so that the object fills the images (SV3D)."""
    max_radius: float | None = None
    """Objects whose bounding sphere is larger are scaled down, so that no view cuts them off."""
    azimuths_deg: tuple[float, ...] = ()
    """Azimuths of the views, the first 0; even if empty."""

    def base_azimuths(self, views: int) -> list[float]:
        """Azimuths of the views without random deviations."""
        if len(self.azimuths_deg) == views:
            return list(self.azimuths_deg)
        return [index * (360.0 / views) for index in range(views)]


TRAINING_ORBITS: dict[str, TrainingOrbit] = {
    "nova3d": TrainingOrbit(16, "nova3d"),
    "nova3d-mini": TrainingOrbit(16, "nova3d"),
    "sv3d_u": TrainingOrbit(21, "sv3d", "static", random_yaw=True, fit_distance=True),
    "sv3d_p": TrainingOrbit(21, "sv3d", "dynamic", random_yaw=True, fit_distance=True),
    "v3d": TrainingOrbit(18, "v3d", "tilted"),
    # the last view is at 337.5: the authors took 8 of 16 views with a truncating linspace
    "ouroboros3d": TrainingOrbit(
        8,
        "ouroboros3d",
        "static",
        random_yaw=True,
        max_radius=0.57,
        azimuths_deg=(0.0, 45.0, 90.0, 135.0, 180.0, 225.0, 270.0, 337.5),
    ),
}
"""By family."""
