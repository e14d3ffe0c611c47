"""Parses the fields of a transforms.json: paths, poses, intrinsics."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...cameras.cameras import rigidity_problem
from ...conventions import NORMAL_FRAMES, OPENGL_FROM_OPENCV, CameraKind, NormalFrame
from ...errors import InputError
from ..files.containment import path_inside, quote_value
from ..files.json_text import parse_json
from ..images.decode import printable_name

ORTHOGRAPHIC_MODEL = "ORTHOGRAPHIC"
DISTORTION_KEYS = ("k1", "k2", "k3", "k4", "p1", "p2", "is_fisheye", "distortion_params")
LENS_KEYS = (
    *("w", "h", "fl_x", "fl_y", "cx", "cy"),
    *("camera_angle_x", "camera_angle_y", "x_fov", "y_fov"),
)
NOVA3D_KEYS = ("world_up", "normal_frame", "ortho_scale", "pixel_aspect")
FORMAT_KEYS = frozenset(("frames", "camera_model", *LENS_KEYS, *DISTORTION_KEYS, *NOVA3D_KEYS))
"""All top-level keys of the format."""
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""Tried in this order if a file_path has no suffix, as in the Blender NeRF data sets."""
MAX_POSITION = 1e12
"""Limit of camera positions in world units."""
MAX_INTRINSIC_PX = 1e9
"""Limit of focal lengths and principal points."""


@dataclass(frozen=True)
class ViewFrame:
    """One frame of a transforms.json, with the top-level keys as defaults."""

    where: str
    """Names the frame in errors: file, index, file_path."""
    own: dict[str, Any]
    """The keys of the frame."""
    shared: dict[str, Any]
    """The top-level keys of the file."""
    image: Path
    """The colour image file."""
    mask: Path | None
    """The mask file."""
    normals: Path | None
    """The normal image file."""

    def value(self, key: str) -> Any:
        """The frame's value, else the top-level one, else None."""
        own = self.own.get(key)
        return self.shared.get(key) if own is None else own

    def number(self, key: str) -> float | None:
        """A finite number, or None if neither the frame nor the file has one."""
        value = self.value(key)
        return None if value is None else finite_number(value, f"{self.where}: {key}")

    def positive(self, key: str) -> float | None:
        """A number above 0, or None if neither the frame nor the file has one."""
        number = self.number(key)
        if number is not None and number <= 0:
            raise InputError(f"{self.where}: {key} is {number:g}, expected a number above 0.")
        return number


def read_frames(path: Path) -> tuple[dict[str, Any], list[ViewFrame]]:
    """Reads the top-level keys of a transforms.json and its frames, in the order of the file.

    Raises:
        InputError: the file is missing or invalid, has no frames, or refers to images that are
            missing or outside its folder.
    """
    shared = read_json_object(path)
    entries = shared.get("frames")
    if not isinstance(entries, list) or not entries:
        raise InputError(
            f"{printable_name(path)} has no frames.",
            "Add a list 'frames' with one entry per image.",
        )
    frames = []
    for index, own in enumerate(entries):
        where = f"{printable_name(path, 120)}: frame {index}"
        if not isinstance(own, dict):
            raise InputError(f"{where} is {quote_value(own)}, expected an object.")
        if not own.get("file_path"):
            raise InputError(f"{where} has no file_path.", "Add the path of its image.")
        image = resolve_image_path(path.parent, own["file_path"], f"{where}: file_path")
        where = f"{where} ({printable_name(own['file_path'], 60)})"
        mask, normals = (
            resolve_image_path(path.parent, own[key], f"{where}: {key}") if own.get(key) else None
            for key in ("mask_path", "normal_path")
        )
        frames.append(ViewFrame(where, own, shared, image, mask, normals))
    return shared, frames


