"""Camera trajectory of a sample: the cameras a family supports, in its order of views."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...cameras.cameras import Cameras, cameras_at, cameras_from_orbit
from ...cameras.orbits import preset_orbit
from ...cameras.rigs import RigConfig
from ...cameras.rotations import axis_angle_to_matrix
from ...errors import InputError
from ..families import Family

logger = logging.getLogger(__name__)

ANGLE_TOLERANCE_DEG = 0.5
"""Angles that differ by less are considered equal."""
MIN_STEP_DEG = 0.1
"""Minimum azimuth step between consecutive views."""
OPTICS_TOLERANCE = 0.02
"""Relative difference below which distances and focal lengths are considered equal."""


@dataclass(frozen=True, eq=False)
class CameraTrajectory:
    """V cameras in the order of the network's views."""

    cameras: Cameras
    """V cameras with the family's distance and focal length."""
    azimuths_deg: Tensor
    """(V,) in [0, 360): azimuths about the orbit's axis, relative to the input view."""
    elevations_deg: Tensor
    """(V,) elevations above the orbit's horizon: 0 where the axis is the input camera's."""
    input_view: int
    """Index of the view that shows the input image."""

    @property
    def evenly_spaced(self) -> bool:
        """Whether the azimuths are those of the trained orbits: one turn in even steps."""
        views = len(self.azimuths_deg)
        azimuths = self.input_view_first(self.azimuths_deg)
        return _max_deviation(azimuths, even_azimuths(views)) <= ANGLE_TOLERANCE_DEG

    def input_view_first(self, batch: Tensor) -> Tensor:
        """Reorders (V, ...) from the network's order to one that starts at the input view."""
        return batch.roll(-self.input_view, 0)

    def cameras_input_view_first(self) -> Cameras:
        """The cameras in an order that starts at the input view."""
        order = torch.arange(len(self.cameras), device=self.azimuths_deg.device)
        return self.cameras[self.input_view_first(order)]


def plan_trajectory(
    family: Family, size_px: int, elevation_deg: float = 0.0, cameras: Cameras | None = None
) -> CameraTrajectory:
    """Plans the cameras that a family generates.

    Only the angles of given cameras are used; distance and focal length are those of the training.
    The camera at azimuth 0 is the input view; without one, the camera at the family's index is.

    Where the family's orbit circles the up axis of the input camera, the whole rig is rotated about
    that camera's right axis. So the poses relative to the input view are those of a level orbit at
    any elevation, and the object is upright in the world.

    Args:
        family: how the model was trained.
        size_px: width and height of the images.
        elevation_deg: elevation of the input image's camera where no cameras are given.
        cameras: one full orbit, counter-clockwise seen from above.

    Raises:
        InputError: wrong number of cameras, or angles that the family does not support.
    """
    rig = preset_orbit(family.orbit, size_px, size_px).rig
    own = cameras_from_orbit(preset_orbit(family.orbit, size_px, size_px))
    if cameras is None:
        azimuths = own.azimuth_deg
        elevations = torch.full_like(azimuths, elevation_deg)
    else:
        _check_count(family, cameras)
        _warn_of_other_optics(family, own, cameras)
        azimuths, elevations = cameras.azimuth_deg.cpu(), cameras.elevation_deg.cpu()
    azimuths, elevations = _align_input_view(family, azimuths, elevations)
    input_view = family.input_view % family.views
    tilt_deg = 0.0
    if family.orbit_axis == "input_camera":
        tilt_deg = float(elevations[input_view])
        if cameras is not None:
            _warn_of_elevation(family, elevations, tilt_deg)
        azimuths, elevations = _level_angles(azimuths, elevations, input_view)
    relative = (azimuths - azimuths[input_view]) % 360.0  # (V,)
    relative[input_view] = 0.0
    _check_angles(family, relative.roll(-input_view), elevations)
    planned = cameras_at(azimuths.tolist(), elevations.tolist(), rig)
    return CameraTrajectory(
        _rotate_about_right_axis(planned, input_view, tilt_deg), relative, elevations, input_view
    )


def even_azimuths(views: int) -> Tensor:
    """(V,) azimuths of one turn in even steps, from 0."""
    return torch.arange(views) * (360.0 / views)


def _trained_azimuths(family: Family) -> Tensor:
    """(V,) azimuths of the family's own orbit, the input view first, at 0."""
    own = cameras_from_orbit(preset_orbit(family.orbit, 64, 64)).azimuth_deg
    azimuths = own.roll(-family.input_view)
    relative = (azimuths - azimuths[0]) % 360.0
    relative[0] = 0.0
    return relative


def _rotate_about_right_axis(cameras: Cameras, view: int, angle_deg: float) -> Cameras:
    """The rig rotated rigidly about one camera's right axis, which raises it by an angle."""
    if angle_deg == 0.0:
        return cameras
    poses = cameras.world_to_camera.double()
    right = poses[view, 0, :3]  # in the world
    to_level = torch.eye(4, dtype=torch.float64)
    to_level[:3, :3] = axis_angle_to_matrix(right[None] * math.radians(angle_deg))[0]
    return replace(cameras, world_to_camera=(poses @ to_level).float())


