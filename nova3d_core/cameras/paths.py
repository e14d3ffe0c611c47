"""Smooth camera paths through given cameras."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..checks import check_between
from ..errors import InputError
from .cameras import Cameras
from .rotations import axis_angle_to_matrix, matrix_to_axis_angle


def path_through(cameras: Cameras, count: int) -> Cameras:
    """A path of `count` cameras from the first camera through all others to the last.

    Between two cameras, positions and intrinsics are interpolated linearly, rotations about the
    axis of the shortest rotation. Positions on the path are evenly spaced in the order of the
    cameras, not in distance.

    Args:
        cameras: at least one camera.
        count: number of cameras of the path.

    Raises:
        InputError: no cameras, or fewer than one requested.
    """
    check_between("the number of cameras of the path", count, 1, 4096)
    if len(cameras) == 0:
        raise InputError("there are no cameras to lay a path through.", "Give at least one camera.")
    steps = torch.linspace(0.0, len(cameras) - 1.0, count, dtype=torch.float64)  # (N,)
    first = steps.floor().long().clamp_max(max(len(cameras) - 2, 0))
    second = (first + 1).clamp_max(len(cameras) - 1)
    blend = steps - first
    rotation = cameras.rotation.double()
    axis_angle = matrix_to_axis_angle(rotation[second] @ rotation[first].transpose(1, 2))  # (N, 3)
    rotations = axis_angle_to_matrix(blend[:, None] * axis_angle) @ rotation[first]
    positions = _interpolate(cameras.positions.double(), first, second, blend)
    poses = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    poses[:, :3, :3] = rotations
    poses[:, :3, 3] = -(rotations @ positions[..., None])[..., 0]
    intrinsics = _interpolate(cameras.intrinsics.double(), first, second, blend)
    return replace(cameras, world_to_camera=poses.float(), intrinsics=intrinsics.float())


def _interpolate(values: Tensor, first: Tensor, second: Tensor, blend: Tensor) -> Tensor:
    """(N, ...) values between those of two indices (N,)."""
    weights = blend.reshape(-1, *[1] * (values.dim() - 1))
    return values[first] + weights * (values[second] - values[first])
