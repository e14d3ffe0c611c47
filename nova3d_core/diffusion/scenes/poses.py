"""Cameras of scenes: square crops, and the normalised frame in which the network sees them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from ...cameras.cameras import Cameras
from ...errors import InputError
from ...views import Views
from ..network.pixelnerf import ViewPoses

logger = logging.getLogger(__name__)

FARTHEST = 1.5
"""Distance of the farthest camera from the mean camera, in normalised units (V3D)."""
MIN_EXTENT = 1e-6
"""Cameras closer together than this fraction of their distance from the origin are not distinct."""
ONE_POSITION_SCALE = 1.0
"""Normalised units per world unit where all cameras have one position."""


@dataclass(frozen=True, eq=False)
class SceneFrame:
    """Similarity transform from the world to normalised units: scale (x - centre)."""

    centre: Tensor
    """(3,) mean camera position."""
    scale: float
    """Normalised units per world unit."""

    def poses(self, cameras: Cameras) -> ViewPoses:
        """Cameras (V) as (1, V) poses in this frame."""
        pose = cameras.world_to_camera.double().clone()
        # R x + t = R (x' / s + c) + t: in normalised units the translation is s (R c + t)
        pose[:, :3, 3] = self.scale * (pose[:, :3, :3] @ self.centre.double() + pose[:, :3, 3])
        sizes = torch.tensor([cameras.width, cameras.height, 1.0], dtype=torch.float64)
        intrinsics = cameras.intrinsics.double().cpu() / sizes[:, None]
        return ViewPoses(pose.float()[None].cpu(), intrinsics.float()[None])


def scene_frame(cameras: Sequence[Cameras]) -> SceneFrame:
    """The normalised frame of all cameras of a scene: centred on the mean, the farthest at 1.5.

    Cameras that all have one position have no extent: their frame keeps the world's scale.
    """
    positions = torch.cat([each.positions.double().cpu() for each in cameras])  # (V, 3)
    centre = positions.mean(dim=0)
    extent = float((positions - centre).norm(dim=1).max())
    if extent <= MIN_EXTENT * max(float(positions.norm(dim=1).max()), 1.0):
        return SceneFrame(centre, ONE_POSITION_SCALE)
    return SceneFrame(centre, FARTHEST / extent)


def check_perspective(cameras: Cameras, name: str) -> None:
    """Raises InputError for orthographic cameras, which the network was not trained with."""
    if cameras.kind != "perspective":
        raise InputError(
            f"{name} has orthographic cameras: a model for scenes needs perspective ones.",
            "Use images and a path with a field of view.",
        )


def square_cameras(cameras: Cameras, size_px: int) -> Cameras:
    """Cameras of the central square of each image, resized to `size_px`."""
    side = min(cameras.width, cameras.height)
    left, top = (cameras.width - side) / 2.0, (cameras.height - side) / 2.0
    intrinsics = cameras.intrinsics.clone()
    intrinsics[:, 0, 2] -= left
    intrinsics[:, 1, 2] -= top
    intrinsics[:, :2] *= size_px / side
    return replace(cameras, intrinsics=intrinsics, width=size_px, height=size_px)


def square_images(images: Tensor, size_px: int) -> Tensor:
    """The central square of images (V, H, W, 3), resized with antialiasing to (V, S, S, 3).

    With an odd difference of the sides, the crop is half a pixel off centre, which resampling
    compensates.
    """
    height, width = images.shape[1:3]
    side = min(height, width)
    if height == width == size_px:
        return images
    planes = images.movedim(-1, 1)
    odd = (height - side) % 2, (width - side) % 2
    if any(odd):  # average of the crops on both sides of the centre
        planes = functional.avg_pool2d(planes, (1 + odd[0], 1 + odd[1]), 1)
        height, width = planes.shape[-2:]
        side = min(side, height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = planes[..., top : top + side, left : left + side]
    resized = functional.interpolate(
        square, size=(size_px, size_px), mode="bicubic", align_corners=False, antialias=True
    )
    return resized.clamp(0.0, 1.0).movedim(1, -1)


def square_views(views: Views, size_px: int) -> Views:
    """Views of the central squares, without masks and normals."""
    images = square_images(views.colour, size_px)
    return Views(square_cameras(views.cameras, size_px), images)
