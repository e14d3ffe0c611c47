"""How far camera poses are from the true ones, or how far a refinement has moved them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...cameras.cameras import Cameras
from ...errors import InputError


@dataclass(frozen=True, eq=False)
class PoseFigures:
    """The pose error of each of V views.

    View 0 is given, never estimated: medians and means are over the views from 1 on. The largest
    is over all, so that a view 0 that did move shows.
    """

    rotation_deg: Tensor
    """(V,) float64, the angle of the turn from one pose to the other, 0 to 180."""
    shift_percent: Tensor
    """(V,) float64, how far the world's origin moves across the camera's x and y, in percent of
    the object's longest side."""
    depth_percent: Tensor
    """(V,) float64, how far it moves along the camera's z, likewise."""

    def summary(self) -> dict[str, float]:
        """`rotation_deg`, `shift_percent` and `depth_percent`, each `_median`, `_mean`, `_max`."""
        figures: dict[str, float] = {}
        for name, values in self._by_name().items():
            figures[f"{name}_median"] = float(values[1:].quantile(0.5))
            figures[f"{name}_mean"] = float(values[1:].mean())
            figures[f"{name}_max"] = float(values.max())
        return figures

    def to_dict(self) -> dict[str, Any]:
        """The summary, and `by_view`: the lists of all views."""
        by_view = {name: values.tolist() for name, values in self._by_name().items()}
        return {**self.summary(), "by_view": by_view}

    def _by_name(self) -> dict[str, Tensor]:
        return {
            "rotation_deg": self.rotation_deg,
            "shift_percent": self.shift_percent,
            "depth_percent": self.depth_percent,
        }


def pose_figures(estimated: Cameras, true: Cameras, longest_side: float = 1.0) -> PoseFigures:
    """How far estimated poses are from the true ones, view by view.

    Rotation and place are told apart at the world's origin, where the object's centre is: a camera
    that circles the object by an angle has a rotation error and no shift. Turning the world under
    both bundles changes nothing; moving it away from the object's centre mixes turns into shifts.

    Args:
        estimated: V poses.
        true: the V poses that the images were taken from.
        longest_side: of the object, in world units: the measure of shifts.

    Raises:
        InputError: if the two do not have the same number of views, there is only one, or the
            longest side is not above 0.
    """
    if len(estimated) != len(true):
        raise InputError(
            f"poses of {len(estimated)} views cannot be compared with those of {len(true)}.",
            "Give the same views twice.",
        )
    if len(true) < 2:
        raise InputError("pose figures need 2 views or more: view 0 is exact by definition.")
    if not longest_side > 0:
        raise InputError(f"longest_side is {longest_side}, expected above 0.")
    a, b = (each.world_to_camera.detach().cpu().double() for each in (estimated, true))
    moved = (a - b)[:, :3, 3] * (100.0 / longest_side)  # (V, 3)
    turn = a[:, :3, :3] @ b[:, :3, :3].transpose(1, 2)  # (V, 3, 3)
    return PoseFigures(_angles_deg(turn), moved[:, :2].norm(dim=1), moved[:, 2].abs())


def pose_motion(before: Cameras, after: Cameras, longest_side: float = 1.0) -> PoseFigures:
    """How far a refinement has moved each view: `pose_figures` of the poses after it, measured
    against those before it."""
    return pose_figures(after, before, longest_side)


def _angles_deg(turns: Tensor) -> Tensor:
    """The angles (V,) of rotation matrices (V, 3, 3)."""
    twist = turns - turns.transpose(1, 2)
    # entries of the axis times 2 sin; atan2 keeps small angles that arccos rounds away
    sine = torch.stack([twist[:, 2, 1], twist[:, 0, 2], twist[:, 1, 0]], dim=1).norm(dim=1)
    cosine = turns.diagonal(dim1=1, dim2=2).sum(dim=1) - 1.0
    return torch.rad2deg(torch.atan2(sine, cosine))
