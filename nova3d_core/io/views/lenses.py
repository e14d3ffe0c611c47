"""Camera models and lens distortion of a transforms.json.

Distortion is either supported, and undistorted on reading, or rejected by name. Coefficients follow
OpenCV's definitions, as in nerfstudio, COLMAP and instant-ngp.
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from ...conventions import CameraKind
from ...errors import InputError
from ...imaging.undistort import Distortion
from ..files.containment import quote_value
from ..images.decode import printable_name
from .transforms_fields import ORTHOGRAPHIC_MODEL, ViewFrame

PERSPECTIVE_MODELS = (
    "PINHOLE",
    "SIMPLE_PINHOLE",
    "PERSPECTIVE",
    "SIMPLE_RADIAL",
    "RADIAL",
    "OPENCV",
    "FULL_OPENCV",
)
FISHEYE_MODELS = ("OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE")
CAMERA_MODELS = (*PERSPECTIVE_MODELS, *FISHEYE_MODELS, ORTHOGRAPHIC_MODEL)

MIN_COEFFICIENT = 1e-6
"""Coefficients below this have no visible effect and count as 0."""
MAX_COEFFICIENT = 1e9
"""Coefficients are large for small fields of view, but never this large."""

BROWN_KEYS = ("k1", "k2", "k3", "p1", "p2")
FISHEYE_KEYS = ("k1", "k2", "k3", "k4")
SUPPORTED_KEYS = frozenset((*BROWN_KEYS, *FISHEYE_KEYS, "is_fisheye", "camera_model"))
IGNORED_KEYS = frozenset(
    (
        *("fisheye_crop_radius", "applied_transform", "applied_scale"),
        *("undistort_image", "is_undistorted"),
    )
)
"""Keys without effect on rays and poses, despite their names: nerfstudio has already applied its
transform and scale to the poses, and the crop radius only selects training pixels."""
NEUTRAL_WORDS = frozenset(("", "none", "no", "off", "false", "pinhole", "perspective"))
"""Lower-case values that mean no distortion."""
DISTORTION_KEY_PATTERN = re.compile(
    r"^(k\d*|p\d+|s\d+|s[xy]\d+|tau_?[xy]|omega|xi)$"
    r"|distort|fisheye|lens|radial|tangential|shutter|ftheta|latlong|equirect|panoram|omni|skew"
    r"|^orthographic$|^spherical$",
    re.IGNORECASE,
)
"""Keys that may describe distortion: those of nerfstudio and instant-ngp, and similar ones."""
CAMERA_KIND_KEY_PATTERN = re.compile(r"camera|projection|^proj|^type$|^model$", re.IGNORECASE)
"""Keys that may name the camera model, besides camera_model."""
NON_PINHOLE_PATTERN = re.compile(
    r"fish_?-?eye|equirect|panoram|spheric|omnidirect|ftheta|latlong|cylind|ortho", re.IGNORECASE
)
"""Names of camera models other than pinhole."""
ROLLING_SHUTTER_KEYS = ("transform_matrix_start", "transform_matrix_end")
"""instant-ngp's poses at the start and end of a rolling-shutter exposure."""


def check_lens_keys(frame: ViewFrame) -> None:
    """Raises InputError, naming the key, for unsupported distortion in a frame or its file."""
    for keys in (frame.own, frame.shared):
        for key, value in keys.items():
            if key in SUPPORTED_KEYS or key in IGNORED_KEYS or is_neutral(value):
                continue
            if DISTORTION_KEY_PATTERN.search(key) or _contradicts_camera_model(frame, key, value):
                raise InputError(
                    f"{frame.where}: {_quote_short(key)} is {_quote_short(value)}, an unsupported "
                    "lens distortion.",
                    "Undistort the images first, for example with colmap image_undistorter, and "
                    "remove the key.",
                )
    pose = frame.own.get("transform_matrix")
    for key in ROLLING_SHUTTER_KEYS:
        if frame.own.get(key) not in (None, pose):
            raise InputError(
                f"{frame.where}: {key} differs from transform_matrix: the camera moves during "
                "the exposure (rolling shutter).",
                "Give each frame one transform_matrix.",
            )


def _contradicts_camera_model(frame: ViewFrame, key: str, value: Any) -> bool:
    """Whether a key names a non-pinhole camera model although camera_model is a pinhole one."""
    return (
        key != "camera_model"
        and isinstance(value, str)
        and bool(CAMERA_KIND_KEY_PATTERN.search(key) and NON_PINHOLE_PATTERN.search(value))
        and _camera_model(frame) in PERSPECTIVE_MODELS
        and frame.value("is_fisheye") is not True
    )


