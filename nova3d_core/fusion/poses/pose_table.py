"""Refined poses: a small motion of each view's rays about the object's centre (M_v of the paper).

x_object = R_v (x - c) + c + t_v for a point x on a ray of view v as its given pose has it. All
views move freely while optimising; at the end the motion of view 0 is undone on everything, so that
view 0 is exactly as given. Shifts stay in the image's plane: a view's own depth is nearly
invisible.

A common shift of object and views is hard to see: views follow it in their planes, and only their
scale in perspective shows the rest. `alignment.py` solves for it once the surface has some detail.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from ...cameras.cameras import Cameras
from ..config import PoseConfig
from ..fields.base import RayDerivatives

_BETAS = (0.8, 0.9)
_TINY = 1e-20


def rotation_about(axis_angle: Tensor) -> Tensor:
    """Rotations (V, 3, 3) about axes (V, 3) by their length in radians (Rodrigues)."""
    return torch.linalg.matrix_exp(cross_matrix(axis_angle))


def cross_matrix(vectors: Tensor) -> Tensor:
    """(V, 3, 3) matrices K with K x = v cross x, for v (V, 3)."""
    x, y, z = vectors.unbind(dim=-1)
    zero = torch.zeros_like(x)
    rows = [zero, -z, y, z, zero, -x, -y, x, zero]
    return torch.stack(rows, dim=-1).reshape(*vectors.shape[:-1], 3, 3)


def axis_angle(rotations: Tensor) -> Tensor:
    """(V, 3) axes times radians of rotations (V, 3, 3); exact for small turns, too."""
    axis = torch.stack(
        [
            rotations[:, 2, 1] - rotations[:, 1, 2],
            rotations[:, 0, 2] - rotations[:, 2, 0],
            rotations[:, 1, 0] - rotations[:, 0, 1],
        ],
        dim=1,
    )
    trace = rotations.diagonal(dim1=1, dim2=2).sum(dim=1)
    sine = axis.norm(dim=1)  # twice
    angle = torch.atan2(sine, trace - 1.0)
    return axis * (angle / sine.clamp_min(1e-12))[:, None]


def turn_deg(rotations: Tensor) -> Tensor:
    """(V,) by how much rotations (V, 3, 3) turn, in degrees."""
    return torch.rad2deg(axis_angle(rotations).norm(dim=1))


class PoseTable:
    """Motions of V views, and the Adam steps that move them.

    They are a few hundred numbers, so they are kept and moved on the CPU, wherever the rays are: a
    step on a GPU then waits for it once, in place of dozens of tiny kernels.

    Args:
        cameras: as given.
        centre: (3,) the object's centre, which views turn about.
        config: limits and step sizes.
    """

    def __init__(self, cameras: Cameras, centre: Tensor, config: PoseConfig):
        count = len(cameras)
        self._cameras, self.centre, self._config = cameras.to("cpu"), centre.cpu(), config
        self.rotation = torch.eye(3).repeat(count, 1, 1)
        """(V, 3, 3) on the CPU."""
        self.shift = torch.zeros(count, 3)
        """(V, 3) world units, on the CPU."""
        self._mean = torch.zeros(count, 6)
        self._square = torch.zeros(count, 2)
        self._steps = 0
        self._centre_copy = self.centre
        self._copies: tuple[Tensor, Tensor, Tensor, Tensor] | None = None

    def centre_on(self, device: torch.device) -> Tensor:
        """(3,) the centre on a device, copied there once."""
        if self._centre_copy.device != device:
            self._centre_copy = self.centre.to(device)
        return self._centre_copy

    def motions_on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Rotations (V, 3, 3) and shifts (V, 3) on a device, copied there once a motion."""
        if device.type == "cpu":
            return self.rotation, self.shift
        if self._copies is None or not self._is_current(device):
            packed = torch.cat([self.rotation.flatten(1), self.shift], dim=1).to(device)
            rotation, shift = packed.split([9, 3], dim=1)
            self._copies = (self.rotation, self.shift, rotation.unflatten(1, (3, 3)), shift)
        return self._copies[2:]

    def _is_current(self, device: torch.device) -> bool:
        rotation, shift, copy, _ = self._copies
        return rotation is self.rotation and shift is self.shift and copy.device == device

    def moved(self, view: Tensor, origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
        """Rays of views (N,) where the refined poses have them: origins and directions (N, 3)."""
        rotations, shifts = self.motions_on(origin.device)
        centre, rotation = self.centre_on(origin.device), rotations.index_select(0, view)
        origin = torch.einsum("nij,nj->ni", rotation, origin - centre) + centre
        direction = torch.einsum("nij,nj->ni", rotation, direction)
        return origin + shifts.index_select(0, view), direction

    @property
    def translation_per_radian(self) -> float:
        """World units of shift that are as likely as a turn of one radian."""
        return self._config.translation_per_radian

    @property
    def sees_depth(self) -> bool:
        """Whether images tell how far away things are: parallel rays do not."""
        return self._cameras.kind == "perspective"

    @property
    def depths(self) -> Tensor:
        """(V, 3) unit vectors along which the moved views look, on the CPU."""
        return torch.einsum("vij,vj->vi", self.rotation, self._cameras.view_directions)

    def step(
        self,
        view: Tensor,
        origin: Tensor,
        direction: Tensor,
        by: RayDerivatives,
        pose_lr: float,
    ) -> None:
        """Moves the poses against the derivatives by R moved rays; waits for their device once.

        Args:
            view: (R,)
            origin: (R, 3) and direction (R, 3) as `moved` gave them.
            by: derivatives by those.
            turn_rad: how far a steadily pulled view turns in this step.
        """
        torque = torch.linalg.cross(origin - self.centre_on(origin.device), by.by_origin)
        torque = torque + torch.linalg.cross(direction, by.by_direction)
        slope = torque.new_zeros(self._mean.shape)
        slope.index_add_(0, view, torch.cat([torque, by.by_origin], dim=1))
        slope = slope.cpu()
        depths = self.depths
        along = (slope[:, 3:] * depths).sum(dim=1, keepdim=True) * depths  # (V, 3)
        slope[:, 3:] -= along
        self._steps += 1
        move = self._adam(slope) * pose_lr
        move[:, 3:] *= self._config.translation_per_radian
        self.apply(-move[:, :3], -move[:, 3:])

    def apply(self, turn: Tensor, shift: Tensor) -> None:
        """Moves the views on by turns (V, 3) about the centre, in radians, and shifts (V, 3).

        Both on the CPU.
        """
        turned = rotation_about(turn)
        self.rotation = turned @ self.rotation
        self.shift = torch.einsum("vij,vj->vi", turned, self.shift) + shift
        self._limit()

    def _adam(self, slope: Tensor) -> Tensor:
        """(V, 6) steps of unit size; three turns share a second moment, and three shifts do."""
        first, second = _BETAS
        squares = slope.square().reshape(-1, 2, 3).mean(dim=2)
        self._mean = first * self._mean + (1 - first) * slope
        self._square = second * self._square + (1 - second) * squares
        mean = self._mean / (1 - first**self._steps)
        root = (self._square / (1 - second**self._steps)).sqrt() + _TINY
        return mean / root.repeat_interleave(3, dim=1)

    def _limit(self) -> None:
        """Turns back views that went farther than allowed."""
        far = turn_deg(self.rotation) > self._config.max_rotation_deg
        if bool(far.any()):
            self.rotation[far] = torch.eye(3)
            self.shift[far] = 0.0

    def motions(self) -> Tensor:
        """(V, 4, 4) rigid motions M_v that take the given rays to the refined ones, on the CPU."""
        motions = torch.eye(4).repeat(len(self.shift), 1, 1)
        motions[:, :3, :3] = self.rotation
        motions[:, :3, 3] = self.centre + self.shift - self.rotation @ self.centre
        return motions

    def gauge(self) -> Tensor:
        """(4, 4) motion of the field against the world in which view 0 is as given.

        Turn and shift in the image's plane are view 0's own. Its depth is what the depths of all
        views say about their common shift.
        """
        front = self.rotation[0]
        shift = self.shift @ front  # (V, 3) front^-1 shift
        depths = self.depths @ front
        axis = depths[0]
        in_plane = shift[0] - (shift[0] @ axis) * axis
        depth = (shift * depths).sum(dim=1) - depths @ in_plane  # (V,)
        share = depths @ axis
        common = in_plane + (share * depth).sum() / share.square().sum() * axis
        gauge = torch.eye(4)
        gauge[:3, :3] = front
        gauge[:3, 3] = self.centre + front @ (common - self.centre)
        return gauge

    def cameras(self) -> Cameras:
        """The refined cameras, on the CPU, after the gauge is undone; view 0 exactly as given."""
        motions = torch.linalg.inv(self.gauge()) @ self.motions()
        directions = self._cameras.view_directions
        depths = torch.einsum("vij,vj->vi", motions[:, :3, :3], directions)
        about = motions[:, :3, :3] @ self.centre + motions[:, :3, 3] - self.centre
        motions[:, :3, 3] -= (about * depths).sum(dim=1, keepdim=True) * depths
        poses = self._cameras.world_to_camera @ torch.linalg.inv(motions)
        poses[0] = self._cameras.world_to_camera[0]
        poses[:, 3] = poses.new_tensor([0.0, 0.0, 0.0, 1.0])
        return replace(self._cameras, world_to_camera=poses)


def decayed(step: int, total: int, end: float) -> float:
    """1 at the first step, `end` at the last, falling by a constant factor."""
    return math.pow(end, step / max(total - 1, 1))
