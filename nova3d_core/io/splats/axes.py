"""Rotates splats between a world with +Y up and the axes of files.

Viewers of 3D Gaussian splatting, and ComfyUI's SPLAT, have -Y up and look along +Z; most files
follow them, without saying so.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from ...cameras.rotations import multiply_quaternions
from ...checks import check_choice
from ...conventions import UP_AXES, Y_UP_ROTATIONS, UpAxis
from ...splats import Splats

_HALF = math.sqrt(0.5)
_QUATERNIONS: dict[str, tuple[float, float, float, float]] = {
    "+Y": (1.0, 0.0, 0.0, 0.0),
    "-Y": (0.0, -1.0, 0.0, 0.0),
    "+Z": (_HALF, -_HALF, 0.0, 0.0),
    "-Z": (_HALF, _HALF, 0.0, 0.0),
    "+X": (_HALF, 0.0, 0.0, _HALF),
    "-X": (_HALF, 0.0, 0.0, -_HALF),
}
"""`Y_UP_ROTATIONS` as quaternions w, x, y, z."""


def splats_to_y_up(splats: Splats, up_axis: UpAxis) -> Splats:
    """Splats of a world with a given up axis, rotated to +Y up."""
    check_choice("up_axis", up_axis, UP_AXES)
    return _rotated(splats, torch.tensor(Y_UP_ROTATIONS[up_axis]), _QUATERNIONS[up_axis])


def splats_from_y_up(splats: Splats, up_axis: UpAxis) -> Splats:
    """Inverse of `splats_to_y_up`; for -Y, (x, -y, -z) and quaternions (-x, w, -z, y)."""
    check_choice("up_axis", up_axis, UP_AXES)
    w, x, y, z = _QUATERNIONS[up_axis]
    return _rotated(splats, torch.tensor(Y_UP_ROTATIONS[up_axis]).T, (w, -x, -y, -z))


def _rotated(
    splats: Splats, matrix: Tensor, quaternion: tuple[float, float, float, float]
) -> Splats:
    """Splats rotated about the origin by one rotation, as matrix (3, 3) and as w, x, y, z."""
    return replace(
        splats,
        positions=splats.positions @ matrix.T.to(splats.positions),
        rotations=multiply_quaternions(splats.rotations.new_tensor([quaternion]), splats.rotations),
    )
