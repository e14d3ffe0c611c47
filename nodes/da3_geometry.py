"""Cameras of DA3_GEOMETRY, the output of ComfyUI's Depth Anything 3 nodes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .. import nova3d_core
from ..nova3d_core.cameras.cameras import Cameras
from ..nova3d_core.conventions import OPENGL_FROM_OPENCV
from ..nova3d_core.errors import InputError

logger = logging.getLogger(nova3d_core.__name__).getChild("nodes")
"""Below the core's logger, whose warnings the node displays."""

PATCH_PX = 14
"""The model processes images whose sides are multiples of this."""
RESOLUTIONS_PX = range(140, 2521, PATCH_PX)
"""Settings `resolution` of the host's node Run Depth Anything 3."""
MAX_NON_RIGID = 0.05
"""Limit of the deviation of an estimated rotation from an orthonormal matrix."""


def is_da3_geometry(value: Any) -> bool:
    """Whether a socket value is a DA3_GEOMETRY: a dict with a depth map."""
    return isinstance(value, Mapping) and "depth" in value and "position" not in value


def image_size_px(geometry: Mapping[str, Any]) -> tuple[int, int]:
    """Width and height of the images of a geometry.

    Raises:
        InputError: its depth is not (V, H, W).
    """
    shape = tuple(getattr(geometry["depth"], "shape", ()))
    if len(shape) != 3 or 0 in shape:
        raise InputError(
            f"the geometry's depth has shape {shape}, expected (views, height, width)."
        )
    return int(shape[2]), int(shape[1])


def cameras_from_da3(geometry: Mapping[str, Any], width_px: int, height_px: int) -> Cameras:
    """The cameras that Depth Anything 3 estimated, at an image size.

    Their world is the model's, with x and z turned to +Y up: (x, -y, -z), the world of the host's
    own meshes of this geometry. Its scale is arbitrary; it is as upright as the model's reference
    view.

    Args:
        geometry: `extrinsics` (1, V, 3, 4) world-to-camera with OpenCV axes; `intrinsics`
            (1, V, 3, 3) in pixels of the resolution that the model ran at; `image` (V, H, W, 3).
        width_px, height_px: image size of the result.

    Raises:
        InputError: the geometry has no poses, or invalid ones.
    """
    poses, intrinsics = (_per_view(geometry, key) for key in ("extrinsics", "intrinsics"))
    if len(poses) != len(intrinsics):
        raise InputError(
            f"the geometry has {len(poses)} extrinsics but {len(intrinsics)} intrinsics."
        )
    if _is_placeholder(poses, intrinsics):
        raise InputError(
            "the geometry has no estimated poses, only identity matrices.",
            "Run Depth Anything 3 with mode multiview and a Small or Base model.",
        )
    flip = poses.new_tensor(OPENGL_FROM_OPENCV)  # of the world, too
    world_to_camera = torch.eye(4, dtype=torch.float64).repeat(len(poses), 1, 1)
    world_to_camera[:, :3, :3] = _nearest_rotations(poses[:, :, :3]) @ flip
    world_to_camera[:, :3, 3] = poses[:, :, 3]
    size = _processed_size(geometry, intrinsics)
    scale = intrinsics.new_tensor([width_px / size[0], height_px / size[1], 1.0])
    intrinsics = intrinsics * scale[:, None]
    intrinsics[:, [0, 1, 2, 2], [1, 0, 0, 1]] = 0.0
    intrinsics[:, 2, 2] = 1.0
    return Cameras(world_to_camera.float(), intrinsics.float(), width_px, height_px)


def _per_view(geometry: Mapping[str, Any], key: str) -> Tensor:
    """(V, 3, 3 or 4) float64 matrices of the geometry's only scene."""
    matrices = geometry.get(key)
    if matrices is None:
        raise InputError(
            f"the geometry has no {key} ({geometry.get('mode', 'unknown')} mode).",
            "Run Depth Anything 3 with mode multiview and a Small or Base model.",
        )
    try:
        matrices = torch.as_tensor(matrices).detach().double().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"the geometry's {key} are not an array of numbers.") from error
    shape = tuple(matrices.shape)
    if matrices.ndim == 4 and matrices.shape[0] == 1:
        matrices = matrices[0]
    columns = 4 if key == "extrinsics" else 3
    if matrices.ndim != 3 or matrices.shape[1] < 3 or matrices.shape[2] != columns:
        raise InputError(
            f"the geometry's {key} have shape {shape}, expected (1, views, 3, {columns})."
        )
    matrices = matrices[:, :3].clone()
    bad = ~torch.isfinite(matrices).flatten(1).all(dim=1)
    if bool(bad.any()):
        raise InputError(
            f"the geometry's {key} of view {int(bad.nonzero()[0])} are not finite: the pose "
            "estimation failed.",
            "Try the other pose_method of Run Depth Anything 3, or fewer images.",
        )
    return matrices


def _is_placeholder(poses: Tensor, intrinsics: Tensor) -> bool:
    """Whether all matrices are identities, which the host fills in without a pose estimate."""
    identity = torch.eye(4, dtype=poses.dtype)
    return bool((poses == identity[:3]).all()) and bool((intrinsics == identity[:3, :3]).all())


def _nearest_rotations(matrices: Tensor) -> Tensor:
    """(V, 3, 3) rotations nearest to estimated ones (V, 3, 3)."""
    left, singular, right = torch.linalg.svd(matrices)
    rotations = left @ right
    worst = float((singular - 1.0).abs().max())
    if worst > MAX_NON_RIGID or bool((torch.linalg.det(rotations) < 0).any()):
        raise InputError(
            f"the geometry's extrinsics are not rotations (singular values off by {worst:.2g}).",
            "A pose is a rotation and a translation, without scale, shear or mirroring.",
        )
    return rotations


def _processed_size(geometry: Mapping[str, Any], intrinsics: Tensor) -> tuple[float, float]:
    """Width and height in pixels to which the intrinsics (V, 3, 3) refer.

    The geometry does not state it: the depth and the images have the size of the input, while the
    intrinsics have that of the resized images. Principal points are near the image centre, and the
    possible sizes are few: the size of the images, and those to which the host's node resizes them.
    """
    centre = 2.0 * intrinsics[:, :2, 2].mean(dim=0)  # (2,) about width, height
    if bool((centre <= 0).any()):
        raise InputError("the geometry's intrinsics have no principal point.")
    width, height = image_size_px(geometry)
    sizes = {(float(width), float(height))}
    for resolution in RESOLUTIONS_PX:
        for side in (max(width, height), min(width, height)):
            ratio = resolution / side
            sizes.add((_to_patches(width * ratio), _to_patches(height * ratio)))
    options = torch.tensor(sorted(sizes), dtype=torch.float64)  # (S, 2)
    mismatch = (options.log() - centre.log()).abs().sum(dim=1)  # (S,)
    return tuple(options[int(mismatch.argmin())].tolist())


def _to_patches(side_px: float) -> float:
    """A side rounded to whole patches, up at a tie, at least one pixel, as the host does."""
    side = round(side_px)
    below = side // PATCH_PX * PATCH_PX
    above = below + PATCH_PX
    return float(max(1, above if above - side <= side - below else below))
