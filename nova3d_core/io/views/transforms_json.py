"""Folders of views: images beside a transforms.json, as nerfstudio and instant-ngp read it.

`read_views` also reads the folders of other programs (`view_folders`), whose cameras it gets under
the keys of a transforms.json. Our own keys: `normal_path`, `normal_frame`, `world_up`,
`ortho_scale` and `pixel_aspect` for orthographic cameras, `azimuth_deg` and `elevation_deg` for
people to read.
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
    ROTATIONS_TO_Y_UP,
    UP_AXES,
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
"""The name of a pinhole camera that the most readers know."""
MIN_UP_MARGIN = 0.1
"""How much more one axis must point up than the next for a guess without a warning."""
MAX_UP_ANGLE_DEG = 30.0
"""How far the cameras' mean up vector may lie from the axis that is taken for up."""
MIN_MEAN_UP_LENGTH = 0.5
"""How long the mean of the cameras' unit up vectors must be: cameras all around an object, up to
45 degrees above it, give 0.7; cameras that are rolled every way give about 0."""


def read_views(folder: Path | str, progress: Progress = SILENT) -> Views:
    """Reads a folder of views, in the order of its frames.

    Transparent images are put on white, and their alpha is the mask unless there is a mask_path.
    Where a mask says that there is no object, the image becomes white and the normals zero.
    A world with another axis up is turned into ours; sizes stay as they are, and so do positions
    unless the cameras lie far from the origin: then they are moved to it by `cameras.origin`.
    Images are read as stored, whatever their EXIF orientation; those of lenses with distortion are
    resampled onto a pinhole camera, those of several sizes are brought to one, their intrinsics
    with them.

    Args:
        folder: holds a transforms.json, a COLMAP model or Wonder3D's views; or a file in the format
            of a transforms.json with another name.
        progress: told of each frame.

    Returns:
        Views with float32 cameras; without masks where the folder has none.

    Raises:
        InputError: naming the file, frame or key that is missing, broken or contradicting.
    """
    path, shared, frames = load_frames(Path(folder))
    poses = torch.stack([camera_to_world(frame) for frame in frames])  # (V, 4, 4) OpenGL axes
    _reject_duplicate_poses(frames, poses)
    kinds = {camera_kind(frame) for frame in frames}
    if len(kinds) > 1:
        raise InputError(
            f"{printable_name(path)} mixes perspective and orthographic cameras.",
            "Keep them in separate folders.",
        )
    kind = kinds.pop()
    normal_frame = _normal_frame(path, shared, frames)
    up = _world_up(path, shared, poses)
    rotation_to_y_up = poses.new_tensor(ROTATIONS_TO_Y_UP[up])
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
        del images  # before the next ones are read
    reject_inverted(inverted, where=f"{printable_name(path)}:")
    poses, place = (
        _world_to_camera(poses, rotation_to_y_up).float(),
        tuple((rotation_to_y_up @ origin).tolist()),
    )
    cameras = Cameras(poses, torch.stack(lenses).float(), *size, kind, place)
    masks, normals = stack.masks(), stack.normals()
    return Views(cameras, stack.colour, masks, normals, None if normals is None else normal_frame)


def write_views(
    views: Views,
    folder: Path | str,
    overwrite: bool = False,
    progress: Progress = SILENT,
    extra: dict[str, Any] | None = None,
) -> Path:
    """Writes a folder of views that `read_views`, nerfstudio and instant-ngp read.

    Images are PNG with 8 bits a channel: `images/000.png` on white, and `masks/000.png`,
    `normals/000.png` where the views have some. The folder appears whole or not at all.

    Args:
        views: V views.
        folder: where they shall be.
        overwrite: replace an earlier folder of views; a folder that holds anything else is kept.
        progress: told of each view.
        extra: more keys for the top of the file, such as where the views come from.

    Returns:
        The folder.

    Raises:
        InputError: the folder exists, cannot be written, or the disk is full; `extra` holds one
            of the format's keys or something JSON cannot hold.
    """
    folder = Path(folder)
    lenses = [_lens(views.cameras, view) for view in range(len(views))]
    shared_lens = lenses[0] if all(lens == lenses[0] for lens in lenses) else {}
    header = {**_check_extra(extra or {}), **_header(views), **shared_lens}
    digits = max(3, len(str(len(views) - 1)))  # other readers sort the frames by name
    with atomic_folder(folder, overwrite, FOLDER_CONTENT) as beside:
        frames = []
        for view in progress.track(range(len(views)), "writing views", len(views)):
            entry = _write_images(views, view, beside, f"{view:0{digits}d}.png")
            frames.append({**entry, **({} if shared_lens else lenses[view]), **_pose(views, view)})
        content = json.dumps({**header, "frames": frames}, indent=2, allow_nan=False)
        (beside / FILE_NAME).write_text(content + "\n", encoding="utf-8")
    return folder


def _reject_duplicate_poses(frames: Sequence[ViewFrame], poses: Tensor) -> None:
    """Raises InputError if two frames have the same pose: a rig that was written wrongly."""
    seen: dict[tuple[float, ...], ViewFrame] = {}
    for frame, pose in zip(frames, poses, strict=True):
        numbers = tuple((pose[:3] * 1e6).round().flatten().tolist())
        twin = seen.setdefault(numbers, frame)
        if twin is not frame:
            raise InputError(
                f"{frame.where} has the same transform_matrix as "
                f"{printable_name(twin.own['file_path'], 60)}.",
                "Give each image the pose it was taken from, or remove the repeated frame.",
            )


