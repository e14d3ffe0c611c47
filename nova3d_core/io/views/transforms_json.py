"""Reads and writes folders of views: images with a transforms.json, as in nerfstudio.

`read_views` also reads the folders of other programs (`folders.py`), converted to the keys of a
transforms.json. NOVA3D adds the keys `normal_path`, `normal_frame` and `world_up`, `ortho_scale`
and `pixel_aspect` for orthographic cameras, and `azimuth_deg` and `elevation_deg` for information.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...cameras.cameras import Cameras
from ...conventions import (
    OPENGL_FROM_OPENCV,
    UP_AXES,
    Y_UP_ROTATIONS,
    UpAxis,
    encode_normals,
)
from ...errors import InputError
from ...imaging.mask_checks import looks_inverted, reject_inverted
from ...mesh import FAR_FROM_ORIGIN
from ...progress import SILENT, Progress
from ...views import Views
from ..files.atomic import atomic_folder
from ..files.containment import quote_value
from ..images.decode import printable_name
from ..images.images import encode_image
from .folders import load_frames
from .frame_images import ViewStack, read_images, undistort_images
from .layouts import TRANSFORMS
from .lenses import camera_kind
from .sizes import common_size, fit_to_size
from .transforms_fields import (
    FORMAT_KEYS,
    ORTHOGRAPHIC_MODEL,
    ViewFrame,
    camera_to_world,
    declared_normal_frame,
    intrinsics,
)

logger = logging.getLogger(__name__)

FILE_NAME = TRANSFORMS
FOLDER_CONTENT = (FILE_NAME, "images", "masks", "normals")
PINHOLE_MODEL = "OPENCV"
"""The camera_model for pinhole cameras that most readers support."""
MIN_UP_MARGIN = 0.1
"""Minimum lead of the best up axis over the second one (cosines) for a guess without warning."""
MAX_UP_ANGLE_DEG = 30.0
"""Maximum angle between the cameras' mean up vector and the guessed up axis."""
MIN_MEAN_UP_LENGTH = 0.5
"""Minimum length of the mean of the cameras' unit up vectors: about 0.7 for cameras around an
object at up to 45 degrees elevation, about 0 for randomly rolled cameras."""


def read_views(
    folder: Path | str, progress: Progress = SILENT, default_up: UpAxis | None = None
) -> Views:
    """Reads a folder of views, in the order of its frames.

    Transparent images are composited over white, and their alpha is the mask unless there is a
    mask_path. Outside the mask, the image is white and the normals are zero. The world is rotated
    to +Y up; scale and positions are kept, unless the cameras lie far from the origin: then they
    are translated by `cameras.origin`. Images are read as stored, without EXIF orientation; those
    with lens distortion are undistorted, those of several sizes are resized and padded to one,
    together with their intrinsics.

    Args:
        folder: contains a transforms.json, a COLMAP model or Wonder3D's views; or the path of a
            JSON file in the format of a transforms.json.
        progress: reports each frame.
        default_up: up axis of a world for which the folder declares none, so that two folders
            of one world are rotated alike; guessed from the cameras if None.

    Returns:
        Views with float32 cameras; without masks if the folder has none.

    Raises:
        InputError: naming the file, frame or key that is missing, invalid or contradictory.
    """
    path, shared, frames = load_frames(Path(folder))
    poses = _poses(frames)
    _reject_duplicate_poses(frames, poses)
    kinds = {camera_kind(frame) for frame in frames}
    if len(kinds) > 1:
        raise InputError(
            f"{printable_name(path)} mixes perspective and orthographic cameras.",
            "Keep them in separate folders.",
        )
    kind = kinds.pop()
    normal_frame = _normal_frame(path, shared, frames)
    up = _world_up(path, shared, poses, default_up)
    rotation_to_y_up = poses.new_tensor(Y_UP_ROTATIONS[up])
    origin = _origin(path, poses)
    poses[:, :3, 3] -= origin
    size = common_size(frames)
    stack, lenses, inverted = ViewStack(frames, size), [], []
    for view, frame in enumerate(progress.track(frames, "reading views", len(frames))):
        images = read_images(frame)
        height, width = images.colour.shape[:2]
        lens = intrinsics(frame, kind, width, height)
        inverted.append(images.mask is not None and looks_inverted(images.mask))
        images = undistort_images(frame, images, lens)
        if images.normals is not None and normal_frame == "world":
            images = replace(images, normals=images.normals @ rotation_to_y_up.T.float())
        images, lens = fit_to_size(frame, images, lens, size)
        stack.store(view, images)
        lenses.append(lens)
        del images  # free them before the next ones are read
    reject_inverted(inverted, where=f"{printable_name(path)}:")
    poses = _world_to_camera(poses, rotation_to_y_up).float()
    camera_origin = tuple((rotation_to_y_up @ origin).tolist())
    cameras = Cameras(poses, torch.stack(lenses).float(), *size, kind, camera_origin)
    masks, normals = stack.masks(), stack.normals()
    return Views(cameras, stack.colour, masks, normals, None if normals is None else normal_frame)


