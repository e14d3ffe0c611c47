"""Converts COLMAP models, text and binary, to frames with the keys of a transforms.json.

Follows COLMAP's documentation ("Output Format"). Only cameras and images are read; points, rigs
and frames are not needed, since each image has its own pose.
"""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...errors import InputError
from ..files.containment import path_inside, quote_value
from ..images.decode import printable_name
from .colmap_model import CAMERA_PARAMETERS, ModelCamera, ModelImage, read_model
from .layouts import COLMAP_MODELS
from .transforms_fields import ViewFrame, resolve_image_path, transform_matrix

logger = logging.getLogger(__name__)

EQUIDISTANT = {"SIMPLE_FISHEYE": "OPENCV_FISHEYE", "FISHEYE": "OPENCV_FISHEYE"}
"""COLMAP's fisheye models without coefficients, mapped to the model with coefficients of 0."""
PARAMETER_KEYS = {"f": ("fl_x", "fl_y"), "fx": ("fl_x",), "fy": ("fl_y",), "k": ("k1",)}
"""COLMAP's parameter names that differ from the keys of a transforms.json."""
MASK_FOLDER = "masks"


@dataclass(frozen=True)
class _ModelLocation:
    """The files of a COLMAP model and its image folders."""

    cameras: Path
    images: Path
    roots: tuple[Path, ...]
    """Candidate folders for the image names, the most likely first."""


def read_colmap_frames(folder: Path) -> tuple[Path, dict[str, Any], list[ViewFrame]]:
    """Reads the frames of a COLMAP workspace, sorted by image name.

    Args:
        folder: a workspace with `sparse/0` or `sparse` and `images`, or the folder of the model.
            Masks are `masks/NAME.png`, where NAME is the image name with or without suffix.

    Returns:
        The images file of the model, no top-level keys, and the frames.

    Raises:
        InputError: the model is missing or damaged, a camera model is unsupported, or an image is
            missing or outside the image folder.
    """
    location = _find_model(folder)
    cameras, images = read_model(location.cameras, location.images)
    images = sorted(images, key=lambda image: image.name)
    for one, other in itertools.pairwise(images):
        if one.name == other.name:
            raise InputError(
                f"{printable_name(location.images)} has the image {_quote_short(one.name)} twice.",
                "Remove one of the entries, or export the model again.",
            )
    root = _image_root(location, images[0])
    masks = _mask_root(root)
    if masks is None:
        logger.info(
            "%s: no folder %s next to %s: masks are taken from alpha channels or white backgrounds",
            folder,
            MASK_FOLDER,
            root,
        )
    frames = [
        _frame(image, cameras.get(image.camera_id), location.images, root, masks)
        for image in images
    ]
    return location.images, {}, frames


def _find_model(folder: Path) -> _ModelLocation:
    """Finds the model of a workspace: in sparse/0, sparse, or the folder itself."""
    sparse = folder / "sparse"
    numbered = []
    if sparse.is_dir():
        numbered = sorted((e for e in sparse.iterdir() if e.name.isdigit()), key=lambda e: e.name)
    for model in (*numbered, sparse, folder):
        for cameras, images in COLMAP_MODELS:
            if (model / cameras).is_file() and (model / images).is_file():
                if model in numbered and len(numbered) > 1:
                    logger.warning(
                        "%s has %d models: only %s is read", sparse, len(numbered), model.name
                    )
                return _ModelLocation(
                    model / cameras, model / images, _image_root_candidates(folder)
                )
    raise InputError(
        f"folder {printable_name(folder)} has a folder sparse without a COLMAP model.",
        "Put cameras.bin and images.bin, or cameras.txt and images.txt, into sparse/0 or sparse.",
    )


def _image_root_candidates(folder: Path) -> tuple[Path, ...]:
    """Candidate image folders of a model."""
    roots = [folder / "images", folder]
    workspace = folder.resolve()
    while workspace.name.isdigit() or workspace.name == "sparse":  # the folder of the model
        workspace = workspace.parent
        roots.append(workspace / "images")
    return tuple(roots)


def _image_root(location: _ModelLocation, image: ModelImage) -> Path:
    """The folder that contains an image of the model."""
    for root in location.roots:
        if path_inside(
            root, image.name, f"{printable_name(location.images, 120)}: an image's name"
        ).is_file():
            return root
    raise InputError(
        f"{printable_name(location.images, 120)}: there is no image {_quote_short(image.name)} in "
        f"{printable_name(location.roots[0], 120)}.",
        "Put the images into a folder images next to sparse.",
    )


def _mask_root(root: Path) -> Path | None:
    """The mask folder of an image folder, if there is one."""
    for masks in (root.parent / MASK_FOLDER, root / MASK_FOLDER):
        if masks.is_dir() and (root.name == "images" or masks.parent == root):
            return masks
    return None


def _frame(
    image: ModelImage,
    camera: ModelCamera | None,
    path: Path,
    root: Path,
    masks: Path | None,
) -> ViewFrame:
    """Converts an image to a frame with the keys of a transforms.json."""
    where = f"{printable_name(path, 120)}: image {_quote_short(image.name)}"
    if camera is None:
        raise InputError(
            f"{where} has camera {image.camera_id}, which the model does not have.",
            "Export the model again.",
        )
    color_file = resolve_image_path(root, image.name, where)
    mask = None
    if masks is not None:
        stem = image.name.rpartition(".")[0]
        names = (f"{image.name}.png", f"{stem}.png" if stem else "", image.name)
        paths = (path_inside(masks, name, f"{where}: mask") for name in names if name)
        mask = next((each for each in paths if each.is_file()), None)
    own = {"file_path": image.name, **_lens(camera, where), "transform_matrix": _pose(image, where)}
    return ViewFrame(where, own, {}, color_file, mask, None)


def _quote_short(name: str) -> str:
    """Quotes an image name in errors."""
    return quote_value(printable_name(name, 60))


def _lens(camera: ModelCamera, where: str) -> dict[str, Any]:
    """Intrinsics and distortion of a camera, with the keys of a transforms.json."""
    keys: dict[str, Any] = {
        "camera_model": EQUIDISTANT.get(camera.model, camera.model),
        "w": camera.width,
        "h": camera.height,
    }
    names = CAMERA_PARAMETERS[camera.model]
    if len(camera.parameters) != len(names):
        raise InputError(
            f"{where}: its {camera.model} camera has {len(camera.parameters)} parameters, expected "
            f"{len(names)} ({' '.join(names)})."
        )
    for name, value in zip(names, camera.parameters, strict=True):
        keys |= dict.fromkeys(PARAMETER_KEYS.get(name, (name,)), value)
    return keys


def _pose(image: ModelImage, where: str) -> list[list[float]]:
    """Converts the pose of an image to a transform_matrix."""
    quaternion = torch.tensor(image.quaternion, dtype=torch.float64)
    length = float(quaternion.norm())
    if not 1e-3 < length < 1e3:
        raise InputError(
            f"{where}: its rotation is {quote_value(image.quaternion)}, expected a unit quaternion."
        )
    w, x, y, z = (quaternion / length).tolist()
    rotation = torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ],
        dtype=torch.float64,
    )
    return transform_matrix(rotation, torch.tensor(image.translation, dtype=torch.float64))
