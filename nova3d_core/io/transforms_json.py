"""Folders of views: pictures beside a transforms.json, as nerfstudio and instant-ngp read it.

Our own keys beside theirs: `normal_path`, `normal_frame`, `world_up`, `ortho_scale` and
`pixel_aspect` for orthographic cameras, `azimuth_deg` and `elevation_deg` for people to read.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..cameras import Cameras
from ..conventions import (
    OPENGL_FROM_OPENCV,
    UP_AXES,
    Y_UP_FROM,
    UpAxis,
    encode_normals,
)
from ..errors import InputError
from ..imaging.mask_checks import looks_inverted, refuse_inverted
from ..progress import SILENT, Progress
from ..views import Views
from .atomic import new_folder
from .image_files import shown
from .images import encoded
from .transforms_fields import (
    FORMAT_KEYS,
    ORTHOGRAPHIC_MODEL,
    Frame,
    camera_kind,
    camera_to_world,
    declared_normal_frame,
    intrinsics,
    read_frames,
)
from .transforms_pictures import ViewStack, read_pictures
from .view_sizes import common_size, fitted

logger = logging.getLogger(__name__)

FILE_NAME = "transforms.json"
FOLDER_CONTENT = (FILE_NAME, "images", "masks", "normals")
WRITTEN_MODEL = "OPENCV"
"""The name of a pinhole camera that the most readers know."""
UP_IS_UNCLEAR_BELOW = 0.1
"""How much more one axis must point up than the other for a guess without a warning."""


def read_views(folder: Path | str, progress: Progress = SILENT) -> Views:
    """Reads a folder of views, in the order of its frames.

    Transparent pictures are put on white, and their alpha is the mask unless there is a mask_path.
    Where a mask says that there is no object, the picture becomes white and the normals zero.
    A world with +Z up is turned into ours; positions and sizes stay as they are. Images are read
    as stored, whatever their EXIF orientation; images of several sizes are brought to one, their
    intrinsics with them.

    Args:
        folder: holds a transforms.json; or a file of that format with another name.
        progress: told of each frame.

    Returns:
        Views with float32 cameras; without masks where the folder has none.

    Raises:
        InputError: naming the file, frame or key that is missing, broken or contradicting.
    """
    path = _transforms_path(Path(folder))
    shared, frames = read_frames(path)
    poses = torch.stack([camera_to_world(frame) for frame in frames])  # (V, 4, 4) OpenGL axes
    _refuse_twins(frames, poses)
    kinds = {camera_kind(frame) for frame in frames}
    if len(kinds) > 1:
        raise InputError(
            f"{path} mixes perspective and orthographic cameras.", "Keep them in separate folders."
        )
    kind = kinds.pop()
    normal_frame = _normal_frame(path, shared, frames)
    up = _world_up(path, shared, poses)
    turn = poses.new_tensor(Y_UP_FROM[up])
    size = common_size(frames)
    stack, lenses, inverted = ViewStack(frames, size), [], []
    for view, frame in enumerate(progress.track(frames, "reading views", len(frames))):
        pictures = read_pictures(frame)
        height, width = pictures.colour.shape[:2]
        lens = intrinsics(frame, kind, width, height)
        inverted.append(pictures.mask is not None and looks_inverted(pictures.mask))
        if pictures.normals is not None and normal_frame == "world":
            pictures = replace(pictures, normals=pictures.normals @ turn.T.float())
        pictures, lens = fitted(frame, pictures, lens, size)
        stack.put(view, pictures)
        lenses.append(lens)
        del pictures  # before the next ones are read
    refuse_inverted(inverted, where=f"{shown(path)}:")
    poses = _world_to_camera(poses, turn).float()
    cameras = Cameras(poses, torch.stack(lenses).float(), *size, kind)
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

    Pictures are PNG with 8 bits a channel: `images/000.png` on white, and `masks/000.png`,
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
    header = {**_checked_extra(extra or {}), **_header(views), **shared_lens}
    digits = max(3, len(str(len(views) - 1)))  # other readers sort the frames by name
    with new_folder(folder, overwrite, FOLDER_CONTENT) as beside:
        frames = []
        for view in progress.track(range(len(views)), "writing views", len(views)):
            entry = _write_pictures(views, view, beside, f"{view:0{digits}d}.png")
            frames.append({**entry, **({} if shared_lens else lenses[view]), **_pose(views, view)})
        content = json.dumps({**header, "frames": frames}, indent=2, allow_nan=False)
        (beside / FILE_NAME).write_text(content + "\n", encoding="utf-8")
    return folder


def _transforms_path(given: Path) -> Path:
    """The transforms.json that a folder, or the file itself, stands for."""
    if given.is_file():
        return given
    if not given.is_dir():
        raise InputError(f"folder {given} does not exist.", f"Name a folder with a {FILE_NAME}.")
    path = given / FILE_NAME
    if not path.exists():
        others = sorted(other.name for other in given.glob("transforms*.json"))
        hint = f"It has {', '.join(others)}: name that file." if others else "Is it another folder?"
        raise InputError(f"folder {given} has no {FILE_NAME}.", hint)
    return path


def _refuse_twins(frames: Sequence[Frame], poses: Tensor) -> None:
    """Raises InputError if two frames have the same pose: a rig that was written wrongly."""
    seen: dict[tuple[float, ...], Frame] = {}
    for frame, pose in zip(frames, poses, strict=True):
        numbers = tuple((pose[:3] * 1e6).round().flatten().tolist())
        twin = seen.setdefault(numbers, frame)
        if twin is not frame:
            raise InputError(
                f"{frame.where} has the same transform_matrix as {twin.own['file_path']}.",
                "Give each picture the pose it was taken from, or remove the repeated frame.",
            )


def _normal_frame(path: Path, shared: dict[str, Any], frames: Sequence[Frame]) -> str | None:
    declared = declared_normal_frame(shared, path)
    if declared is None and any(frame.normals for frame in frames):
        raise InputError(
            f"{path} has normals (normal_path) but no normal_frame.",
            "Say at the top which axes they are in: world, camera or front_view.",
        )
    return declared


def _world_up(path: Path, shared: dict[str, Any], poses: Tensor) -> UpAxis:
    """The world's up axis: as the file says, else the one closer to the cameras' mean up vector.

    nerfstudio's documented world has +Z up, but files with +Y up are about too.
    """
    declared = shared.get("world_up")
    if declared is not None:
        if declared not in UP_AXES:
            raise InputError(
                f"{path}: world_up is {declared!r}, expected one of {', '.join(UP_AXES)}."
            )
        logger.info("%s: world up is %s, as the file says", path, declared)
        return declared
    up = poses[:, :3, 1].mean(dim=0)  # OpenGL cameras have +y up
    guess: UpAxis = "+Y" if up[1] > up[2] else "+Z"
    unclear = float((up[1] - up[2]).abs()) < UP_IS_UNCLEAR_BELOW
    logger.log(
        logging.WARNING if unclear else logging.INFO,
        "%s: world up taken as %s, as the cameras' mean up vector is (%.2f, %.2f, %.2f)%s",
        path,
        guess,
        *up.tolist(),
        "; this is unclear: write world_up into the file" if unclear else "",
    )
    return guess


def _world_to_camera(poses: Tensor, turn: Tensor) -> Tensor:
    """(V, 4, 4) world-to-camera with OpenCV axes, in our world.

    Args:
        poses: (V, 4, 4) camera-to-world with OpenGL axes, in the file's world.
        turn: (3, 3) rotation of the file's world into ours.
    """
    rotation = (turn @ poses[:, :3, :3] @ poses.new_tensor(OPENGL_FROM_OPENCV)).transpose(1, 2)
    position = turn @ poses[:, :3, 3:]
    inverse = torch.eye(4, dtype=poses.dtype).repeat(len(poses), 1, 1)
    inverse[:, :3, :3] = rotation
    inverse[:, :3, 3:] = -rotation @ position
    return inverse


def _checked_extra(extra: dict[str, Any]) -> dict[str, Any]:
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
        "camera_model": ORTHOGRAPHIC_MODEL if orthographic else WRITTEN_MODEL,
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
    return {
        "azimuth_deg": round(float(camera.azimuth_deg[0]), 4) % 360.0,
        "elevation_deg": round(float(camera.elevation_deg[0]), 4) + 0.0,  # no minus zero
        "transform_matrix": camera.camera_to_world_opengl[0].tolist(),
    }


def _write_pictures(views: Views, view: int, folder: Path, name: str) -> dict[str, str]:
    """Writes one view's pictures into `folder` and returns their paths, under the format's keys."""
    pictures = {"file_path": ("images", views.colour[view])}
    if views.masks is not None:
        pictures["mask_path"] = ("masks", views.masks[view])
    if views.normals is not None:
        pictures["normal_path"] = ("normals", encode_normals(views.normals[view]))
    for kind, picture in pictures.values():
        (folder / kind).mkdir(exist_ok=True)
        (folder / kind / name).write_bytes(encoded(picture, what=f"{kind} of view {view}"))
    return {key: f"{kind}/{name}" for key, (kind, _) in pictures.items()}
