"""Cameras (LOAD3D_CAMERA) and model transforms (LOAD3D_MODEL_INFO) of ComfyUI's 3D nodes.

They use three.js conventions: right-handed, +Y up, cameras look along their -Z axis. Older versions
pass one camera, newer ones one camera or a list of cameras.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import nova3d_core
from ..nova3d_core.cameras.cameras import Cameras
from ..nova3d_core.cameras.join import viewing_centre
from ..nova3d_core.cameras.rotations import quaternion_to_matrix
from ..nova3d_core.conventions import OPENGL_FROM_OPENCV, CameraKind
from ..nova3d_core.errors import InputError
from ..nova3d_core.mesh import FAR_FROM_ORIGIN, Mesh

logger = logging.getLogger(nova3d_core.__name__).getChild("nodes")
"""Below the core's logger, whose warnings the node displays."""

DEFAULT_FOV_DEG = 35.0
"""Vertical field of view of older viewers, which do not report it."""
DEFAULT_FRUSTUM_HEIGHT = 10.0
"""Height of the viewer's orthographic frustum at zoom 1, where it does not report it."""
MIN_TARGET_DISTANCE = 1e-9
"""Distance below which a camera is at its target, in world units."""
AUTO_SCALED_SIZE = 5.0
"""Longest side to which older viewers scale every model."""


def cameras_from_viewer(
    infos: Sequence[Mapping[str, Any]], width_px: int, height_px: int
) -> Cameras:
    """A list of viewer cameras at an image size; see `camera_from_viewer`.

    Raises:
        InputError: the list is empty, mixes perspective and orthographic cameras, or contains an
            invalid camera.
    """
    if len(infos) == 0:
        raise InputError("the list of cameras is empty.", "Connect at least one camera.")
    poses, intrinsics, kinds = [], [], []
    for index, info in enumerate(infos):
        try:
            pose, lens, kind = _camera(info, width_px, height_px)
        except InputError as error:
            if len(infos) == 1:
                raise
            raise InputError(f"camera {index} of the list: {error.message}", error.hint) from None
        poses.append(pose)
        intrinsics.append(lens)
        kinds.append(kind)
    if len(set(kinds)) > 1:
        raise InputError(
            f"camera 0 of the list is {kinds[0]}, but camera "
            f"{next(index for index, kind in enumerate(kinds) if kind != kinds[0])} is not.",
            "Use one projection for all cameras of a list.",
        )
    world_to_camera = torch.stack(poses)  # (V, 4, 4) float64
    origin = _far_origin(world_to_camera, [_target_distance(info) for info in infos])
    world_to_camera[:, :3, 3] += world_to_camera[:, :3, :3] @ origin
    return Cameras(
        world_to_camera.float(),
        torch.stack(intrinsics).float(),
        width_px,
        height_px,
        kinds[0],
        tuple(origin.tolist()),
    )


def camera_from_viewer(info: Mapping[str, Any], width_px: int, height_px: int) -> Cameras:
    """The viewer's camera at an image size.

    Args:
        info: `position` and `target` with x, y, z; `zoom`; `cameraType`; optionally `quaternion`
            (the camera's rotation in the world, takes precedence over the target), `fov`
            (vertical, in degrees) and `frustum` (orthographic: left, right, top, bottom).
        width_px, height_px: image size; the image height covers the viewer's vertical field of
            view. An orthographic camera without frustum shows what a perspective one with its
            `fov` shows at its target, over the shorter side of the image, as in the host's
            RenderSplat.

    Returns:
        One camera.

    Raises:
        InputError: the position is missing or not finite, or the viewing direction is undefined.
    """
    return cameras_from_viewer([info], width_px, height_px)


def viewer_cameras(cameras: Cameras) -> list[dict[str, Any]]:
    """Cameras as a list of LOAD3D_CAMERA entries, the inverse of `cameras_from_viewer`.

    Orthographic entries have both a `frustum` and a `fov`, which agree. The target is on the
    viewing axis, next to the point that all cameras look at. Square pixels and a principal point in
    the centre are all that the entries can hold: a warning says what is lost.
    """
    _warn_of_lost_intrinsics(cameras)
    camera_to_world = cameras.camera_to_world_opengl.double().cpu()  # (V, 4, 4)
    origin = camera_to_world.new_tensor(cameras.origin)
    distances = _distances_to_centre(camera_to_world)
    focal_px = cameras.intrinsics[:, 1, 1].double().cpu()
    entries = []
    for view in range(len(cameras)):
        rotation, position = camera_to_world[view, :3, :3], camera_to_world[view, :3, 3] + origin
        distance = float(distances[view])
        quaternion = _matrix_to_quaternion(rotation)
        entry = {
            "position": dict(zip("xyz", position.tolist(), strict=True)),
            "target": dict(
                zip("xyz", (position - rotation[:, 2] * distance).tolist(), strict=True)
            ),
            "quaternion": dict(zip("xyzw", quaternion.tolist(), strict=True)),
            "zoom": 1.0,
            "cameraType": cameras.kind,
            "aspect": cameras.width / cameras.height,
        }
        lens = _lens_entries(cameras, float(focal_px[view]), distance)
        entries.append({**entry, **lens})
    return entries


