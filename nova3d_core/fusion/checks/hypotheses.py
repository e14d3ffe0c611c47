"""Camera hypotheses: what the cameras of views would be if the user had made a common mistake."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...cameras.cameras import Cameras
from ...cameras.rotations import axis_angle_to_matrix
from ..rays import intersect_rays

COARSE_ELEVATION_STEP_DEG, FINE_ELEVATION_STEP_DEG = 15, 5
MAX_ELEVATION_CHANGE_DEG = 75
_MAX_ELEVATION_DEG = 75.0
"""Seen from near the pole, any silhouettes agree."""
_SINE_AMPLITUDE_DEG = 30.0
"""Amplitude of the elevations of an orbit with motion "sine"."""
_SAME_ANGLE_DEG = 1.0
_MAX_SHIFTED_VIEWS = 8
"""All cyclic shifts are tried up to this many views; of more views, only those by one."""
_MAX_RINGS = 4


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """Other poses of the same images."""

    fault: str
    """What would be wrong with the declared cameras, as a clause."""
    hint: str
    """What to do about it, as a sentence."""
    world_to_camera: Tensor
    """(V, 4, 4) poses of the images under this hypothesis."""
    elevation_change_deg: int = 0
    """By how much all cameras are raised; 0 for other hypotheses."""


def orbit_centre(cameras: Cameras) -> Tensor:
    """(3,) least-squares intersection of the optical axes: what the cameras look at."""
    return intersect_rays(cameras.positions, cameras.view_directions)


def order_hypotheses(cameras: Cameras) -> Iterator[Hypothesis]:
    """Other orders of the images of V cameras."""
    yield clockwise_hypothesis(cameras)
    poses, count = cameras.world_to_camera, len(cameras)
    for order, fault, hint in _reorderings(cameras):
        if order != list(range(count)):
            yield Hypothesis(fault, hint, poses[order])
    half = _turned(cameras, -0.5 * (_relative_azimuth_deg(cameras) % 360.0))
    yield Hypothesis(
        "the images cover half of the cameras' orbit",
        "Declare the azimuths that the images were taken from.",
        half,
    )


def clockwise_hypothesis(cameras: Cameras) -> Hypothesis:
    """The images in the opposite direction of rotation: azimuths mirrored about view 0's."""
    azimuth_deg = _relative_azimuth_deg(cameras)
    step_deg = (torch.diff(cameras.azimuth_deg) + 180.0) % 360.0 - 180.0
    directions = ["clockwise", "counter-clockwise"]
    if float(step_deg.sum()) < 0:
        directions.reverse()
    return Hypothesis(
        f"the images are in reversed order: {directions[0]} (seen from above), but the cameras "
        f"are {directions[1]}",
        "Reverse the order of the images but keep the first, or negate the azimuths.",
        _turned(cameras, -2.0 * azimuth_deg),
    )


def swap_hypotheses(cameras: Cameras, suspects: Sequence[int]) -> Iterator[Hypothesis]:
    """Each two of the suspected views with their images exchanged."""
    for one, other in itertools.combinations(sorted(suspects), 2):
        order = list(range(len(cameras)))
        order[one], order[other] = other, one
        yield Hypothesis(
            f"the images of views {one} and {other} are swapped",
            "Exchange the two images.",
            cameras.world_to_camera[order],
        )


def elevation_hypotheses(cameras: Cameras, changes_deg: Sequence[int]) -> Iterator[Hypothesis]:
    """All cameras raised by each of some angles, where that stays below the pole."""
    elevation_deg = cameras.elevation_deg
    for change in changes_deg:
        raised = elevation_deg + change
        if change != 0 and float(raised.abs().max()) <= _MAX_ELEVATION_DEG:
            yield Hypothesis(
                f"the elevations are wrong: {_elevations_text(raised)} fits better than "
                f"{_elevations_text(elevation_deg)}",
                "Declare the elevation that the images were made for.",
                _raised(cameras, torch.full_like(elevation_deg, change)),
                change,
            )


