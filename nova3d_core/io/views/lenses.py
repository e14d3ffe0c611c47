"""Which lenses a transforms.json may describe, and what their keys mean.

What bends rays is either understood, and undistorted on reading, or refused by name. Coefficients
have the meaning that nerfstudio, COLMAP and instant-ngp share, which is OpenCV's.
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
"""A coefficient closer to 0 than this bends no ray by a visible amount."""
MAX_COEFFICIENT = 1e9
"""Lenses of small fields of view have large coefficients, but none as large as this."""

BROWN_KEYS = ("k1", "k2", "k3", "p1", "p2")
FISHEYE_KEYS = ("k1", "k2", "k3", "k4")
SUPPORTED_KEYS = frozenset((*BROWN_KEYS, *FISHEYE_KEYS, "is_fisheye", "camera_model"))
IGNORED_KEYS = frozenset(
    (
        *("fisheye_crop_radius", "applied_transform", "applied_scale"),
        *("undistort_image", "is_undistorted"),
    )
)
"""They look as if they bent rays or moved cameras, but do not: nerfstudio has applied its
transform and scale to the poses already, and the crop only says which pixels to train on."""
NEUTRAL_WORDS = frozenset(("", "none", "no", "off", "false", "pinhole", "perspective"))
"""Values, in lower case, with which a key of a lens says nothing."""
DISTORTION_KEY_PATTERN = re.compile(
    r"^(k\d*|p\d+|s\d+|s[xy]\d+|tau_?[xy]|omega|xi)$"
    r"|distort|fisheye|lens|radial|tangential|shutter|ftheta|latlong|equirect|panoram|omni|skew"
    r"|^orthographic$|^spherical$",
    re.IGNORECASE,
)
"""Keys that bend rays, or may: those of nerfstudio and instant-ngp, and what others call so."""
CAMERA_KIND_KEY_PATTERN = re.compile(r"camera|projection|^proj|^type$|^model$", re.IGNORECASE)
"""Keys that may name the kind of a camera, besides camera_model."""
NON_PINHOLE_PATTERN = re.compile(
    r"fish_?-?eye|equirect|panoram|spheric|omnidirect|ftheta|latlong|cylind|ortho", re.IGNORECASE
)
"""Names of cameras that are no pinhole cameras."""
ROLLING_SHUTTER_KEYS = ("transform_matrix_start", "transform_matrix_end")
"""instant-ngp's poses at the start and the end of an exposure."""


def check_lens_keys(frame: ViewFrame) -> None:
    """Raises InputError, naming the key, if a frame or its file bends rays in an unknown way."""
    for keys in (frame.own, frame.shared):
        for key, value in keys.items():
            if key in SUPPORTED_KEYS or key in IGNORED_KEYS or is_neutral(value):
                continue
            if DISTORTION_KEY_PATTERN.search(key) or _contradicts_camera_model(frame, key, value):
                raise InputError(
                    f"{frame.where}: {_quote_short(key)} is {_quote_short(value)}: an unknown kind of lens.",
                    "Undistort the images first, for instance with colmap image_undistorter, and "
                    "remove the key.",
                )
    pose = frame.own.get("transform_matrix")
    for key in ROLLING_SHUTTER_KEYS:
        if frame.own.get(key) not in (None, pose):
            raise InputError(
                f"{frame.where}: {key} differs from transform_matrix: the camera moves while the "
                "image is taken (rolling shutter).",
                "Give each frame one transform_matrix.",
            )


def _contradicts_camera_model(frame: ViewFrame, key: str, value: Any) -> bool:
    """Whether a key names a kind of camera that is no pinhole camera, but camera_model does not."""
    return (
        key != "camera_model"
        and isinstance(value, str)
        and bool(CAMERA_KIND_KEY_PATTERN.search(key) and NON_PINHOLE_PATTERN.search(value))
        and _camera_model(frame) in PERSPECTIVE_MODELS
        and frame.value("is_fisheye") is not True
    )


