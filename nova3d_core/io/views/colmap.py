"""COLMAP models, text and binary, as the frames of a transforms.json.

The formats are those of COLMAP's documentation ("Output Format"). Only cameras and images are read;
points, rigs and frames are left alone, as each image holds its own pose.
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
"""COLMAP's fisheye models without coefficients, under the name of the one with 0 for each."""
PARAMETER_KEYS = {"f": ("fl_x", "fl_y"), "fx": ("fl_x",), "fy": ("fl_y",), "k": ("k1",)}
"""COLMAP's names of parameters that a transforms.json calls otherwise."""
MASK_FOLDER = "masks"


@dataclass(frozen=True)
class _ModelLocation:
    """Where a model and what belongs to it lie."""

    cameras: Path
    images: Path
    roots: tuple[Path, ...]
    """Folders that the images' names may be relative to, the likeliest first."""


def read_colmap_frames(folder: Path) -> tuple[Path, dict[str, Any], list[ViewFrame]]:
    """The frames of a folder with a COLMAP model, sorted by the images' names.

    Args:
        folder: a workspace with `sparse/0` or `sparse` and `images`, or the model's own folder.
            `masks/NAME.png` (COLMAP's own way) or the image's name with .png are its masks.

    Returns:
        The model's images file, no shared keys, and the frames.

    Raises:
        InputError: no model, a damaged one, a camera model that is not understood, an image that
            is missing or whose name leads out of the image folder.
    """
    location = _find_model(folder)
    cameras, images = read_model(location.cameras, location.images)
    images = sorted(images, key=lambda image: image.name)
    for one, other in itertools.pairwise(images):
        if one.name == other.name:
            raise InputError(
                f"{printable_name(location.images)} holds the image {_quote_short(one.name)} twice."
            )
    root = _image_root(location, images[0])
    masks = _mask_root(root)
    if masks is None:
        logger.info(
            "%s: there is no folder %s next to %s: masks come from the images' alpha or their "
            "white background",
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
    """The model of a workspace: sparse/0, sparse, or the folder itself."""
    sparse = folder / "sparse"
    numbered = []
    if sparse.is_dir():
        numbered = sorted((e for e in sparse.iterdir() if e.name.isdigit()), key=lambda e: e.name)
    for model in (*numbered, sparse, folder):
        for cameras, images in COLMAP_MODELS:
            if (model / cameras).is_file() and (model / images).is_file():
                if model in numbered and len(numbered) > 1:
                    logger.warning(
                        "%s holds %d models: only %s is read", sparse, len(numbered), model.name
                    )
                return _ModelLocation(
                    model / cameras, model / images, _image_root_candidates(folder)
                )
    raise InputError(
        f"folder {printable_name(folder)} has a folder sparse, but no COLMAP model in it.",
        "A model has cameras.bin and images.bin, or cameras.txt and images.txt, in sparse/0 or "
        "sparse.",
    )


def _image_root_candidates(folder: Path) -> tuple[Path, ...]:
    """Where the images of a model may be."""
    roots = [folder / "images", folder]
    workspace = folder.resolve()
    while workspace.name.isdigit() or workspace.name == "sparse":  # the model's own folder
        workspace = workspace.parent
        roots.append(workspace / "images")
    return tuple(roots)


def _image_root(location: _ModelLocation, image: ModelImage) -> Path:
    """The folder that the images' names are relative to."""
    for root in location.roots:
        if path_inside(
            root, image.name, f"{printable_name(location.images, 120)}: an image's name"
        ).is_file():
            return root
    raise InputError(
        f"{printable_name(location.images, 120)}: there is no image {_quote_short(image.name)} in "
        f"{printable_name(location.roots[0], 120)}.",
        "Put COLMAP's images into a folder images next to sparse.",
    )


def _mask_root(root: Path) -> Path | None:
    """The folder of masks that belongs to a folder of images."""
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
    """One image as a frame, with the keys of a transforms.json."""
    where = f"{printable_name(path, 120)}: image {_quote_short(image.name)}"
    if camera is None:
        raise InputError(f"{where} has camera {image.camera_id}, which the model does not hold.")
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
    """An image's name as errors quote it."""
    return quote_value(printable_name(name, 60))


def _lens(camera: ModelCamera, where: str) -> dict[str, Any]:
    """A camera's intrinsics and distortion, under the keys of a transforms.json."""
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
    """The transform_matrix of an image."""
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