def _normal_frame(path: Path, shared: dict[str, Any], frames: Sequence[ViewFrame]) -> str | None:
    declared = declared_normal_frame(shared, path)
    if declared is None and any(frame.normals for frame in frames):
        raise InputError(
            f"{printable_name(path)} has normals (normal_path) but no normal_frame.",
            "Say at the top which axes they are in: world, camera or front_view.",
        )
    return declared


def _world_up(path: Path, shared: dict[str, Any], poses: Tensor) -> UpAxis:
    """The world's up axis: as the file says, else the one closest to the cameras' mean up vector.

    nerfstudio's documented world has +Z up, COLMAP's is as its first images lie.
    """
    declared = shared.get("world_up")
    if declared is not None:
        if declared not in UP_AXES:
            raise InputError(
                f"{printable_name(path)}: world_up is {quote_value(declared)}, expected one of "
                f"{', '.join(UP_AXES)}."
            )
        logger.info("%s: world up is %s, as the file says", path, declared)
        return declared
    up = poses[:, :3, 1].mean(dim=0)  # OpenGL cameras have +y up
    axes = torch.tensor([ROTATIONS_TO_Y_UP[axis] for axis in UP_AXES], dtype=up.dtype)[
        :, 1
    ]  # (6, 3)
    shares = axes @ up
    best, second = shares.topk(2).values.tolist()
    guess: UpAxis = UP_AXES[int(shares.argmax())]
    length = float(up.norm())
    angle_deg = math.degrees(math.acos(min(best / max(length, 1e-12), 1.0)))
    problem = ""
    if length < MIN_MEAN_UP_LENGTH or angle_deg > MAX_UP_ANGLE_DEG:
        problem = f"no axis fits (the closest is {angle_deg:.0f} degrees off)"
    elif best - second < MIN_UP_MARGIN:
        problem = "this is unclear"
    remedy = "write world_up into the file"
    if path.suffix.lower() != ".json":
        remedy = "turn the model upright first, with colmap model_orientation_aligner"
    logger.log(
        logging.WARNING if problem else logging.INFO,
        "%s: world up taken as %s, as the cameras' mean up vector is (%.2f, %.2f, %.2f)%s",
        path,
        guess,
        *up.tolist(),
        f"; {problem}: {remedy}" if problem else "",
    )
    return guess


def _origin(path: Path, poses: Tensor) -> Tensor:
    """Where the cameras' own origin lies: (3,) float64, zero unless they are far from the world's.

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
        "%s: the cameras lie around (%.3f, %.3f, %.3f), far from the origin: they are moved to it "
        "for the work, and back in what is written",
        path,
        *centre.tolist(),
    )
    return centre


def _world_to_camera(poses: Tensor, rotation_to_y_up: Tensor) -> Tensor:
    """(V, 4, 4) world-to-camera with OpenCV axes, in our world.

    Args:
        poses: (V, 4, 4) camera-to-world with OpenGL axes, in the file's world.
        turn: (3, 3) rotation of the file's world into ours.
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
    """The caller's own keys, if they neither change the file's meaning nor break it."""
    clash = sorted(set(extra) & FORMAT_KEYS)
    if clash:
        raise InputError(f"extra may not hold '{clash[0]}': that is a key of the format.")
    try:
        json.dumps(extra, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"extra cannot be written as JSON: {error}.") from error
    return extra


def _header(views: Views) -> dict[str, Any]:
    """What the top of the file says besides the lens."""
    orthographic = views.cameras.kind == "orthographic"
    header = {
        "camera_model": ORTHOGRAPHIC_MODEL if orthographic else PINHOLE_MODEL,
        "world_up": "+Y",
    }
    if views.normals is not None:
        header["normal_frame"] = str(views.normal_frame)
    return header


def _lens(cameras: Cameras, view: int) -> dict[str, Any]:
    """One camera's intrinsics, under the format's keys."""
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
    """One camera's pose, under the format's keys; the angles are for people."""
    camera = views.cameras[view]
    camera = replace(camera, world_to_camera=camera.world_to_camera.detach().cpu().double())
    matrix = camera.camera_to_world_opengl[0]
    matrix[:3, 3] += matrix.new_tensor(camera.origin)
    return {
        "azimuth_deg": round(float(camera.azimuth_deg[0]), 4) % 360.0,
        "elevation_deg": round(float(camera.elevation_deg[0]), 4) + 0.0,  # no minus zero
        "transform_matrix": matrix.tolist(),
    }


def _write_images(views: Views, view: int, folder: Path, name: str) -> dict[str, str]:
    """Writes one view's images into `folder` and returns their paths, under the format's keys."""
    images = {"file_path": ("images", views.colour[view])}
    if views.masks is not None:
        images["mask_path"] = ("masks", views.masks[view])
    if views.normals is not None:
        images["normal_path"] = ("normals", encode_normals(views.normals[view]))
    for kind, image in images.values():
        (folder / kind).mkdir(exist_ok=True)
        (folder / kind / name).write_bytes(encode_image(image, label=f"{kind} of view {view}"))
    return {key: f"{kind}/{name}" for key, (kind, _) in images.items()}