def is_neutral(value: Any) -> bool:
    """Whether a value leaves a lens as it is: absent, off, 0 or a list of such."""
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
    """Perspective or orthographic, from camera_model; lenses that are not understood are refused.

    Raises:
        InputError: naming the camera model or the key.
    """
    model = _camera_model(frame)
    check_lens_keys(frame)
    distortion_of(frame)
    return "orthographic" if model == ORTHOGRAPHIC_MODEL else "perspective"


def distortion_of(frame: ViewFrame) -> Distortion | None:
    """How the frame's lens bends rays; None if it does not.

    Raises:
        InputError: naming the coefficient that this camera model does not have, or that is no
            finite number.
    """
    model = _camera_model(frame)
    given = {}
    for key in sorted({*BROWN_KEYS, *FISHEYE_KEYS}):
        number = frame.number(key) or 0.0
        if abs(number) > MAX_COEFFICIENT:
            raise InputError(f"{frame.where}: {key} is {number:g}, which no lens has.")
        given[key] = 0.0 if abs(number) < MIN_COEFFICIENT else number
    flagged = model not in FISHEYE_MODELS and _is_fisheye(frame, given)
    fisheye = flagged or model in FISHEYE_MODELS
    supported = FISHEYE_KEYS if fisheye else BROWN_KEYS
    if model == ORTHOGRAPHIC_MODEL:
        supported = ()
    for key, number in given.items():
        if number and key not in supported:
            raise InputError(
                f"{frame.where}: {key} is {number:g}, which has no agreed meaning for the camera "
                f"model {f'{model} with is_fisheye' if flagged else model}.",
                "Undistort the images first, for instance with colmap image_undistorter.",
            )
    if fisheye:
        return Distortion("fisheye", tuple(given[key] for key in FISHEYE_KEYS))
    if not any(given.values()):
        return None
    return Distortion("brown", (given["k1"], given["k2"], given["k3"]), (given["p1"], given["p2"]))


def check_field_of_view(
    frame: ViewFrame, distortion: Distortion, intrinsics: Tensor, width: int, height: int
) -> None:
    """Raises InputError if the lens shows two rays in one pixel within the field of view."""
    if distortion.folds_within(intrinsics, width, height):
        raise InputError(
            f"{frame.where}: the lens distortion folds back within the field of view: two rays "
            "meet in one pixel.",
            "Such coefficients hold for the middle of the image only: calibrate again, or crop the "
            "images.",
        )


def _quote_short(value: Any) -> str:
    """A value as errors quote it, cut to a length that leaves room for the rest."""
    return printable_name(quote_value(value), 80)


def _camera_model(frame: ViewFrame) -> str:
    """The camera model's name, in upper case."""
    given = frame.value("camera_model")
    model = "OPENCV" if given is None else str(given).upper()
    if model not in CAMERA_MODELS:
        raise InputError(
            f"{frame.where}: camera_model is {_quote_short(given)}, expected one of "
            f"{', '.join(CAMERA_MODELS)}.",
            "Undistort images of other lenses first.",
        )
    return model


def _is_fisheye(frame: ViewFrame, given: dict[str, float]) -> bool:
    """Whether instant-ngp's `is_fisheye` makes this a fisheye lens."""
    flag = frame.value("is_fisheye")
    if is_neutral(flag):
        return False
    if flag is not True:
        raise InputError(
            f"{frame.where}: is_fisheye is {_quote_short(flag)}, expected true or false."
        )
    if not any(given[key] for key in FISHEYE_KEYS):
        raise InputError(
            f"{frame.where}: is_fisheye is true, but k1 to k4 are 0: instant-ngp takes this for a "
            "pinhole camera, others for an equidistant lens.",
            "Set is_fisheye to false, or camera_model to OPENCV_FISHEYE.",
        )
    return True
