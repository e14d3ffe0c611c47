"""Camera (LOAD3D_CAMERA) and model transform (LOAD3D_MODEL_INFO) of ComfyUI's 3D viewer.

The viewer uses three.js conventions: right-handed, +Y up, cameras look along their -Z axis.
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
"""Vertical field of view of older viewers, which do not report it."""
DEFAULT_FRUSTUM_HEIGHT = 10.0
"""Height of the viewer's orthographic frustum at zoom 1, where it does not report it."""
AUTO_SCALED_SIZE = 5.0
"""Longest side to which older viewers scale every model."""


def camera_from_viewer(info: Mapping[str, Any], width_px: int, height_px: int) -> Cameras:
    """The viewer's camera at an image size.

    Args:
        info: `position` and `target` with x, y, z; `zoom`; `cameraType`; optionally `quaternion`
            (the camera's rotation in the world, takes precedence over the target), `fov`
            (vertical, in degrees) and `frustum` (orthographic: left, right, top, bottom).
        width_px, height_px: image size; the image height covers the viewer's vertical field of
            view.

    Returns:
        One camera.

    Raises:
        InputError: the position is missing or not finite, or the viewing direction is undefined.
    """
    position = _point(info, "position")
    rotation = _rotation(info, position)  # (3, 3) camera to world, OpenGL axes
    world_to_camera = torch.eye(4, dtype=torch.float64)
    flip = torch.tensor(OPENGL_FROM_OPENCV, dtype=torch.float64)
    world_to_camera[:3, :3] = flip @ rotation.T
    world_to_camera[:3, 3] = -world_to_camera[:3, :3] @ position
    orthographic = info.get("cameraType") == "orthographic"
    focal_px = _focal_length_px(info, height_px, orthographic)
    intrinsics = torch.tensor(
        [[focal_px, 0.0, width_px / 2], [0.0, focal_px, height_px / 2], [0.0, 0.0, 1.0]]
    )
    return Cameras(
        world_to_camera[None].float(),
        intrinsics[None],
        width_px,
        height_px,
        "orthographic" if orthographic else "perspective",
    )


def mesh_in_viewer(mesh: Mesh, info: Mapping[str, Any] | None, auto_scaled: bool) -> Mesh:
    """A mesh with the viewer's model transform applied, as the viewer displays it.

    Args:
        mesh: in the coordinates of its file.
        info: model transform that newer viewers report: `position`, `quaternion` and `scale`.
        auto_scaled: the viewer is an older one: it scales every model to the same size, centres it
            on the floor, and does not report the transform.
    """
    if info is not None:
        return mesh.transformed(_transform(info))
    if not auto_scaled:
        return mesh
    matrix = mesh.normalising_matrix() * AUTO_SCALED_SIZE
    matrix[3, 3] = 1.0
    scaled = mesh.transformed(matrix)
    to_floor = torch.eye(4)
    to_floor[1, 3] = -float(scaled.bounds[0, 1])
    return scaled.transformed(to_floor)


def _transform(info: Mapping[str, Any]) -> Tensor:
    """(4, 4) model matrix: scale, then rotation, then translation."""
    rotation = _rotation_from_quaternion(info)
    scale = _point(info, "scale") if info.get("scale") is not None else torch.ones(3).double()
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = (torch.eye(3, dtype=torch.float64) if rotation is None else rotation) * scale
    matrix[:3, 3] = _point(info, "position")
    return matrix.float()


def _rotation_from_quaternion(info: Mapping[str, Any]) -> Tensor | None:
    """(3, 3) rotation matrix of the `quaternion` entry; None if there is none."""
    quaternion = info.get("quaternion")
    if not quaternion:
        return None
    x, y, z, w = (_coordinate(quaternion, axis, "quaternion") for axis in "xyzw")
    norm = math.sqrt(x * x + y * y + z * z + w * w)
    return _quaternion_to_matrix(*(value / norm for value in (x, y, z, w))) if norm > 1e-6 else None


def _rotation(info: Mapping[str, Any], position: Tensor) -> Tensor:
    """(3, 3) camera-to-world rotation, OpenGL axes: from the quaternion, else by look-at."""
    rotation = _rotation_from_quaternion(info)
    if rotation is not None:
        return rotation
    back = position - _point(info, "target")
    if float(back.norm()) < 1e-9:
        raise InputError(
            "the viewer's camera is at its own target, so it has no viewing direction.",
            "Move it in the viewer.",
        )
    back = back / back.norm()
    up = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    if float(back.dot(up).abs()) > 0.9999:  # looks straight up or down: use the world's -Z as up
        up = torch.tensor([0.0, 0.0, -math.copysign(1.0, float(back[1]))], dtype=torch.float64)
    right = torch.linalg.cross(up, back)
    right = right / right.norm()
    return torch.stack([right, torch.linalg.cross(back, right), back], dim=1)


def _quaternion_to_matrix(x: float, y: float, z: float, w: float) -> Tensor:
    """(3, 3) rotation matrix of a unit quaternion."""
    return torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ],
        dtype=torch.float64,
    )


def _focal_length_px(info: Mapping[str, Any], height_px: int, orthographic: bool) -> float:
    """Focal length in pixels; orthographic: pixels per world unit."""
    zoom = float(info.get("zoom") or 1.0)
    if not orthographic:
        fov_deg = float(info.get("fov") or DEFAULT_FOV_DEG)
        return zoom * height_px / 2.0 / math.tan(math.radians(fov_deg) / 2.0)
    frustum = info.get("frustum") or {}
    frustum_height = float(frustum.get("top", 0.0)) - float(frustum.get("bottom", 0.0))
    return zoom * height_px / (frustum_height if frustum_height > 0 else DEFAULT_FRUSTUM_HEIGHT)


def _point(info: Mapping[str, Any], name: str) -> Tensor:
    """(3,) the x, y, z of an entry; a missing target is the origin."""
    point = info.get(name)
    if point is None and name == "target":
        point = {"x": 0.0, "y": 0.0, "z": 0.0}
    if not isinstance(point, Mapping):
        raise InputError(f"the viewer's camera has no {name}.", "Connect a 3D viewer's camera.")
    return torch.tensor([_coordinate(point, axis, name) for axis in "xyz"], dtype=torch.float64)


def _coordinate(entry: Mapping[str, Any], axis: str, name: str) -> float:
    try:
        value = float(entry[axis])
    except (KeyError, TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{name} of the viewer's camera has no finite value {axis}.")
    return value