def read_json_object(path: Path) -> dict[str, Any]:
    """Reads a JSON file whose top-level value is an object.

    Raises:
        InputError: the file is missing, unreadable, not valid JSON, or has another value.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"{printable_name(path)} does not exist.") from error
    except OSError as error:
        raise InputError(
            f"{printable_name(path)} cannot be read: {error.strerror or error}."
        ) from error
    except ValueError as error:
        raise InputError(
            f"{printable_name(path)} is not valid JSON: {quote_value(str(error))}.",
            "Save it as UTF-8.",
        ) from error
    content = parse_json(
        text, printable_name(path), strict=False, hint="Correct the file or write it again."
    )
    if not isinstance(content, dict):
        raise InputError(
            f"{printable_name(path)} contains {quote_value(content)}, expected an object."
        )
    return content


def finite_number(value: Any, label: str) -> float:
    """Converts a JSON number to a finite float; `label` names it in errors."""
    number = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
    if not math.isfinite(number):
        raise InputError(f"{label} is {quote_value(value)}, expected a finite number.")
    return number


def resolve_image_path(root: Path, relative_path: Any, label: str) -> Path:
    """Resolves the path of an image in a transforms.json; it must exist below `root`.

    Args:
        root: the folder of the transforms.json.
        relative_path: a path relative to `root`, with or without suffix; \\ counts as /.
        label: names the key in errors.

    Raises:
        InputError: the path is absolute, leaves the folder (.. or a link), or does not exist.
    """
    path = path_inside(root, relative_path, label, ("", *IMAGE_SUFFIXES))
    if not path.is_file():
        raise InputError(
            f"{label}: image {printable_name(path, 160)} does not exist.",
            "Check the path, or remove the frame.",
        )
    return path


def transform_matrix(rotation: Tensor, translation: Tensor) -> list[list[float]]:
    """The transform_matrix (camera-to-world, OpenGL axes) of a world-to-camera pose.

    Args:
        rotation: (3, 3) world-to-camera, OpenCV axes.
        translation: (3,) world-to-camera, OpenCV axes.
    """
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = rotation.T.double() @ matrix.new_tensor(OPENGL_FROM_OPENCV)
    matrix[:3, 3] = -rotation.T.double() @ translation.double()
    return matrix.tolist()


def camera_to_world(frame: ViewFrame) -> Tensor:
    """The frame's camera-to-world pose (4, 4) float64, OpenGL axes, with an exact rotation.

    Raises:
        InputError: the matrix is missing, has another shape or NaN, or is not rigid.
    """
    label = f"{frame.where}: transform_matrix"
    rows = frame.own.get("transform_matrix")
    square = isinstance(rows, list) and len(rows) in (3, 4)
    if not square or not all(isinstance(row, list) and len(row) == 4 for row in rows):
        raise InputError(
            f"{label} is {quote_value(rows)}, expected 4 rows of 4 numbers, or 3 rows of 4."
        )
    values = [
        [finite_number(value, f"{label}[{i}][{j}]") for j, value in enumerate(row)]
        for i, row in enumerate(rows)
    ]
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[: len(values)] = torch.tensor(values, dtype=torch.float64)
    farthest = float(matrix[:3, 3].abs().max())
    if farthest > MAX_POSITION:
        raise InputError(
            f"{label} puts the camera at {farthest:g}, expected at most {MAX_POSITION:g}."
        )
    problem = rigidity_problem(matrix)
    if problem:
        raise InputError(
            f"{label} is not rigid: {problem}.",
            "A pose has a rotation and a position, without scale, shear or reflection.",
        )
    # Files with few digits are inexact: project to the nearest rotation, keep the position.
    left, _, right = torch.linalg.svd(matrix[:3, :3])
    matrix[:3, :3] = left @ right
    return matrix


def intrinsics(frame: ViewFrame, kind: CameraKind, width: int, height: int) -> Tensor:
    """The frame's intrinsics (3, 3) float64 for an image of `width` x `height` pixels.

    Raises:
        InputError: no focal length (perspective) or no ortho_scale (orthographic).
    """
    if kind == "orthographic":
        scale = frame.positive("ortho_scale")
        if scale is None:
            raise InputError(
                f"{frame.where}: an {ORTHOGRAPHIC_MODEL} camera has no ortho_scale.",
                "Add it: the size of the image's longer side in world units.",
            )
        focal_x = focal_y = max(width, height) / scale
        if width >= height:
            focal_y *= frame.positive("pixel_aspect") or 1.0
        else:
            focal_x /= frame.positive("pixel_aspect") or 1.0
    else:
        focal_x, focal_y = focal_lengths(frame, width, height)
    centre_x, centre_y = frame.number("cx"), frame.number("cy")
    largest = max(abs(value or 0.0) for value in (focal_x, focal_y, centre_x, centre_y))
    if largest > MAX_INTRINSIC_PX:
        raise InputError(
            f"{frame.where}: a focal length or principal point is {largest:g} px, expected at most "
            f"{MAX_INTRINSIC_PX:g}."
        )
    return torch.tensor(
        [
            [focal_x, 0.0, width / 2 if centre_x is None else centre_x],
            [0.0, focal_y, height / 2 if centre_y is None else centre_y],
            [0.0, 0.0, 1.0],
        ],
        dtype=torch.float64,
    )


def focal_lengths(frame: ViewFrame, width: int, height: int) -> tuple[float, float]:
    """Focal lengths in pixels along x and y, from fl_x and fl_y or the field of view.

    The frame's keys take precedence over the top-level ones; if only one axis is given, pixels are
    square.
    """
    for keys in (frame.own, frame.shared):
        focal_x = _focal_length(frame, keys, "x", width)
        focal_y = _focal_length(frame, keys, "y", height)
        if focal_x or focal_y:
            return focal_x or focal_y, focal_y or focal_x
    raise InputError(
        f"{frame.where} has no focal length.",
        "Add fl_x (pixels) or camera_angle_x (radians) to the frame or the top level.",
    )


def _focal_length(frame: ViewFrame, keys: dict[str, Any], axis: str, size_px: int) -> float | None:
    """The focal length in pixels along one axis; None if these keys have none."""
    if keys.get(f"fl_{axis}") is not None:
        return frame.positive(f"fl_{axis}")
    # instant-ngp supports both; its x_fov is in degrees
    for key, unit_rad, unit in (
        (f"camera_angle_{axis}", 1.0, "radians between 0 and pi"),
        (f"{axis}_fov", math.pi / 180.0, "degrees between 0 and 180"),
    ):
        if keys.get(key) is None:
            continue
        angle = frame.positive(key)
        if angle * unit_rad >= math.pi:
            raise InputError(f"{frame.where}: {key} is {angle:g}, expected {unit}.")
        return 0.5 * size_px / math.tan(0.5 * angle * unit_rad)
    return None


def declared_normal_frame(shared: dict[str, Any], path: Path) -> NormalFrame | None:
    """The normal_frame of the file; None if it has none."""
    declared = shared.get("normal_frame")
    if declared is not None and declared not in NORMAL_FRAMES:
        raise InputError(
            f"{printable_name(path)}: normal_frame is {quote_value(declared)}, expected one of "
            f"{', '.join(NORMAL_FRAMES)}."
        )
    return declared
