"""Camera pose errors, and the pose change made by a refinement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...cameras.cameras import Cameras
from ...errors import InputError


@dataclass(frozen=True, eq=False)
class PoseErrors:
    """Pose error of each of V views.

    View 0 is given, never estimated: medians and means cover the views from 1 on. Maxima cover all
    views, so that a change of view 0 is not missed.
    """

    rotation_deg: Tensor
    """(V,) float64, relative rotation angle, 0 to 180."""
    lateral_percent: Tensor
    """(V,) float64, displacement of the world origin along the camera's x and y axes, in percent of
    the object's longest side."""
    depth_percent: Tensor
    """(V,) float64, its displacement along the camera's z axis, likewise."""

    def summary(self) -> dict[str, float]:
        """`rotation_deg`, `lateral_percent`, `depth_percent`, each `_median`, `_mean`, `_max`."""
        metrics: dict[str, float] = {}
        for name, values in self._by_name().items():
            metrics[f"{name}_median"] = float(values[1:].quantile(0.5))
            metrics[f"{name}_mean"] = float(values[1:].mean())
            metrics[f"{name}_max"] = float(values.max())
        return metrics

    def to_dict(self) -> dict[str, Any]:
        """The summary, and under `by_view` the values of all views."""
        by_view = {name: values.tolist() for name, values in self._by_name().items()}
        return {**self.summary(), "by_view": by_view}

    def _by_name(self) -> dict[str, Tensor]:
        return {
            "rotation_deg": self.rotation_deg,
            "lateral_percent": self.lateral_percent,
            "depth_percent": self.depth_percent,
        }


def pose_errors(estimated: Cameras, true: Cameras, longest_side: float = 1.0) -> PoseErrors:
    """Errors of estimated poses, view by view.

    Translation is measured at the world origin, the object's centre: a camera that orbits the
    object by an angle has a rotation error and no translation error. Rotating the world under both
    sets changes nothing; an object centre away from the origin mixes rotation into translation.

    Args:
        estimated: V poses.
        true: V ground-truth poses of the images.
        longest_side: of the object in world units, the unit of the translations.

    Raises:
        InputError: different numbers of views, only one view, or a longest side that is not above
            0.
    """
    if len(estimated) != len(true):
        raise InputError(
            f"poses of {len(estimated)} views cannot be compared with those of {len(true)}.",
            "Pass the same views in both.",
        )
    if len(true) < 2:
        raise InputError("pose errors need 2 views or more: view 0 is exact by definition.")
    if not longest_side > 0:
        raise InputError(f"longest_side is {longest_side}, expected above 0.")
    a, b = (each.world_to_camera.detach().cpu().double() for each in (estimated, true))
    offset = (a - b)[:, :3, 3] * (100.0 / longest_side)  # (V, 3)
    relative = a[:, :3, :3] @ b[:, :3, :3].transpose(1, 2)  # (V, 3, 3)
    return PoseErrors(_angles_deg(relative), offset[:, :2].norm(dim=1), offset[:, 2].abs())


def pose_motion(before: Cameras, after: Cameras, longest_side: float = 1.0) -> PoseErrors:
    """Pose change of a refinement: `pose_errors` of the poses after it against those before it."""
    return pose_errors(after, before, longest_side)


def _angles_deg(rotations: Tensor) -> Tensor:
    """Angles (V,) of rotation matrices (V, 3, 3)."""
    skew = rotations - rotations.transpose(1, 2)
    # 2 sin(angle) times the axis; atan2: arccos is inaccurate for small angles
    sine = torch.stack([skew[:, 2, 1], skew[:, 0, 2], skew[:, 1, 0]], dim=1).norm(dim=1)
    cosine = rotations.diagonal(dim1=1, dim2=2).sum(dim=1) - 1.0
    return torch.rad2deg(torch.atan2(sine, cosine))
