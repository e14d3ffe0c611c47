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
from ..files.containment import quoted
from ..images.decode import shown
from .transforms_fields import ORTHOGRAPHIC_MODEL, Frame

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

NEGLIGIBLE = 1e-6
"""A coefficient closer to 0 than this bends no ray by a visible amount."""
LARGEST_COEFFICIENT = 1e9
"""Lenses of small fields of view have large coefficients, but none as large as this."""

BROWN_KEYS = ("k1", "k2", "k3", "p1", "p2")
FISHEYE_KEYS = ("k1", "k2", "k3", "k4")
UNDERSTOOD_KEYS = frozenset((*BROWN_KEYS, *FISHEYE_KEYS, "is_fisheye", "camera_model"))
HARMLESS_KEYS = frozenset(
    (
        *("fisheye_crop_radius", "applied_transform", "applied_scale"),
        *("undistorted", "is_undistorted"),
    )
)
"""They look as if they bent rays or moved cameras, but do not: nerfstudio has applied its
transform and scale to the poses already, and the crop only says which pixels to train on."""
HARMLESS_WORDS = frozenset(("", "none", "no", "off", "false", "pinhole", "perspective"))
"""Values, in lower case, with which a key of a lens says nothing."""
RAY_KEY = re.compile(
    r"^(k\d*|p\d+|s\d+|s[xy]\d+|tau_?[xy]|omega|xi)$"
    r"|distort|fisheye|lens|radial|tangential|shutter|ftheta|latlong|equirect|panoram|omni|skew"
    r"|^orthographic$|^spherical$",
    re.IGNORECASE,
)
"""Keys that bend rays, or may: those of nerfstudio and instant-ngp, and what others call so."""
KIND_KEY = re.compile(r"camera|projection|^proj|^type$|^model$", re.IGNORECASE)
"""Keys that may name the kind of a camera, besides camera_model."""
BENT_KIND = re.compile(
    r"fish_?-?eye|equirect|panoram|spheric|omnidirect|ftheta|latlong|cylind|ortho", re.IGNORECASE
)
"""Names of cameras that are no pinhole cameras."""
MOVING_KEYS = ("transform_matrix_start", "transform_matrix_end")
"""instant-ngp's poses at the start and the end of an exposure."""


def check_lens_keys(frame: Frame) -> None:
    """Raises InputError, naming the key, if a frame or its file bends rays in an unknown way."""
    for keys in (frame.own, frame.shared):
        for key, value in keys.items():
            if key in UNDERSTOOD_KEYS or key in HARMLESS_KEYS or says_nothing(value):
                continue
            if RAY_KEY.search(key) or _contradicts(frame, key, value):
                raise InputError(
                    f"{frame.where}: {_brief(key)} is {_brief(value)}: an unknown kind of lens.",
                    "Undistort the images first, for instance with colmap image_undistorter, and "
                    "remove the key.",
                )
    pose = frame.own.get("transform_matrix")
    for key in MOVING_KEYS:
        if frame.own.get(key) not in (None, pose):
            raise InputError(
                f"{frame.where}: {key} differs from transform_matrix: the camera moves while the "
                "image is taken (rolling shutter).",
                "Give each frame one transform_matrix.",
            )


def _contradicts(frame: Frame, key: str, value: Any) -> bool:
    """Whether a key names a kind of camera that is no pinhole camera, but camera_model does not."""
    return (
        key != "camera_model"
        and isinstance(value, str)
        and bool(KIND_KEY.search(key) and BENT_KIND.search(value))
        and _camera_model(frame) in PERSPECTIVE_MODELS
        and frame.value("is_fisheye") is not True
    )


def says_nothing(value: Any) -> bool:
    """Whether a value leaves a lens as it is: absent, off, 0 or a list of such."""
    if value is None or isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return abs(value) < NEGLIGIBLE
    if isinstance(value, str):
        return value.strip().lower() in HARMLESS_WORDS
    if isinstance(value, dict):
        return all(says_nothing(each) for each in value.values())
    return isinstance(value, list) and all(says_nothing(each) for each in value)


def camera_kind(frame: Frame) -> CameraKind:
    """Perspective or orthographic, from camera_model; lenses that are not understood are refused.

    Raises:
        InputError: naming the camera model or the key.
    """
    model = _camera_model(frame)
    check_lens_keys(frame)
    distortion_of(frame)
    return "orthographic" if model == ORTHOGRAPHIC_MODEL else "perspective"


def distortion_of(frame: Frame) -> Distortion | None:
    """How the frame's lens bends rays; None if it does not.

    Raises:
        InputError: naming the coefficient that this camera model does not have, or that is no
            finite number.
    """
    model = _camera_model(frame)
    given = {}
    for key in sorted({*BROWN_KEYS, *FISHEYE_KEYS}):
        number = frame.number(key) or 0.0
        if abs(number) > LARGEST_COEFFICIENT:
            raise InputError(f"{frame.where}: {key} is {number:g}, which no lens has.")
        given[key] = 0.0 if abs(number) < NEGLIGIBLE else number
    flagged = model not in FISHEYE_MODELS and _is_fisheye(frame, given)
    fisheye = flagged or model in FISHEYE_MODELS
    understood = FISHEYE_KEYS if fisheye else BROWN_KEYS
    if model == ORTHOGRAPHIC_MODEL:
        understood = ()
    for key, number in given.items():
        if number and key not in understood:
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
    frame: Frame, distortion: Distortion, intrinsics: Tensor, width: int, height: int
) -> None:
    """Raises InputError if the lens shows two rays in one pixel within the field of view."""
    if distortion.folds_within(intrinsics, width, height):
        raise InputError(
            f"{frame.where}: the lens distortion folds back within the field of view: two rays "
            "meet in one pixel.",
            "Such coefficients hold for the middle of the image only: calibrate again, or crop the "
            "images.",
        )


def _brief(value: Any) -> str:
    """A value as errors quote it, cut to a length that leaves room for the rest."""
    return shown(quoted(value), 80)


def _camera_model(frame: Frame) -> str:
    """The camera model's name, in upper case."""
    given = frame.value("camera_model")
    model = "OPENCV" if given is None else str(given).upper()
    if model not in CAMERA_MODELS:
        raise InputError(
            f"{frame.where}: camera_model is {_brief(given)}, expected one of "
            f"{', '.join(CAMERA_MODELS)}.",
            "Undistort images of other lenses first.",
        )
    return model


def _is_fisheye(frame: Frame, given: dict[str, float]) -> bool:
    """Whether instant-ngp's `is_fisheye` makes this a fisheye lens."""
    flag = frame.value("is_fisheye")
    if says_nothing(flag):
        return False
    if flag is not True:
        raise InputError(f"{frame.where}: is_fisheye is {_brief(flag)}, expected true or false.")
    if not any(given[key] for key in FISHEYE_KEYS):
        raise InputError(
            f"{frame.where}: is_fisheye is true, but k1 to k4 are 0: instant-ngp takes this for a "
            "pinhole camera, others for an equidistant lens.",
            "Set is_fisheye to false, or camera_model to OPENCV_FISHEYE.",
        )
    return True