def _level_angles(azimuths: Tensor, elevations: Tensor, input_view: int) -> tuple[Tensor, Tensor]:
    """Angles (V,) in a frame in which the input view has elevation 0; as given if none fits.

    Cameras at a constant elevation stand for a level orbit around an object seen from above: the
    model cannot generate them, and its own orbit replaces them.
    """
    elevation_deg = elevations[input_view]
    if _max_deviation(elevations, elevation_deg) <= ANGLE_TOLERANCE_DEG:
        return azimuths, torch.zeros_like(elevations)
    cameras = cameras_at(azimuths.tolist(), elevations.tolist(), RigConfig())
    level = _rotate_about_right_axis(cameras, input_view, -float(elevation_deg))
    if _max_deviation(level.elevation_deg, torch.zeros(())) <= ANGLE_TOLERANCE_DEG:
        return level.azimuth_deg, torch.zeros_like(elevations)
    return azimuths, elevations  # `_check_angles` reports them


def _warn_of_elevation(family: Family, elevations: Tensor, elevation_deg: float) -> None:
    """Warns if given cameras at a constant elevation are replaced; see `_level_angles`."""
    is_constant = _max_deviation(elevations, torch.tensor(elevation_deg)) <= ANGLE_TOLERANCE_DEG
    if is_constant and abs(elevation_deg) > ANGLE_TOLERANCE_DEG:
        logger.warning(
            "%s orbits the up axis of the input camera: of the cameras' elevation of %.4g degrees, "
            "only the input view's is used.",
            family.label,
            elevation_deg,
        )


def _max_deviation(angles_deg: Tensor, expected_deg: Tensor) -> float:
    return float((angles_deg - expected_deg).abs().max())


def _check_count(family: Family, cameras: Cameras) -> None:
    if len(cameras) != family.views:
        raise InputError(
            f"{family.label} generates {family.views} views, but got {len(cameras)} cameras.",
            f"Provide an orbit of {family.views} cameras, or none.",
        )


def _warn_of_other_optics(family: Family, own: Cameras, given: Cameras) -> None:
    """Warns if the given cameras' projection or distance, which is ignored, differs."""
    focal, given_focal = (
        float(each.intrinsics[0, 0, 0]) / each.width for each in (own, given)
    )  # in image widths; for orthographic cameras, image widths per world unit
    radius, given_radius = (float(each.positions.norm(dim=1).mean()) for each in (own, given))
    orthographic = own.kind == "orthographic"
    differs = own.kind != given.kind or abs(given_focal / focal - 1.0) > OPTICS_TOLERANCE
    if not orthographic:
        differs = differs or abs(given_radius / radius - 1.0) > OPTICS_TOLERANCE
    if differs:
        logger.warning(
            "only the angles of the given cameras are used: %s generates %s.",
            family.label,
            f"orthographic views of a width of {1.0 / focal:.2f}"
            if orthographic
            else f"views from a distance of {radius:.2f} with a focal length of {focal:.2f} image "
            "widths",
        )


def _align_input_view(
    family: Family, azimuths: Tensor, elevations: Tensor
) -> tuple[Tensor, Tensor]:
    """Rolls angles (V,) so that the camera at azimuth 0 is at the input view's index."""
    front_angle = torch.minimum(azimuths % 360.0, 360.0 - azimuths % 360.0)
    front = int(front_angle.argmin())
    shift = (family.input_view - front) if float(front_angle[front]) < ANGLE_TOLERANCE_DEG else 0
    return azimuths.roll(shift), elevations.roll(shift)


def _check_angles(family: Family, azimuths: Tensor, elevations: Tensor) -> None:
    """Raises InputError for unsupported angles (V,); azimuths are relative, the first is 0."""
    views = family.views
    if bool((azimuths.diff() < MIN_STEP_DEG).any()):
        index = int((azimuths.diff() < MIN_STEP_DEG).nonzero()[0])
        raise InputError(
            f"{family.label} needs one counter-clockwise orbit seen from above, but view "
            f"{index + 1} after the input view is {float(azimuths[index + 1]):.1f} degrees from it "
            f"and the previous view {float(azimuths[index]):.1f} degrees.",
            "Provide increasing azimuths within one full turn.",
        )
    if family.free_angles:
        return
    trained = _trained_azimuths(family)
    worst = int((azimuths - trained).abs().argmax())
    if abs(float(azimuths[worst] - trained[worst])) > ANGLE_TOLERANCE_DEG:
        even = _max_deviation(trained, even_azimuths(views)) <= ANGLE_TOLERANCE_DEG
        spacing = f"{360.0 / views:.4g} degrees apart" if even else "at fixed azimuths"
        cameras = "evenly spaced cameras" if even else f"the orbit preset '{family.orbit}'"
        raise InputError(
            f"{family.label} generates views {spacing}, but a camera is at "
            f"{float(azimuths[worst]):.4g} degrees from the input view instead of "
            f"{float(trained[worst]):.4g}.",
            f"Provide {cameras}, or none; only SV3D p supports arbitrary azimuths.",
        )
    if float(elevations.max() - elevations.min()) > ANGLE_TOLERANCE_DEG:
        raise InputError(
            f"{family.label} generates views at a constant elevation, but the cameras' elevations "
            f"range from {float(elevations.min()):.4g} to {float(elevations.max()):.4g} degrees.",
            "Use the same elevation for all cameras; only SV3D p supports varying elevations.",
        )