def write_views(
    views: Views,
    folder: Path | str,
    overwrite: bool = False,
    progress: Progress = SILENT,
    extra: dict[str, Any] | None = None,
) -> Path:
    """Writes a folder of views that `read_views`, nerfstudio and instant-ngp can read.

    Images are PNG with 8 bits per channel: `images/000.png` on white, and `masks/000.png`,
    `normals/000.png` if the views have them. The write is atomic.

    Args:
        views: V views.
        folder: the folder to write.
        overwrite: replace an existing folder of views; folders with other content are kept.
        progress: reports each view.
        extra: additional top-level keys, such as the source of the views.

    Returns:
        The folder.

    Raises:
        InputError: the folder exists or is not writable, or the disk is full; `extra` has a key
            of the format or a value that is not JSON.
    """
    folder = Path(folder)
    lenses = [_lens(views.cameras, view) for view in range(len(views))]
    shared_lens = lenses[0] if all(lens == lenses[0] for lens in lenses) else {}
    header = {**_check_extra(extra or {}), **_header(views), **shared_lens}
    digits = max(3, len(str(len(views) - 1)))  # other readers sort the frames by name
    with atomic_folder(folder, overwrite, FOLDER_CONTENT) as temporary:
        frames = []
        for view in progress.track(range(len(views)), "writing views", len(views)):
            entry = _write_images(views, view, temporary, f"{view:0{digits}d}.png")
            frames.append({**entry, **({} if shared_lens else lenses[view]), **_pose(views, view)})
        content = json.dumps({**header, "frames": frames}, indent=2, allow_nan=False)
        (temporary / FILE_NAME).write_text(content + "\n", encoding="utf-8")
    return folder


def _reject_duplicate_poses(frames: Sequence[ViewFrame], poses: Tensor) -> None:
    """Raises InputError if two frames have the same pose, which indicates a wrong export."""
    seen: dict[tuple[float, ...], ViewFrame] = {}
    for frame, pose in zip(frames, poses, strict=True):
        key = tuple((pose[:3] * 1e6).round().flatten().tolist())
        duplicate = seen.setdefault(key, frame)
        if duplicate is not frame:
            raise InputError(
                f"{frame.where} has the same transform_matrix as "
                f"{printable_name(duplicate.own['file_path'], 60)}.",
                "Give each image its own pose, or remove the duplicate frame.",
            )


def _normal_frame(path: Path, shared: dict[str, Any], frames: Sequence[ViewFrame]) -> str | None:
    declared = declared_normal_frame(shared, path)
    if declared is None and any(frame.normals for frame in frames):
        raise InputError(
            f"{printable_name(path)} has normals (normal_path) but no normal_frame.",
            "Add a top-level normal_frame: world, camera or front_view.",
        )
    return declared


def _poses(frames: Sequence[ViewFrame]) -> Tensor:
    """(V, 4, 4) float64 camera-to-world, OpenGL axes, in the file's world."""
    return torch.stack([camera_to_world(frame) for frame in frames])


def world_up(folder: Path | str) -> UpAxis:
    """The up axis that `read_views` takes for a folder; reads no image.

    Raises:
        InputError: as `read_views`.
    """
    path, shared, frames = load_frames(Path(folder))
    return _world_up(path, shared, _poses(frames))


def _world_up(
    path: Path, shared: dict[str, Any], poses: Tensor, default: UpAxis | None = None
) -> UpAxis:
    """The world's up axis: declared by the file, else closest to the cameras' mean up vector.

    nerfstudio's world has +Z up; COLMAP's depends on the first images.
    """
    declared = shared.get("world_up")
    if declared is not None:
        if declared not in UP_AXES:
            raise InputError(
                f"{printable_name(path)}: world_up is {quote_value(declared)}, expected one of "
                f"{', '.join(UP_AXES)}."
            )
        logger.info("%s: world up is %s, as declared by the file", path, declared)
        return declared
    if default is not None:
        return default
    up = poses[:, :3, 1].mean(dim=0)  # OpenGL cameras have +y up
    axes = torch.tensor([Y_UP_ROTATIONS[axis] for axis in UP_AXES], dtype=up.dtype)[:, 1]  # (6, 3)
    cosines = axes @ up
    best, second = cosines.topk(2).values.tolist()
    guess: UpAxis = UP_AXES[int(cosines.argmax())]
    length = float(up.norm())
    angle_deg = math.degrees(math.acos(min(best / max(length, 1e-12), 1.0)))
    problem = ""
    if length < MIN_MEAN_UP_LENGTH or angle_deg > MAX_UP_ANGLE_DEG:
        problem = f"no axis matches (the closest is {angle_deg:.0f} degrees off)"
    elif best - second < MIN_UP_MARGIN:
        problem = "this is ambiguous"
    remedy = "add world_up to the file"
    if path.suffix.lower() != ".json":
        remedy = "align the model first, with colmap model_orientation_aligner"
    logger.log(
        logging.WARNING if problem else logging.INFO,
        "%s: world up is taken as %s, from the cameras' mean up vector (%.2f, %.2f, %.2f)%s",
        path,
        guess,
        *up.tolist(),
        f"; {problem}: {remedy}" if problem else "",
    )
    return guess