def is_older_viewer(info: Mapping[str, Any]) -> bool:
    """Whether a camera is from an older viewer, which reports neither lens nor rotation."""
    return not any(info.get(key) for key in ("fov", "quaternion", "frustum"))


def is_from_viewer(info: Mapping[str, Any]) -> bool:
    """Whether a camera is from a 3D viewer: newer ones report clipping planes, nodes do not."""
    return is_older_viewer(info) or info.get("near") is not None


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
    wxyz = torch.tensor([w, x, y, z], dtype=torch.float64)
    return quaternion_to_matrix(wxyz[None])[0] if float(wxyz.norm()) > 1e-6 else None


def _rotation(info: Mapping[str, Any], position: Tensor) -> Tensor:
    """(3, 3) camera-to-world rotation, OpenGL axes: from the quaternion, else by look-at."""
    rotation = _rotation_from_quaternion(info)
    if rotation is not None:
        return rotation
    back = position - _point(info, "target")
    if float(back.norm()) < MIN_TARGET_DISTANCE:
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


def _camera(
    info: Mapping[str, Any], width_px: int, height_px: int
) -> tuple[Tensor, Tensor, CameraKind]:
    """World-to-camera (4, 4) with OpenCV axes, intrinsics (3, 3), both float64, and the kind."""
    if not isinstance(info, Mapping):
        raise InputError(
            f"a camera is {type(info).__name__}, expected the camera_info of a 3D node."
        )
    position = _point(info, "position")
    rotation = _rotation(info, position)  # (3, 3) camera to world, OpenGL axes
    world_to_camera = torch.eye(4, dtype=torch.float64)
    flip = torch.tensor(OPENGL_FROM_OPENCV, dtype=torch.float64)
    world_to_camera[:3, :3] = flip @ rotation.T
    world_to_camera[:3, 3] = -world_to_camera[:3, :3] @ position
    is_orthographic = str(info.get("cameraType", "")).lower().startswith("ortho")
    zoom = _number(info, "zoom") or 1.0
    if zoom < 0.0:
        raise InputError(f"the camera's zoom is {zoom:g}, expected more than 0.")
    if is_orthographic:
        focal_px = zoom * _pixels_per_unit(info, width_px, height_px)
    else:
        focal_px = zoom * height_px / 2.0 / _tan_half_fov(info)
    intrinsics = torch.tensor(
        [[focal_px, 0.0, width_px / 2], [0.0, focal_px, height_px / 2], [0.0, 0.0, 1.0]],
        dtype=torch.float64,
    )
    return world_to_camera, intrinsics, "orthographic" if is_orthographic else "perspective"


def _pixels_per_unit(info: Mapping[str, Any], width_px: int, height_px: int) -> float:
    """Pixels per world unit of an orthographic camera at zoom 1."""
    frustum_height = _frustum_height(info.get("frustum"))
    if frustum_height is None and is_older_viewer(info):
        frustum_height = DEFAULT_FRUSTUM_HEIGHT
    if frustum_height is not None:
        return height_px / frustum_height
    distance = _target_distance(info)
    if distance < MIN_TARGET_DISTANCE:
        raise InputError(
            "the orthographic camera is at its own target, so its image has no size.",
            "Move the camera or its target, or give it a frustum.",
        )
    return min(width_px, height_px) / 2.0 / (_tan_half_fov(info) * distance)


def _frustum_height(frustum: Mapping[str, Any] | None) -> float | None:
    """Height of an orthographic frustum in world units; None if it is not given."""
    if not frustum:
        return None
    if not isinstance(frustum, Mapping):
        raise InputError("the camera's frustum is not a mapping of its four borders.")
    top, bottom = (_number(frustum, name, "frustum's ") for name in ("top", "bottom"))
    if top is None or bottom is None or top == bottom:
        return None
    if top < bottom:
        raise InputError("the camera's frustum is upside down: its top is below its bottom.")
    return top - bottom


