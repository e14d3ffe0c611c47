"""The cameras of a sample: which orbit a family can walk, and in which order it paints it."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from ...cameras.cameras import Cameras, cameras_at, cameras_from_orbit
from ...cameras.orbits import preset_orbit
from ...errors import InputError
from ..families import Family

logger = logging.getLogger(__name__)

ANGLE_TOLERANCE_DEG = 0.5
"""Angles that differ by less are the same."""
MIN_STEP_DEG = 0.1
"""Two views that stand closer are one."""
LENS_TOLERANCE = 0.02
"""Distances and focal lengths that differ by a smaller share are the same."""


@dataclass(frozen=True, eq=False)
class CameraTrajectory:
    """V cameras in the order in which the network paints them."""

    cameras: Cameras
    """V cameras with the family's own distance and lens."""
    azimuths_deg: Tensor
    """(V,) in [0, 360): how far each camera went from the input view; 0 for that one."""
    elevations_deg: Tensor
    """(V,) above the horizon."""
    input_view: int
    """Index of the view that shows the input image, from 0."""

    def input_view_first(self, batch: Tensor) -> Tensor:
        """(V, ...) of the network's order -> the same, from the input view on."""
        return batch.roll(-self.input_view, 0)

    def cameras_input_view_first(self) -> Cameras:
        """The cameras, from the input view on."""
        order = torch.arange(len(self.cameras), device=self.azimuths_deg.device)
        return self.cameras[self.input_view_first(order)]


def plan_trajectory(
    family: Family, size_px: int, elevation_deg: float = 0.0, cameras: Cameras | None = None
) -> CameraTrajectory:
    """Where a family stands on its walk around the object.

    Given cameras say from where: theirs are the angles, while distance and lens are those the
    family was trained with. The one at azimuth 0 sees the input image; where none stands there,
    the one at the family's own place in the list does.

    Args:
        family: how the model was trained.
        size_px: width and height of the images.
        elevation_deg: height of the orbit without given cameras.
        cameras: a whole walk, counter-clockwise seen from above.

    Raises:
        InputError: another number of cameras than the family paints, or angles it cannot paint.
    """
    own = cameras_from_orbit(preset_orbit(family.orbit, size_px, size_px))
    if cameras is None:
        azimuths = own.azimuth_deg
        elevations = torch.full_like(azimuths, elevation_deg)
    else:
        _check_count(family, cameras)
        _note_other_lens(family, own, cameras)
        azimuths, elevations = cameras.azimuth_deg.cpu(), cameras.elevation_deg.cpu()
    azimuths, elevations = _in_order(family, azimuths, elevations)
    input_view = family.input_view % family.views
    turns = (azimuths - azimuths[input_view]) % 360.0  # (V,)
    turns[input_view] = 0.0
    _check_angles(family, turns.roll(-input_view), elevations)
    rig = preset_orbit(family.orbit, size_px, size_px).rig
    placed = cameras_at(azimuths.tolist(), elevations.tolist(), rig)
    return CameraTrajectory(placed, turns, elevations, input_view)


def _check_count(family: Family, cameras: Cameras) -> None:
    if len(cameras) != family.views:
        raise InputError(
            f"{family.label} paints {family.views} views, but {len(cameras)} cameras were given.",
            f"Make an orbit of {family.views} cameras, or give none.",
        )


def _note_other_lens(family: Family, own: Cameras, given: Cameras) -> None:
    """Logs that the distance or lens of given cameras is not used, where it would matter."""
    lens, given_lens = (
        float(each.intrinsics[0, 0, 0]) / each.width * (each.kind == "perspective")
        for each in (own, given)
    )
    radius, given_radius = (float(each.positions.norm(dim=1).mean()) for each in (own, given))
    other_lens = abs(given_lens / lens - 1.0) > LENS_TOLERANCE
    if other_lens or abs(given_radius / radius - 1.0) > LENS_TOLERANCE:
        logger.warning(
            "of the given cameras only the angles are used: %s paints from %.2f away with a focal "
            "length of %.2f image widths.",
            family.label,
            radius,
            lens,
        )


def _in_order(family: Family, azimuths: Tensor, elevations: Tensor) -> tuple[Tensor, Tensor]:
    """Angles (V,), rolled so that the camera at azimuth 0 takes the input view's place."""
    off_front = torch.minimum(azimuths % 360.0, 360.0 - azimuths % 360.0)
    front = int(off_front.argmin())
    shift = (family.input_view - front) if float(off_front[front]) < ANGLE_TOLERANCE_DEG else 0
    return azimuths.roll(shift), elevations.roll(shift)


def _check_angles(family: Family, turns: Tensor, elevations: Tensor) -> None:
    """Raises InputError for turns (V,) from the input view, 0 first, that cannot be painted."""
    views = family.views
    if bool((turns.diff() < MIN_STEP_DEG).any()):
        at = int((turns.diff() < MIN_STEP_DEG).nonzero()[0])
        raise InputError(
            f"{family.label} walks once around the object, counter-clockwise seen from above, but "
            f"view {at + 1} after the input view stands at {float(turns[at + 1]):.1f} degrees from "
            f"it, the one before at {float(turns[at]):.1f}.",
            "Give azimuths that grow from view to view, all within one turn.",
        )
    if family.free_elevation:
        return
    even = torch.arange(views) * (360.0 / views)
    worst = int((turns - even).abs().argmax())
    if abs(float(turns[worst] - even[worst])) > ANGLE_TOLERANCE_DEG:
        raise InputError(
            f"{family.label} paints views {360.0 / views:.4g} degrees apart, but one was asked for "
            f"at {float(turns[worst]):.4g} degrees from the input view, expected "
            f"{float(even[worst]):.4g}.",
            "Give evenly spaced cameras, or none; SV3D p paints any azimuths.",
        )
    if float(elevations.max() - elevations.min()) > ANGLE_TOLERANCE_DEG:
        raise InputError(
            f"{family.label} stays at one height, but elevations from {float(elevations.min()):.4g}"
            f" to {float(elevations.max()):.4g} degrees were asked for.",
            "Give one elevation for all cameras; SV3D p goes up and down.",
        )
