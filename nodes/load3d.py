"""What a 3D viewer in the page shows: its camera (ComfyUI's LOAD3D_CAMERA) and its model's place.

The viewer is three.js: right-handed, +Y up, its camera looks along its own -Z.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..nova3d_core.cameras.cameras import Cameras
from ..nova3d_core.conventions import OPENGL_FROM_OPENCV
from ..nova3d_core.errors import InputError
from ..nova3d_core.mesh import Mesh

DEFAULT_FOV_DEG = 35.0
"""The viewer's own; its older versions do not say it."""
DEFAULT_FRUSTUM = 10.0
"""Height of what the viewer's orthographic camera sees at zoom 1, where it does not say."""
FITTED_SIZE = 5.0
"""Older viewers scale every model to this longest side."""


def camera_of_viewer(info: Mapping[str, Any], width_px: int, height_px: int) -> Cameras:
    """The viewer's camera with images of a size.

    Args:
        info: `position` and `target` with x, y, z; `zoom`; `cameraType`; perhaps `quaternion` (the
            camera's turn in the world, which is used rather than the target), `fov` (vertical, in
            degrees) and `frustum` (orthographic: left, right, top, bottom).
        width_px, height_px: the image; its height sees what the viewer's height sees.

    Returns:
        One camera.

    Raises:
        InputError: the position is missing or no number, or there is no direction to look in.
    """
    position = _point(info, "position")
    rotation = _rotation(info, position)  # (3, 3) camera to world, OpenGL axes
    world_to_camera = torch.eye(4, dtype=torch.float64)
    flip = torch.tensor(OPENGL_FROM_OPENCV, dtype=torch.float64)
    world_to_camera[:3, :3] = flip @ rotation.T
    world_to_camera[:3, 3] = -world_to_camera[:3, :3] @ position
    orthographic = info.get("cameraType") == "orthographic"
    pixels = _pixels_per_unit(info, height_px, orthographic)
    intrinsics = torch.tensor(
        [[pixels, 0.0, width_px / 2], [0.0, pixels, height_px / 2], [0.0, 0.0, 1.0]]
    )
    return Cameras(
        world_to_camera[None].float(),
        intrinsics[None],
        width_px,
        height_px,
        "orthographic" if orthographic else "perspective",
    )


def placed_in_viewer(mesh: Mesh, info: Mapping[str, Any] | None, fitted: bool) -> Mesh:
    """A mesh where a viewer shows it, so that the viewer's camera sees what the user saw.

    Args:
        mesh: as it lies in its file.
        info: what newer viewers tell of a model: `position`, `quaternion` and `scale`.
        fitted: the viewer is one of those that give every model the same size, centred over the
            floor, and say nothing about it.
    """
    if info is not None:
        return mesh.transformed(_transform(info))
    if not fitted:
        return mesh
    matrix = mesh.normalising_matrix() * FITTED_SIZE
    matrix[3, 3] = 1.0
    placed = mesh.transformed(matrix)
    onto_floor = torch.eye(4)
    onto_floor[1, 3] = -float(placed.bounds[0, 1])
    return placed.transformed(onto_floor)


def _transform(info: Mapping[str, Any]) -> Tensor:
    """(4, 4) of a model's scale, then turn, then shift."""
    turn = _quaternion(info)
    scale = _point(info, "scale") if info.get("scale") is not None else torch.ones(3).double()
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = (torch.eye(3, dtype=torch.float64) if turn is None else turn) * scale
    matrix[:3, 3] = _point(info, "position")
    return matrix.float()


def _quaternion(info: Mapping[str, Any]) -> Tensor | None:
    """(3, 3) rotation that a viewer's entry tells by its quaternion; None if it has none."""
    quaternion = info.get("quaternion")
    if not quaternion:
        return None
    x, y, z, w = (_number(quaternion, axis, "quaternion") for axis in "xyzw")
    length = math.sqrt(x * x + y * y + z * z + w * w)
    return _from_quaternion(*(part / length for part in (x, y, z, w))) if length > 1e-6 else None


def _rotation(info: Mapping[str, Any], position: Tensor) -> Tensor:
    turn = _quaternion(info)
    if turn is not None:
        return turn
    back = position - _point(info, "target")
    if float(back.norm()) < 1e-9:
        raise InputError(
            "the viewer's camera stands where it looks at, so it has no direction.",
            "Move it in the viewer.",
        )
    back = back / back.norm()
    up = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    if float(back.dot(up).abs()) > 0.9999:  # straight up or down: the world's -Z is up then
        up = torch.tensor([0.0, 0.0, -math.copysign(1.0, float(back[1]))], dtype=torch.float64)
    right = torch.linalg.cross(up, back)
    right = right / right.norm()
    return torch.stack([right, torch.linalg.cross(back, right), back], dim=1)


def _from_quaternion(x: float, y: float, z: float, w: float) -> Tensor:
    """(3, 3) rotation of a unit quaternion."""
    return torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ],
        dtype=torch.float64,
    )


def _pixels_per_unit(info: Mapping[str, Any], height_px: int, orthographic: bool) -> float:
    """Focal length in pixels; pixels per world unit for parallel rays."""
    zoom = float(info.get("zoom") or 1.0)
    if not orthographic:
        fov_deg = float(info.get("fov") or DEFAULT_FOV_DEG)
        return zoom * height_px / 2.0 / math.tan(math.radians(fov_deg) / 2.0)
    frustum = info.get("frustum") or {}
    seen = float(frustum.get("top", 0.0)) - float(frustum.get("bottom", 0.0))
    return zoom * height_px / (seen if seen > 0 else DEFAULT_FRUSTUM)


def _point(info: Mapping[str, Any], name: str) -> Tensor:
    given = info.get(name)
    if given is None and name == "target":
        given = {"x": 0.0, "y": 0.0, "z": 0.0}
    if not isinstance(given, Mapping):
        raise InputError(f"the viewer's camera has no {name}.", "Connect a 3D viewer's camera.")
    return torch.tensor([_number(given, axis, name) for axis in "xyz"], dtype=torch.float64)


def _number(given: Mapping[str, Any], axis: str, name: str) -> float:
    try:
        value = float(given[axis])
    except (KeyError, TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"the viewer camera's {name} has no number {axis}.")
    return value