def _tan_half_fov(info: Mapping[str, Any]) -> float:
    """Tangent of half the field of view."""
    fov_deg = _number(info, "fov") or DEFAULT_FOV_DEG
    if not 0.0 < fov_deg < 180.0:
        raise InputError(f"the camera's fov is {fov_deg:g} degrees, expected 0 to 180.")
    return math.tan(math.radians(fov_deg) / 2.0)


def _target_distance(info: Mapping[str, Any]) -> float:
    """Distance from the camera to its target."""
    return float((_point(info, "position") - _point(info, "target")).norm())


def _far_origin(world_to_camera: Tensor, distances: Sequence[float]) -> Tensor:
    """(3,) centre of cameras whose positions are too far from the origin for float32, else zero."""
    rotation, translation = world_to_camera[:, :3, :3], world_to_camera[:, :3, 3]
    positions = -(rotation.transpose(1, 2) @ translation[..., None])[..., 0]  # (V, 3)
    centre = positions.mean(dim=0)
    extent = max(float((positions - centre).norm(dim=1).max()), *distances)
    is_far = float(centre.norm()) > FAR_FROM_ORIGIN * extent > 0.0
    return centre if is_far else torch.zeros_like(centre)


def _lens_entries(cameras: Cameras, focal_px: float, distance: float) -> dict[str, Any]:
    """`fov` of a camera, with its `frustum` if it is orthographic."""
    if cameras.kind == "perspective":
        half_fov_rad = math.atan(cameras.height / 2.0 / focal_px)
        return {"fov": math.degrees(2.0 * half_fov_rad)}
    half_width, half_height = (side / 2.0 / focal_px for side in (cameras.width, cameras.height))
    half_fov_rad = math.atan(min(half_width, half_height) / distance)
    frustum = {
        "left": -half_width,
        "right": half_width,
        "top": half_height,
        "bottom": -half_height,
    }
    return {"fov": math.degrees(2.0 * half_fov_rad), "frustum": frustum}


def _distances_to_centre(camera_to_world: Tensor) -> Tensor:
    """(V,) depths of the point nearest to all viewing axes; 1 for cameras that it is behind.

    Args:
        camera_to_world: (V, 4, 4) float64, OpenGL axes.
    """
    positions, forward = camera_to_world[:, :3, 3], -camera_to_world[:, :3, 2]
    distances = ((viewing_centre(positions, forward) - positions) * forward).sum(dim=1)
    return torch.where(distances > 1e-6, distances, 1.0)


def _warn_of_lost_intrinsics(cameras: Cameras) -> None:
    """Warns of principal points and pixel shapes that LOAD3D_CAMERA cannot hold."""
    intrinsics = cameras.intrinsics.double().cpu()
    centre = intrinsics.new_tensor([cameras.width / 2.0, cameras.height / 2.0])
    offset_px = float((intrinsics[:, :2, 2] - centre).abs().max())
    aspect = float((intrinsics[:, 0, 0] / intrinsics[:, 1, 1]).sub(1.0).abs().max())
    lost = [f"principal points up to {offset_px:.1f} px off the centre"] * (offset_px > 0.5)
    lost += [f"pixels that are {aspect:.1%} off square"] * (aspect > 1e-3)
    if lost:
        logger.warning(
            "camera_info cannot hold %s: these are dropped for the 3D nodes of ComfyUI; nodes of "
            "this pack keep them through their own cameras",
            " and ".join(lost),
        )


def _matrix_to_quaternion(rotation: Tensor) -> Tensor:
    """(4,) unit quaternion x, y, z, w of a rotation matrix (3, 3) float64 (Bar-Itzhack 2000)."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation.tolist()
    matrix = rotation.new_tensor(
        [
            [xx - yy - zz, yx + xy, zx + xz, zy - yz],
            [yx + xy, yy - xx - zz, zy + yz, xz - zx],
            [zx + xz, zy + yz, zz - xx - yy, yx - xy],
            [zy - yz, xz - zx, yx - xy, xx + yy + zz],
        ]
    )
    vector = torch.linalg.eigh(matrix).eigenvectors[:, -1]
    return vector if float(vector[3]) >= 0.0 else -vector


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


def _number(entry: Mapping[str, Any], name: str, owner: str = "camera's ") -> float | None:
    """A finite number of an entry; None if it is missing or null."""
    value = entry.get(name)
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"the {owner}{name} is {value!r}, expected a finite number.")
    return number