def elevation_pattern_hypotheses(cameras: Cameras) -> Iterator[Hypothesis]:
    """Elevations that are negated, or that follow a sine where they are declared constant."""
    elevation_deg = cameras.elevation_deg
    spread = float(elevation_deg.max() - elevation_deg.min())
    if spread > _SAME_ANGLE_DEG:
        yield Hypothesis(
            "the elevations are wrong: negated ones fit better",
            "Negate the elevations: cameras above the object have positive ones.",
            _raised(cameras, -2.0 * elevation_deg),
        )
        level = elevation_deg.mean() - elevation_deg
        yield Hypothesis(
            f"the elevations are wrong: a constant one of {float(elevation_deg.mean()):.0f} "
            "degrees fits better",
            "Declare the elevation that the images were made for.",
            _raised(cameras, level),
        )
        return
    phase = torch.deg2rad(_relative_azimuth_deg(cameras))
    sine = _SINE_AMPLITUDE_DEG * torch.sin(phase)
    if float((elevation_deg + sine).abs().max()) > _MAX_ELEVATION_DEG:
        return
    for sign, name in ((1.0, "sine"), (-1.0, "negative sine")):
        yield Hypothesis(
            f"the elevations are wrong: a {name} of {_SINE_AMPLITUDE_DEG:.0f} degrees over the "
            "orbit fits better than a constant elevation",
            "Choose an orbit with the elevations that the images were made for.",
            _raised(cameras, sign * sine),
        )


def _reorderings(cameras: Cameras) -> Iterator[tuple[list[int], str, str]]:
    """Camera indices of the images under each mistake, the mistake, and what to do."""
    count = len(cameras)
    indices = list(range(count))
    shifts = range(1, count) if count <= _MAX_SHIFTED_VIEWS else (1, count - 1)
    for shift in shifts:
        yield (
            indices[shift:] + indices[:shift],
            f"the first image belongs to camera {shift}, and so on",
            "List images and cameras in the same order, from the same first view.",
        )
    yield (
        indices[::-1],
        "the images are in reversed order, the last one first",
        "Reverse the order of the images.",
    )
    for first in (0, 1):
        if count + first > 10:
            yield (
                sorted(indices, key=lambda index: str(index + first)),
                "the images are in alphabetical order of their numbers (1, 10, 11, ..., 2)",
                "Number the files with leading zeros: 01, 02, ..., 10.",
            )
    spread = cameras.elevation_deg
    if float(spread.max() - spread.min()) > _SAME_ANGLE_DEG:
        for rings in range(2, _MAX_RINGS + 1):
            if count % rings == 0 and count > rings:
                grid = torch.arange(count).reshape(rings, -1)
                for order, fault in (
                    (grid.T, "azimuth by azimuth, the cameras ring by ring"),
                    (grid.reshape(-1, rings).T, "ring by ring, the cameras azimuth by azimuth"),
                ):
                    yield (
                        order.flatten().tolist(),
                        f"the images of {rings} rings are listed {fault}",
                        "List images and cameras in the same order.",
                    )


def _relative_azimuth_deg(cameras: Cameras) -> Tensor:
    """(V,) azimuths relative to view 0, in -180..180."""
    azimuth = cameras.azimuth_deg
    return (azimuth - azimuth[0] + 180.0) % 360.0 - 180.0


def _turned(cameras: Cameras, azimuth_change_deg: Tensor) -> Tensor:
    """(V, 4, 4) poses after moving each camera around the vertical axis by (V,) degrees."""
    angles = torch.zeros(len(cameras), 3)
    angles[:, 1] = -torch.deg2rad(azimuth_change_deg)  # of the object, seen from the camera
    return _with_object_rotated(cameras, angles)


def _raised(cameras: Cameras, elevation_change_deg: Tensor) -> Tensor:
    """(V, 4, 4) poses after moving each camera up by (V,) degrees."""
    right = cameras.rotation[:, 0]
    return _with_object_rotated(cameras, right * torch.deg2rad(elevation_change_deg)[:, None])


def _with_object_rotated(cameras: Cameras, axis_angle: Tensor) -> Tensor:
    """Poses (V, 4, 4) as if the object were first rotated about the orbit's centre by (V, 3)."""
    rotation, centre = axis_angle_to_matrix(axis_angle), orbit_centre(cameras)
    change = torch.eye(4).repeat(len(cameras), 1, 1)
    change[:, :3, :3] = rotation
    change[:, :3, 3] = centre - rotation @ centre
    return cameras.world_to_camera @ change


def _elevations_text(elevation_deg: Tensor) -> str:
    low, high = float(elevation_deg.min()), float(elevation_deg.max())
    if high - low <= _SAME_ANGLE_DEG:
        return f"{round((low + high) / 2):d} degrees"
    return f"{round(low):d} to {round(high):d} degrees"
