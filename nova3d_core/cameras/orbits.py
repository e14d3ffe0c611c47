"""Camera orbits with per-view angles, and the orbits of known multi-view models."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from ..checks import check_between, check_bounds, check_choice
from ..conventions import CameraKind
from ..errors import InputError
from .rigs import MAX_VIEWS, RigConfig

OrbitMotion = Literal["static", "sine", "custom"]
ORBIT_MOTIONS: tuple[str, ...] = get_args(OrbitMotion)


@dataclass(frozen=True)
class OrbitConfig:
    """An orbit of cameras that look at the origin, with an azimuth and elevation per view."""

    rig: RigConfig = field(default_factory=RigConfig)
    """Number of views, elevation, distance, focal length and image size."""
    motion: OrbitMotion = "static"
    """static: constant elevation; sine: one period of a sine per orbit; custom: listed angles."""
    elevation_amplitude_deg: float = 30.0
    """sine: amplitude of the elevation around the rig's."""
    azimuths_deg: tuple[float, ...] = ()
    """custom: one azimuth per view; the number of azimuths is the number of views."""
    elevations_deg: tuple[float, ...] = ()
    """custom: one elevation per view, or one for all; the rig's if empty."""

    def __post_init__(self):
        check_choice("orbit motion", self.motion, ORBIT_MOTIONS)
        check_bounds(self, "orbit", elevation_amplitude_deg=(0.0, 90.0))
        azimuths, elevations = self.angles_deg()
        if len(azimuths) > MAX_VIEWS:
            raise InputError(f"{len(azimuths)} azimuths exceed the limit of {MAX_VIEWS} views.")
        for angle in azimuths:
            check_between("an orbit's azimuth", angle, -360.0, 720.0)
        for angle in elevations:
            check_between("an orbit's elevation", angle, -90.0, 90.0)
        # also check angles that this motion ignores
        check_bounds(self, "orbit", azimuths_deg=(-360.0, 720.0), elevations_deg=(-90.0, 90.0))

    def angles_deg(self) -> tuple[list[float], list[float]]:
        """Azimuths and elevations of all views."""
        count, elevation = self.rig.count, self.rig.elevation_deg
        phases = [index / count for index in range(count)]
        azimuths = [self.rig.azimuth_start_deg + 360.0 * phase for phase in phases]
        if self.motion == "static":
            return azimuths, [elevation] * count
        if self.motion == "sine":
            amplitude = self.elevation_amplitude_deg
            sines = [math.sin(2.0 * math.pi * phase) for phase in phases]
            return azimuths, [elevation + amplitude * sine for sine in sines]
        azimuths, elevations = list(self.azimuths_deg), list(self.elevations_deg) or [elevation]
        if not azimuths:
            raise InputError(
                "a custom orbit needs azimuths.", "List them, for example: 0, 90, 180, 270."
            )
        if len(elevations) == 1:
            elevations *= len(azimuths)
        if len(elevations) != len(azimuths):
            raise InputError(
                f"got {len(azimuths)} azimuths but {len(elevations)} elevations.",
                "Provide one elevation per azimuth, or a single one for all.",
            )
        return azimuths, elevations


def focal_for_fov(fov_deg: float) -> float:
    """Focal length over image width for a horizontal field of view."""
    check_between("field of view", fov_deg, 1.0, 170.0)
    return 0.5 / math.tan(math.radians(fov_deg) / 2.0)


def parse_angles(text: str, name: str) -> tuple[float, ...]:
    """Parses degrees such as "0, 45, 90", separated by commas, semicolons or whitespace.

    Raises:
        InputError: an item is not a number.
    """
    items = text.replace(",", " ").replace(";", " ").split()
    angles = []
    for item in items:
        try:
            angles.append(float(item))
        except ValueError:
            raise InputError(
                f"{name}: '{item}' is not a number.", "Use degrees, for example: 0, 45, 90."
            ) from None
    return tuple(angles)


_SV3D_AZIMUTHS = (*(360.0 * index / 21 for index in range(1, 21)), 0.0)
_WONDER3D_AZIMUTHS = (0.0, 45.0, 90.0, 180.0, 270.0, 315.0)

ORBIT_PRESETS: dict[str, OrbitConfig] = {
    "nova3d": OrbitConfig(),
    # the input view is the last; objects fill about 0.8 of the image at this distance
    "sv3d": OrbitConfig(
        RigConfig(count=21, radius=2.0, focal_per_width=focal_for_fov(33.8)),
        motion="custom",
        azimuths_deg=_SV3D_AZIMUTHS,
        elevations_deg=(0.0,),
    ),
    # trained at distance 2 with objects of size 1.6, which is equivalent for a unit object
    "v3d": OrbitConfig(RigConfig(count=18, radius=1.25, focal_per_width=focal_for_fov(60.0))),
    "wonder3d": OrbitConfig(
        RigConfig(count=6, kind="orthographic", ortho_scale=1.35),
        motion="custom",
        azimuths_deg=_WONDER3D_AZIMUTHS,
        elevations_deg=(0.0,),
    ),
}
"""Orbits of known multi-view models, in the order of their views."""


def preset_orbit(preset: str, width_px: int, height_px: int) -> OrbitConfig:
    """A preset orbit with another image size.

    Raises:
        InputError: unknown preset.
    """
    check_choice("orbit preset", preset, tuple(ORBIT_PRESETS))
    orbit = ORBIT_PRESETS[preset]
    return replace(orbit, rig=replace(orbit.rig, width_px=width_px, height_px=height_px))


def parse_orbit(
    rig: RigConfig,
    motion: OrbitMotion,
    elevation_amplitude_deg: float,
    azimuths: str,
    elevations: str,
) -> OrbitConfig:
    """An orbit from form values: angles are text, and are ignored unless the motion is "custom"."""
    if motion != "custom":
        return OrbitConfig(rig, motion, elevation_amplitude_deg)
    return OrbitConfig(
        rig,
        motion,
        elevation_amplitude_deg,
        parse_angles(azimuths, "azimuths"),
        parse_angles(elevations, "elevations"),
    )


def rig_from_fov(
    count: int,
    elevation_deg: float,
    radius: float,
    fov_deg: float,
    kind: CameraKind,
    ortho_scale: float,
    size_px: tuple[int, int],
) -> RigConfig:
    """A rig with a horizontal field of view in degrees and an image size (width, height)."""
    return RigConfig(
        count=count,
        elevation_deg=elevation_deg,
        radius=radius,
        kind=kind,
        focal_per_width=focal_for_fov(fov_deg),
        ortho_scale=ortho_scale,
        width_px=size_px[0],
        height_px=size_px[1],
    )