def _origin(path: Path, poses: Tensor) -> Tensor:
    """The origin of the cameras (3,) float64: their centre if it is far from zero, else zero.

    Args:
        path: for the log.
        poses: (V, 4, 4) float64 camera-to-world.
    """
    positions = poses[:, :3, 3]
    centre = positions.mean(dim=0)
    extent = float((positions - centre).norm(dim=-1).max()) or 1.0
    if float(centre.norm()) <= FAR_FROM_ORIGIN * extent:
        return torch.zeros_like(centre)
    logger.info(
        "%s: the cameras are centred at (%.3f, %.3f, %.3f), far from the origin: they are "
        "translated for processing, and back in the output",
        path,
        *centre.tolist(),
    )
    return centre


def _world_to_camera(poses: Tensor, rotation_to_y_up: Tensor) -> Tensor:
    """(V, 4, 4) world-to-camera poses with OpenCV axes, in the +Y-up world.

    Args:
        poses: (V, 4, 4) camera-to-world with OpenGL axes, in the file's world.
        rotation_to_y_up: (3, 3) rotation of the file's world to +Y up.
    """
    rotation = (
        rotation_to_y_up @ poses[:, :3, :3] @ poses.new_tensor(OPENGL_FROM_OPENCV)
    ).transpose(1, 2)
    position = rotation_to_y_up @ poses[:, :3, 3:]
    inverse = torch.eye(4, dtype=poses.dtype).repeat(len(poses), 1, 1)
    inverse[:, :3, :3] = rotation
    inverse[:, :3, 3:] = -rotation @ position
    return inverse


def _check_extra(extra: dict[str, Any]) -> dict[str, Any]:
    """Checks additional keys: they may not be keys of the format, and must be JSON."""
    clash = sorted(set(extra) & FORMAT_KEYS)
    if clash:
        raise InputError(f"extra may not have '{clash[0]}', a key of the format.")
    try:
        json.dumps(extra, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"extra cannot be written as JSON: {error}.") from error
    return extra


def _header(views: Views) -> dict[str, Any]:
    """The top-level keys except for the intrinsics."""
    orthographic = views.cameras.kind == "orthographic"
    header = {
        "camera_model": ORTHOGRAPHIC_MODEL if orthographic else PINHOLE_MODEL,
        "world_up": "+Y",
    }
    if views.normals is not None:
        header["normal_frame"] = str(views.normal_frame)
    return header


def _lens(cameras: Cameras, view: int) -> dict[str, Any]:
    """The intrinsics of one camera, as keys of the format."""
    focal_x, _, centre_x, _, focal_y, centre_y = cameras.intrinsics[view, :2].flatten().tolist()
    lens: dict[str, Any] = {"w": cameras.width, "h": cameras.height}
    if cameras.kind == "perspective":
        lens |= {"fl_x": focal_x, "fl_y": focal_y}
    else:
        longer = cameras.width >= cameras.height
        focal, size = (focal_x, cameras.width) if longer else (focal_y, cameras.height)
        lens["ortho_scale"] = size / focal
        if focal_x != focal_y:
            lens["pixel_aspect"] = focal_y / focal_x
    return {**lens, "cx": centre_x, "cy": centre_y}


def _pose(views: Views, view: int) -> dict[str, Any]:
    """The pose of one camera, as keys of the format; the angles are informative."""
    camera = views.cameras[view]
    camera = replace(camera, world_to_camera=camera.world_to_camera.detach().cpu().double())
    matrix = camera.camera_to_world_opengl[0]
    matrix[:3, 3] += matrix.new_tensor(camera.origin)
    return {
        "azimuth_deg": round(float(camera.azimuth_deg[0]), 4) % 360.0,
        "elevation_deg": round(float(camera.elevation_deg[0]), 4) + 0.0,  # no negative zero
        "transform_matrix": matrix.tolist(),
    }


def _write_images(views: Views, view: int, folder: Path, name: str) -> dict[str, str]:
    """Writes the images of one view and returns their paths, as keys of the format."""
    images = {"file_path": ("images", views.colour[view])}
    if views.masks is not None:
        images["mask_path"] = ("masks", views.masks[view])
    if views.normals is not None:
        images["normal_path"] = ("normals", encode_normals(views.normals[view]))
    for kind, image in images.values():
        (folder / kind).mkdir(exist_ok=True)
        (folder / kind / name).write_bytes(encode_image(image, label=f"{kind} of view {view}"))
    return {key: f"{kind}/{name}" for key, (kind, _) in images.items()}
