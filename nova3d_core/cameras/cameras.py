"""Batches of cameras: poses, intrinsics and image size."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..checks import check_finite, check_shape
from ..conventions import CAMERA_KINDS, OPENGL_FROM_OPENCV, CameraKind, orbit_position
from ..errors import InputError
from .orbits import OrbitConfig
from .rigs import RigConfig

RIGID_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Cameras:
    """V cameras with images of one size.

    Raises:
        InputError: wrong shapes, NaN, a pose that is not rigid, focal lengths that are not
            positive, or an unknown kind.
    """

    world_to_camera: Tensor
    """(V, 4, 4) rigid transforms, OpenCV axes: x right, y down, z forward."""
    intrinsics: Tensor
    """(V, 3, 3) in pixels with pixel centres at +0.5; orthographic: pixels per world unit."""
    width: int
    """Image width in pixels."""
    height: int
    """Image height in pixels."""
    kind: CameraKind = "perspective"
    """Perspective or orthographic, for all views."""
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """World position of the poses' local origin in double precision, as `Mesh.origin`. Zero, except
    for cameras far from the world's origin (geodetic coordinates), whose positions exceed float32.
    `read_views` sets it; `write_views` and fused meshes add it."""

    def __post_init__(self):
        sizes = check_shape("world_to_camera", self.world_to_camera, "V 4 4")
        check_shape("intrinsics", self.intrinsics, "V 3 3", **sizes)
        object.__setattr__(self, "origin", tuple(float(value) for value in self.origin))
        if len(self.origin) != 3 or not all(math.isfinite(value) for value in self.origin):
            raise InputError(f"camera origin is {self.origin}, expected three finite numbers.")
        poses, intrinsics = self._checked_copies()
        check_finite("world_to_camera", poses)
        check_finite("intrinsics", intrinsics)
        if self.kind not in CAMERA_KINDS:
            raise InputError(
                f"camera kind is '{self.kind}', expected one of {', '.join(CAMERA_KINDS)}."
            )
        if self.width < 1 or self.height < 1:
            raise InputError(f"camera images are {self.width}x{self.height} px, expected above 0.")
        for view in range(len(self)):
            problem = rigidity_problem(poses[view])
            if problem:
                raise InputError(
                    f"world_to_camera of view {view} is not rigid: {problem}.",
                    "A pose is a rotation and a translation, without scale, shear or mirroring.",
                )
        if not bool((intrinsics.diagonal(dim1=1, dim2=2)[:, :2] > 0).all()):
            raise InputError("intrinsics contain a focal length that is not above 0.")
        others = torch.stack([intrinsics[:, i, j] for i, j in ((0, 1), (1, 0), (2, 0), (2, 1))])
        if bool((others.abs() > 1e-6).any()) or bool((intrinsics[:, 2, 2] != 1).any()):
            raise InputError(
                "intrinsics contain a skew, or a last row other than 0 0 1.",
                "Only focal lengths and the principal point are supported.",
            )

    def _checked_copies(self) -> tuple[Tensor, Tensor]:
        """Poses (V, 4, 4) and intrinsics (V, 3, 3) on the CPU, for validation.

        Validating on a GPU would synchronise several times per view; this copies both at once.
        """
        poses, intrinsics = self.world_to_camera, self.intrinsics
        if poses.device.type == "cpu" or poses.device != intrinsics.device:
            return poses.cpu(), intrinsics.cpu()
        packed = torch.cat([poses.flatten(1), intrinsics.flatten(1)], dim=1).cpu()
        poses, intrinsics = packed.split([16, 9], dim=1)
        return poses.unflatten(1, (4, 4)), intrinsics.unflatten(1, (3, 3))

    def __len__(self) -> int:
        return self.world_to_camera.shape[0]

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Cameras:
        """Selects views; a single index keeps the view axis, V = 1."""
        chosen = keep_view_axis(index)
        return replace(
            self,
            world_to_camera=self.world_to_camera[chosen],
            intrinsics=self.intrinsics[chosen],
        )

    def to(self, device: torch.device | str) -> Cameras:
        """Copies the cameras to a device."""
        return replace(
            self,
            world_to_camera=self.world_to_camera.to(device),
            intrinsics=self.intrinsics.to(device),
        )

    def float(self) -> Cameras:
        """Converts the cameras to float32."""
        return replace(
            self,
            world_to_camera=self.world_to_camera.float(),
            intrinsics=self.intrinsics.float(),
        )

    @property
    def rotation(self) -> Tensor:
        """(V, 3, 3) rotations from world to camera."""
        return self.world_to_camera[:, :3, :3]

    @property
    def camera_to_world(self) -> Tensor:
        """(V, 4, 4) OpenCV axes; the exact inverse of the rigid transforms."""
        inverse = torch.zeros_like(self.world_to_camera)
        inverse[:, :3, :3] = self.rotation.transpose(1, 2)
        inverse[:, :3, 3] = self.positions
        inverse[:, 3, 3] = 1.0
        return inverse

    @property
    def camera_to_world_opengl(self) -> Tensor:
        """(V, 4, 4) camera-to-world with OpenGL axes, as transforms.json holds it."""
        flip = torch.eye(4, dtype=self.world_to_camera.dtype, device=self.world_to_camera.device)
        flip[:3, :3] = flip.new_tensor(OPENGL_FROM_OPENCV)
        return self.camera_to_world @ flip

    @property
    def positions(self) -> Tensor:
        """(V, 3) camera centres in world space."""
        return -(self.rotation.transpose(1, 2) @ self.world_to_camera[:, :3, 3:])[..., 0]

    @property
    def view_directions(self) -> Tensor:
        """(V, 3) unit vectors of the viewing directions."""
        return self.rotation[:, 2]

    @property
    def azimuth_deg(self) -> Tensor:
        """(V,) camera azimuths in [0, 360)."""
        back = -self.view_directions
        return torch.rad2deg(torch.atan2(back[:, 0], back[:, 2])) % 360.0

    @property
    def elevation_deg(self) -> Tensor:
        """(V,) camera elevations above the horizon, in -90..90."""
        return torch.rad2deg(torch.asin((-self.view_directions[:, 1]).clamp(-1.0, 1.0)))

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Projects world points into every view.

        Args:
            points: (N, 3) in world space.

        Returns:
            Pixels (V, N, 2) with pixel centres at +0.5, and depths (V, N) along the viewing axis.
        """
        in_camera = points @ self.rotation.transpose(1, 2) + self.world_to_camera[:, None, :3, 3]
        depth_z = in_camera[..., 2]
        plane = in_camera[..., :2]  # (V, N, 2)
        if self.kind == "perspective":
            plane = plane / torch.where(depth_z.abs() < 1e-9, 1e-9, depth_z)[..., None]
        focal = self.intrinsics.diagonal(dim1=1, dim2=2)[:, None, :2]
        return plane * focal + self.intrinsics[:, None, :2, 2], depth_z

    def rays(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Rays through pixel positions, which are the same in every view.

        Args:
            pixels: (N, 2) x and y with pixel centres at +0.5.

        Returns:
            Origins (V, N, 3) and unit directions (V, N, 3) in world space.
        """
        focal = self.intrinsics.diagonal(dim1=1, dim2=2)[:, None, :2]
        plane = (pixels[None] - self.intrinsics[:, None, :2, 2]) / focal  # (V, N, 2)
        zero, one = torch.zeros_like(plane[..., :1]), torch.ones_like(plane[..., :1])
        if self.kind == "perspective":
            in_camera = torch.cat([plane, one], dim=-1)
            directions = in_camera / in_camera.norm(dim=-1, keepdim=True) @ self.rotation
            return self.positions[:, None].expand_as(directions), directions
        origins = torch.cat([plane, zero], dim=-1) @ self.rotation + self.positions[:, None]
        return origins, self.view_directions[:, None].expand_as(origins)

    def resized(self, width: int, height: int) -> Cameras:
        """The same cameras with another image size."""
        scale = self.intrinsics.new_tensor([width / self.width, height / self.height, 1.0])
        return replace(
            self, intrinsics=self.intrinsics * scale[None, :, None], width=width, height=height
        )


def keep_view_axis(index: int | slice | Sequence[int] | Tensor) -> slice | Tensor | list[int]:
    """Converts an index to one that keeps the leading view axis."""
    if isinstance(index, slice) or (isinstance(index, Tensor) and index.ndim > 0):
        return index
    try:
        return [operator.index(index)]
    except TypeError:
        return list(index)


def rigidity_problem(matrix: Tensor) -> str | None:
    """Why a (4, 4) matrix is not a rigid transform; None if it is one."""
    rotation = matrix[:3, :3].double()
    error = (rotation @ rotation.T - torch.eye(3, dtype=torch.float64, device=matrix.device)).abs()
    if float(error.max()) > RIGID_TOLERANCE:
        return f"its axes are not orthonormal (off by {float(error.max()):.3g})"
    if float(torch.linalg.det(rotation)) < 0:
        return "it mirrors the world (determinant -1)"
    bottom = matrix[3].double() - matrix.new_tensor([0.0, 0.0, 0.0, 1.0]).double()
    if float(bottom.abs().max()) > RIGID_TOLERANCE:
        return "its last row is not 0 0 0 1"
    return None


def orbit_pose(azimuth_deg: float, elevation_deg: float, radius: float) -> Tensor:
    """World-to-camera (4, 4) of an upright camera on an orbit, looking at the origin."""
    azimuth_rad, elevation_rad = math.radians(azimuth_deg), math.radians(elevation_deg)
    position = torch.tensor(orbit_position(azimuth_rad, elevation_rad, radius), dtype=torch.float64)
    forward = -torch.tensor(orbit_position(azimuth_rad, elevation_rad, 1.0), dtype=torch.float64)
    right = torch.tensor([math.cos(azimuth_rad), 0.0, -math.sin(azimuth_rad)], dtype=torch.float64)
    rotation = torch.stack([right, torch.linalg.cross(forward, right), forward])
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = rotation
    pose[:3, 3] = -rotation @ position
    return pose


def rig_intrinsics(rig: RigConfig) -> Tensor:
    """The (3, 3) intrinsics of a rig: square pixels, centred principal point."""
    focal = rig.focal_per_width * rig.width_px
    if rig.kind == "orthographic":
        focal = rig.width_px / rig.ortho_scale
    return torch.tensor(
        [[focal, 0.0, rig.width_px / 2], [0.0, focal, rig.height_px / 2], [0.0, 0.0, 1.0]]
    )


def cameras_at(
    azimuths_deg: Sequence[float], elevations_deg: Sequence[float], rig: RigConfig
) -> Cameras:
    """Cameras at listed angles, with a rig's radius, intrinsics and image size."""
    if len(azimuths_deg) == 0:
        raise InputError("cameras need at least one azimuth.")
    if len(azimuths_deg) != len(elevations_deg):
        raise InputError(
            f"got {len(azimuths_deg)} azimuths but {len(elevations_deg)} elevations.",
            "Provide one elevation per azimuth.",
        )
    poses = torch.stack(
        [
            orbit_pose(azimuth, elevation, rig.radius)
            for azimuth, elevation in zip(azimuths_deg, elevations_deg, strict=True)
        ]
    )
    intrinsics = rig_intrinsics(rig).expand(len(poses), 3, 3).clone()
    return Cameras(poses.float(), intrinsics, rig.width_px, rig.height_px, rig.kind)


def orbit_cameras(rig: RigConfig | None = None) -> Cameras:
    """The cameras of a rig: `count` evenly spaced views, view 0 at `azimuth_start_deg`."""
    rig = rig or RigConfig()
    azimuths = [rig.azimuth_start_deg + i * 360.0 / rig.count for i in range(rig.count)]
    return cameras_at(azimuths, [rig.elevation_deg] * rig.count, rig)


def cameras_from_orbit(orbit: OrbitConfig) -> Cameras:
    """The cameras of an orbit, in the order of its angles."""
    cameras = cameras_at(*orbit.angles_deg(), orbit.rig)
    if not orbit.zooms:
        return cameras
    intrinsics = cameras.intrinsics.clone()
    intrinsics[:, [0, 1], [0, 1]] *= intrinsics.new_tensor(orbit.zooms)[:, None]
    return replace(cameras, intrinsics=intrinsics)