def is_neutral(value: Any) -> bool:
    """Whether a value means no distortion: absent, off, 0, or a container of such values."""
    if value is None or isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return abs(value) < MIN_COEFFICIENT
    if isinstance(value, str):
        return value.strip().lower() in NEUTRAL_WORDS
    if isinstance(value, dict):
        return all(is_neutral(each) for each in value.values())
    return isinstance(value, list) and all(is_neutral(each) for each in value)


def camera_kind(frame: ViewFrame) -> CameraKind:
    """Perspective or orthographic, from camera_model; rejects unsupported lenses.

    Raises:
        InputError: naming the camera model or the key.
    """
    model = _camera_model(frame)
    check_lens_keys(frame)
    read_distortion(frame)
    return "orthographic" if model == ORTHOGRAPHIC_MODEL else "perspective"


def read_distortion(frame: ViewFrame) -> Distortion | None:
    """The lens distortion of a frame; None if there is none.

    Raises:
        InputError: naming the coefficient that the camera model does not have, or that is not a
            finite number.
    """
    model = _camera_model(frame)
    coefficients = {}
    for key in sorted({*BROWN_KEYS, *FISHEYE_KEYS}):
        value = frame.number(key) or 0.0
        if abs(value) > MAX_COEFFICIENT:
            raise InputError(f"{frame.where}: {key} is {value:g}, which is impossible for a lens.")
        coefficients[key] = 0.0 if abs(value) < MIN_COEFFICIENT else value
    flagged = model not in FISHEYE_MODELS and _is_fisheye(frame, coefficients)
    fisheye = flagged or model in FISHEYE_MODELS
    supported = FISHEYE_KEYS if fisheye else BROWN_KEYS
    if model == ORTHOGRAPHIC_MODEL:
        supported = ()
    for key, value in coefficients.items():
        if value and key not in supported:
            raise InputError(
                f"{frame.where}: {key} is {value:g}, which is undefined for the camera "
                f"model {f'{model} with is_fisheye' if flagged else model}.",
                "Undistort the images first, for example with colmap image_undistorter.",
            )
    if fisheye:
        return Distortion("fisheye", tuple(coefficients[key] for key in FISHEYE_KEYS))
    if not any(coefficients.values()):
        return None
    radial, tangential = (
        tuple(coefficients[key] for key in keys) for keys in (BROWN_KEYS[:3], BROWN_KEYS[3:])
    )
    return Distortion("brown", radial, tangential)


def check_field_of_view(
    frame: ViewFrame, distortion: Distortion, intrinsics: Tensor, width: int, height: int
) -> None:
    """Raises InputError if the distortion is not injective within the field of view."""
    if distortion.folds_within(intrinsics, width, height):
        raise InputError(
            f"{frame.where}: the lens distortion folds back within the field of view: two rays "
            "map to one pixel.",
            "Such coefficients are valid near the image centre only: calibrate again, or crop the "
            "images.",
        )


def _quote_short(value: Any) -> str:
    """Quotes a value in errors, shortened."""
    return printable_name(quote_value(value), 80)


def _camera_model(frame: ViewFrame) -> str:
    """The upper-case name of the camera model."""
    value = frame.value("camera_model")
    model = "OPENCV" if value is None else str(value).upper()
    if model not in CAMERA_MODELS:
        raise InputError(
            f"{frame.where}: camera_model is {_quote_short(value)}, expected one of "
            f"{', '.join(CAMERA_MODELS)}.",
            "Undistort the images of other lenses first.",
        )
    return model


def _is_fisheye(frame: ViewFrame, coefficients: dict[str, float]) -> bool:
    """Whether instant-ngp's `is_fisheye` declares a fisheye lens."""
    flag = frame.value("is_fisheye")
    if is_neutral(flag):
        return False
    if flag is not True:
        raise InputError(
            f"{frame.where}: is_fisheye is {_quote_short(flag)}, expected true or false."
        )
    if not any(coefficients[key] for key in FISHEYE_KEYS):
        raise InputError(
            f"{frame.where}: is_fisheye is true, but k1 to k4 are 0: instant-ngp interprets this "
            "as a pinhole camera, other programs as an equidistant lens.",
            "Set is_fisheye to false, or camera_model to OPENCV_FISHEYE.",
        )
    return True
