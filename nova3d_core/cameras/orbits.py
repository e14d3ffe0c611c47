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
    zooms: tuple[float, ...] = ()
    """One multiplier of the focal length per view; empty: 1 for all."""

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
        check_bounds(self, "orbit", zooms=(1e-3, 1e3))
        if self.zooms and len(self.zooms) != len(azimuths):
            raise InputError(f"got {len(azimuths)} azimuths but {len(self.zooms)} zooms.")

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
_EIGHT_AZIMUTHS = tuple(45.0 * index for index in range(8))


def _orthographic_six(width: float) -> OrbitConfig:
    """Six level orthographic views: front, front right, right, back, left, front left."""
    rig = RigConfig(count=6, kind="orthographic", ortho_scale=width)
    return OrbitConfig(rig, "custom", azimuths_deg=_WONDER3D_AZIMUTHS, elevations_deg=(0.0,))


def _zero123plus() -> OrbitConfig:
    """Zero123++ v1.2: six views, row by row in its grid of 3 x 2 images; no input view.

    Angles and field of view as in its README and InstantMesh's `get_zero123plus_input_cameras`.
    Objects fit into a sphere of diameter 1 at a distance of 0.5 / tan(15 degrees), which cuts off
    the rim of that sphere (issue 73 of SUDO-AI-3D/zero123plus).
    """
    rig = RigConfig(
        count=6,
        radius=0.5 / math.tan(math.radians(15.0)),
        focal_per_width=focal_for_fov(30.0),
    )
    azimuths = tuple(30.0 + 60.0 * index for index in range(6))
    return OrbitConfig(rig, "custom", azimuths_deg=azimuths, elevations_deg=(20.0, -10.0) * 3)


def _pixal3d_mv() -> OrbitConfig:
    """Pixal3D multi-view and Hunyuan3D-2mv: front, left, back, right.

    Field of view 20 degrees, distance 1.1 * 0.5 / tan(10 degrees): a unit object fills 1 / 1.1 of
    the image (ComfyUI's Pixal3DMultiViewConditioning). "left" shows the object's own left side,
    azimuth 90: in the examples of Hunyuan3D-2mv, the left view faces the image's left border.
    """
    rig = RigConfig(
        count=4,
        radius=1.1 * 0.5 / math.tan(math.radians(10.0)),
        focal_per_width=focal_for_fov(20.0),
    )
    return OrbitConfig(rig)


def _ultratex() -> OrbitConfig:
    """UltraTex: azimuths 0, 90, 180, 270, then from above and from below.

    Distance 1.67, focal length 6400 px at 4096 px, objects in a sphere of diameter 1: the cameras
    of its training data (G-buffer TexVerse; `ultratex_core/render.py` of
    visualbruno/ComfyUI-UltraTex). The order is that of ComfyUI's UltraTexConditioning and Create
    Camera Orbit, whose image tops of both poles point away from the front camera: from below, this
    is azimuth 180.
    """
    rig = RigConfig(count=6, radius=1.67, focal_per_width=6400.0 / 4096.0)
    return OrbitConfig(
        rig,
        "custom",
        azimuths_deg=(0.0, 90.0, 180.0, 270.0, 0.0, 180.0),
        elevations_deg=(0.0, 0.0, 0.0, 0.0, 90.0, -90.0),
    )


def _camera_angle(
    elevations_deg: tuple[float, ...], zoom_settings: tuple[float, ...]
) -> OrbitConfig:
    """Cameras of ComfyUI's CameraAngle for eight azimuths; zooms outermost, azimuths innermost.

    Field of view 35 degrees, distance 6; the setting 0..10 scales the focal length by 1..1.875
    (comfy_extras/nodes_camera_angle.py). Its words are those of the Qwen multiple-angles LoRA:
    elevations -30 low-angle, 0 eye-level, 30 elevated, 60 high-angle; settings 0 wide, 5 medium,
    10 close-up. The LoRA's own distances are not published.
    """
    rig = RigConfig(count=8, radius=6.0, focal_per_width=focal_for_fov(35.0))
    rings, sets = len(elevations_deg), len(zoom_settings)
    return OrbitConfig(
        rig,
        "custom",
        azimuths_deg=_EIGHT_AZIMUTHS * (rings * sets),
        elevations_deg=tuple(angle for angle in elevations_deg for _ in _EIGHT_AZIMUTHS) * sets,
        zooms=tuple(1.0 + 0.0875 * zoom for zoom in zoom_settings for _ in range(8 * rings)),
    )


ORBIT_PRESETS: dict[str, OrbitConfig] = {
    "nova3d": OrbitConfig(),
    # the input view is the last; objects fill about 0.8 of the image at this distance
    "sv3d": OrbitConfig(
        RigConfig(count=21, radius=2.0, focal_per_width=focal_for_fov(33.8)),
        motion="custom",
        azimuths_deg=_SV3D_AZIMUTHS,
        elevations_deg=(0.0,),
    ),
    # the paper's "sine-30" orbit; it returns to the elevation of the input view, the last
    "sv3d_sine": OrbitConfig(
        RigConfig(count=21, radius=2.0, focal_per_width=focal_for_fov(33.8)),
        motion="custom",
        azimuths_deg=_SV3D_AZIMUTHS,
        elevations_deg=tuple(30.0 * math.sin(math.radians(each)) for each in _SV3D_AZIMUTHS),
    ),
    # trained at distance 2 with objects of size 1.6, which is equivalent for a unit object
    "v3d": OrbitConfig(RigConfig(count=18, radius=1.25, focal_per_width=focal_for_fov(60.0))),
    # the last is at 337.5, not 315: the authors took 8 of 16 views with a truncating linspace
    "ouroboros3d": OrbitConfig(
        RigConfig(count=8, radius=1.741697, focal_per_width=50.0 / 36.0),
        motion="custom",
        azimuths_deg=(*_EIGHT_AZIMUTHS[:7], 337.5),
        elevations_deg=(0.0,),
    ),
    "wonder3d": _orthographic_six(1.35),
    # its width is not published, and free for orthographic views: a unit object fills 420 of 512 px
    "era3d": _orthographic_six(512.0 / 420.0),
    # left = -0.55, right = 0.55 for objects in a unit cube (scripts of huanngzh/MV-Adapter)
    "mvadapter": _orthographic_six(1.1),
    "zero123plus": _zero123plus(),
    "hunyuan3d_mv": _pixal3d_mv(),
    "pixal3d_mv": _pixal3d_mv(),
    "ultratex": _ultratex(),
    "camera_angle": _camera_angle((0.0,), (5.0,)),
    "qwen_multiangle": _camera_angle((-30.0, 0.0, 30.0, 60.0), (0.0, 5.0, 10.0)),
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
