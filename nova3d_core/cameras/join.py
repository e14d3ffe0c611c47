"""Joins cameras of several sources into one batch."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import InputError
from .cameras import Cameras
from .rotations import rotation_angle_deg

logger = logging.getLogger(__name__)

SAME_POSE_DEG = 0.01
"""Rotations that differ by less are the same."""
SAME_POSITION = 1e-4
"""Positions are the same if they differ by less than this fraction of the cameras' distance."""


@dataclass(frozen=True)
class Letterbox:
    """Placement of an image on a larger canvas: resized to fit, centred and padded."""

    width: int
    """Width of the canvas in pixels."""
    height: int
    """Height of the canvas."""
    inner_width: int
    """Width of the resized image."""
    inner_height: int
    """Height of the resized image."""

    @property
    def left(self) -> int:
        """Column of the image's left border on the canvas."""
        return (self.width - self.inner_width) // 2

    @property
    def top(self) -> int:
        """Row of the image's upper border on the canvas."""
        return (self.height - self.inner_height) // 2


def letterbox(old_size_px: tuple[int, int], size_px: tuple[int, int]) -> Letterbox:
    """How an image of one size (width, height) fits onto a canvas of another."""
    scale = min(new / old for new, old in zip(size_px, old_size_px, strict=True))
    inner = [min(round(old * scale), new) for new, old in zip(size_px, old_size_px, strict=True)]
    return Letterbox(*size_px, *inner)


def letterboxed_intrinsics(
    intrinsics: Tensor, old_size_px: tuple[int, int], box: Letterbox
) -> Tensor:
    """(..., 3, 3) intrinsics of images (width, height) that are placed on a canvas."""
    scale = [box.inner_width / old_size_px[0], box.inner_height / old_size_px[1], 1.0]
    placed = intrinsics * intrinsics.new_tensor(scale)[:, None]
    placed[..., :2, 2] += intrinsics.new_tensor([box.left, box.top])
    return placed


def join_cameras(cameras: Sequence[Cameras], names: Sequence[str] = ()) -> Cameras:
    """Cameras of several sources as one batch, in the given order.

    All must be in the same world. Image sizes may differ: the joined cameras have the largest width
    and height, and the intrinsics of images that are resized to fit, centred and padded.

    Args:
        cameras: at least one batch.
        names: names of the batches in messages; "cameras 0" and so on by default.

    Raises:
        InputError: no cameras, or perspective and orthographic ones.
    """
    if not cameras:
        raise InputError("there are no cameras to join.", "Connect at least one input.")
    names = names or [f"cameras {index}" for index in range(len(cameras))]
    for name, each in zip(names, cameras, strict=True):
        if each.kind != cameras[0].kind:
            raise InputError(
                f"{names[0]} are {cameras[0].kind}, but {name} are {each.kind}.",
                "Perspective and orthographic views cannot be joined: fuse them separately.",
            )
    size = max(each.width for each in cameras), max(each.height for each in cameras)
    moved = [cameras_to_origin(each, cameras[0].origin) for each in cameras]
    joined = replace(
        moved[0],
        world_to_camera=torch.cat([each.world_to_camera for each in moved]),
        intrinsics=torch.cat([_intrinsics_at(each, size) for each in moved]),
        width=size[0],
        height=size[1],
    )
    _warn_of_other_targets(moved, names)
    _warn_of_equal_poses(joined)
    return joined


def _intrinsics_at(cameras: Cameras, size_px: tuple[int, int]) -> Tensor:
    """(V, 3, 3) intrinsics on a canvas of a size."""
    old_size = cameras.width, cameras.height
    return letterboxed_intrinsics(cameras.intrinsics, old_size, letterbox(old_size, size_px))


def cameras_to_origin(cameras: Cameras, origin: tuple[float, float, float]) -> Cameras:
    """The same cameras with their poses relative to another origin."""
    if cameras.origin == origin:
        return cameras
    poses = cameras.world_to_camera.double()  # (V, 4, 4)
    shift = poses.new_tensor(origin) - poses.new_tensor(cameras.origin)
    poses[:, :3, 3] += poses[:, :3, :3] @ shift
    return replace(cameras, world_to_camera=poses.float(), origin=origin)


def _warn_of_other_targets(cameras: Sequence[Cameras], names: Sequence[str]) -> None:
    """Warns of batches none of whose cameras shows what the first batch looks at."""
    first = cameras[0]
    centre = viewing_centre(first.positions.double(), first.view_directions.double())
    for name, each in zip(names[1:], cameras[1:], strict=True):
        pixels, depth = each.project(centre.to(each.intrinsics)[None])
        size = pixels.new_tensor([each.width, each.height])
        inside = ((pixels >= 0) & (pixels <= size)).all(dim=-1) & (depth > 0)  # (V, 1)
        if not bool(inside.any()):
            logger.warning(
                "no camera of %s shows the point that %s look at: they are probably in different "
                "worlds",
                name,
                names[0],
            )


def _warn_of_equal_poses(cameras: Cameras) -> None:
    """Warns of two cameras with the same pose."""
    positions = cameras.positions.double()
    centre = viewing_centre(positions, cameras.view_directions.double())
    scale = float((positions - centre).norm(dim=1).mean()) or 1.0
    for first, second in equal_poses(cameras, SAME_POSITION * scale):
        logger.warning(
            "views %d and %d have the same pose: is one input connected twice?", first, second
        )
        return


def equal_poses(cameras: Cameras, tolerance: float) -> Iterator[tuple[int, int]]:
    """Pairs of views with the same rotation, whose positions differ by at most `tolerance`."""
    positions = cameras.positions.double()
    distances = torch.cdist(
        positions, positions, compute_mode="donot_use_mm_for_euclid_dist"
    )  # exact for equal positions far from the origin
    for first, second in (distances <= tolerance).triu(diagonal=1).nonzero().tolist():
        relative = cameras.rotation[first] @ cameras.rotation[second].T
        if float(rotation_angle_deg(relative[None])[0]) <= SAME_POSE_DEG:
            yield first, second


def viewing_centre(positions: Tensor, directions: Tensor) -> Tensor:
    """(3,) the point with the smallest squared distances to all viewing axes.

    Of several such points, as for parallel axes, the one nearest to the origin.

    Args:
        positions: (V, 3) float64, points of the axes.
        directions: (V, 3) float64, unit vectors.
    """
    identity = torch.eye(3, dtype=positions.dtype, device=positions.device)
    across = identity - directions[:, :, None] * directions[:, None]  # (V, 3, 3)
    matrix, vector = across.sum(dim=0), (across @ positions[..., None]).sum(dim=0)
    return (torch.linalg.pinv(matrix, hermitian=True, rtol=1e-9) @ vector)[:, 0]
