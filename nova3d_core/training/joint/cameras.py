"""Cameras of training orbits in the world of the model, in which view 0 is not rotated."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ...cameras.cameras import Cameras, cameras_at, orbit_pose
from ...cameras.orbits import preset_orbit
from .config import FAMILY


def model_poses(elevations_deg: Tensor, azimuths_deg: Tensor) -> Tensor:
    """(B, V, 4, 4) world-to-camera poses at the distance of the family's orbit.

    The orbit of an object is moved rigidly so that its first camera is at (0, 0, r), level.

    Args:
        elevations_deg: (B, V) of the cameras in the object's world, on the CPU.
        azimuths_deg: (B, V) likewise.
    """
    radius = preset_orbit(FAMILY, 64, 64).rig.radius
    front = orbit_pose(0.0, 0.0, radius)  # float64
    poses = []
    for elevations, azimuths in zip(elevations_deg.tolist(), azimuths_deg.tolist(), strict=True):
        angles = zip(azimuths, elevations, strict=True)
        own = torch.stack([orbit_pose(azimuth, elevation, radius) for azimuth, elevation in angles])
        poses.append(own @ torch.linalg.inv(own[0]) @ front)
    return torch.stack(poses).float()


def cameras_of(poses: Tensor, size_px: int) -> Cameras:
    """Cameras with poses (V, 4, 4) and the focal length of the family's orbit, on the CPU."""
    rig = preset_orbit(FAMILY, size_px, size_px).rig
    one = cameras_at([0.0], [0.0], rig)
    return Cameras(poses.cpu(), one.intrinsics.expand(len(poses), 3, 3), size_px, size_px)


@lru_cache(maxsize=64)
def _single_cameras(content: bytes, size_px: int) -> tuple[Cameras, ...]:
    """One camera per pose of the bytes of a float32 array (V, 4, 4): level orbits repeat."""
    poses = torch.frombuffer(bytearray(content), dtype=torch.float32).view(-1, 4, 4)
    cameras = cameras_of(poses, size_px)
    return tuple(cameras[view] for view in range(len(cameras)))


def single_cameras(poses: Tensor, size_px: int) -> tuple[Cameras, ...]:
    """Each camera of `cameras_of` on its own."""
    return _single_cameras(poses.cpu().numpy().tobytes(), size_px)


def focal_per_width() -> float:
    """Focal length of the family's cameras over the image width."""
    return preset_orbit(FAMILY, 64, 64).rig.focal_per_width
