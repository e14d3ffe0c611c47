"""Camera pose refinement: a rigid motion M_v of each view's rays about the object's centre.

x_object = R_v (x - c) + c + t_v for a point x on a ray of view v under its input pose. All views
move freely during optimisation; at the end the motion of view 0 is undone for everything (gauge),
so that view 0 keeps its input pose exactly. Translations stay in the image plane: the depth of a
single view is nearly unobservable.

A common translation of object and views is only weakly observable: views follow it in their image
planes, and only their scale under perspective reveals the rest. `registration.py` solves for it
once the surface has some detail.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from ...cameras.cameras import Cameras
from ...cameras.rotations import axis_angle_to_matrix, rotation_angle_deg
from ..config import PoseConfig
from ..fields.render_output import RayGradients

_BETAS = (0.8, 0.9)
_EPS = 1e-20


class PoseTable:
    """Pose corrections of V views, optimised with Adam.

    These few hundred values stay on the CPU, whatever the device of the rays: one synchronisation
    per step is faster than dozens of tiny GPU kernels.

    Args:
        cameras: input cameras.
        centre: (3,) the object's centre, about which views rotate.
        config: limits and step sizes.
    """

    def __init__(self, cameras: Cameras, centre: Tensor, config: PoseConfig):
        count = len(cameras)
        self._cameras, self.centre, self._config = cameras.to("cpu"), centre.cpu(), config
        self.rotation = torch.eye(3).repeat(count, 1, 1)
        """(V, 3, 3) on the CPU."""
        self.translation = torch.zeros(count, 3)
        """(V, 3) world units, on the CPU."""
        self._mean = torch.zeros(count, 6)
        self._square = torch.zeros(count, 2)
        self._steps = 0
        self._centre_on_device = self.centre
        self._copies: tuple[Tensor, Tensor, Tensor, Tensor] | None = None

    def centre_on(self, device: torch.device) -> Tensor:
        """(3,) the centre on a device; cached."""
        if self._centre_on_device.device != device:
            self._centre_on_device = self.centre.to(device)
        return self._centre_on_device

    def motions_on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Rotations (V, 3, 3) and translations (V, 3) on a device; cached until they change."""
        if device.type == "cpu":
            return self.rotation, self.translation
        if self._copies is None or not self._is_current(device):
            packed = torch.cat([self.rotation.flatten(1), self.translation], dim=1).to(device)
            rotation, translation = packed.split([9, 3], dim=1)
            self._copies = (
                self.rotation,
                self.translation,
                rotation.unflatten(1, (3, 3)),
                translation,
            )
        return self._copies[2:]

    def _is_current(self, device: torch.device) -> bool:
        rotation, translation, copy, _ = self._copies
        return (
            rotation is self.rotation and translation is self.translation and copy.device == device
        )

    def transform_rays(
        self, view: Tensor, origin: Tensor, direction: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Rays of views (N,) under the refined poses: origins and directions (N, 3)."""
        rotations, translations = self.motions_on(origin.device)
        centre, rotation = self.centre_on(origin.device), rotations.index_select(0, view)
        origin = torch.einsum("nij,nj->ni", rotation, origin - centre) + centre
        direction = torch.einsum("nij,nj->ni", rotation, direction)
        return origin + translations.index_select(0, view), direction

    @property
    def translation_per_radian(self) -> float:
        """World units of translation that are as likely as a rotation by one radian."""
        return self._config.translation_per_radian

    @property
    def observes_depth(self) -> bool:
        """Whether images depend on depth: under perspective, not with parallel rays."""
        return self._cameras.kind == "perspective"

    @property
    def view_axes(self) -> Tensor:
        """(V, 3) unit viewing directions of the refined views, on the CPU."""
        return torch.einsum("vij,vj->vi", self.rotation, self._cameras.view_directions)

    def step(
        self,
        view: Tensor,
        origin: Tensor,
        direction: Tensor,
        gradients: RayGradients,
        pose_lr: float,
    ) -> None:
        """One Adam step on the gradients of R transformed rays; synchronises with the device once.

        Args:
            view: (R,) indices of the views.
            origin: (R, 3) from `transform_rays`.
            direction: (R, 3) from `transform_rays`.
            gradients: gradients of the loss with respect to those.
            pose_lr: learning rate of rotations, in radians.
        """
        torque = torch.linalg.cross(origin - self.centre_on(origin.device), gradients.grad_origins)
        torque = torque + torch.linalg.cross(direction, gradients.grad_directions)
        grad = torque.new_zeros(self._mean.shape)
        grad.index_add_(0, view, torch.cat([torque, gradients.grad_origins], dim=1))
        grad = grad.cpu()
        axes = self.view_axes
        along = (grad[:, 3:] * axes).sum(dim=1, keepdim=True) * axes  # (V, 3)
        grad[:, 3:] -= along
        self._steps += 1
        move = self._adam(grad) * pose_lr
        move[:, 3:] *= self._config.translation_per_radian
        self.apply(-move[:, :3], -move[:, 3:])

    def apply(self, axis_angle: Tensor, translation: Tensor) -> None:
        """Composes rotations about the centre (V, 3), in radians, and translations (V, 3).

        Both on the CPU.
        """
        rotation = axis_angle_to_matrix(axis_angle)
        self.rotation = rotation @ self.rotation
        self.translation = torch.einsum("vij,vj->vi", rotation, self.translation) + translation
        self._limit()

    def _adam(self, grad: Tensor) -> Tensor:
        """(V, 6) steps of unit size; one second moment per rotation and one per translation."""
        first, second = _BETAS
        squares = grad.square().reshape(-1, 2, 3).mean(dim=2)
        self._mean = first * self._mean + (1 - first) * grad
        self._square = second * self._square + (1 - second) * squares
        mean = self._mean / (1 - first**self._steps)
        root = (self._square / (1 - second**self._steps)).sqrt() + _EPS
        return mean / root.repeat_interleave(3, dim=1)

    def _limit(self) -> None:
        """Resets views that rotated too far to their input pose."""
        far = rotation_angle_deg(self.rotation) > self._config.max_rotation_deg
        if bool(far.any()):
            self.rotation[far] = torch.eye(3)
            self.translation[far] = 0.0

    def motions(self) -> Tensor:
        """(V, 4, 4) rigid motions M_v from input to refined rays, on the CPU."""
        motions = torch.eye(4).repeat(len(self.translation), 1, 1)
        motions[:, :3, :3] = self.rotation
        motions[:, :3, 3] = self.centre + self.translation - self.rotation @ self.centre
        return motions

    def gauge(self) -> Tensor:
        """(4, 4) motion of the field relative to the world in which view 0 has its input pose.

        Rotation and in-plane translation are those of view 0. Translation along its axis is the
        least-squares common translation of all views along theirs.
        """
        front = self.rotation[0]
        translation = self.translation @ front  # (V, 3) in front^-1
        axes = self.view_axes @ front
        axis = axes[0]
        in_plane = translation[0] - (translation[0] @ axis) * axis
        depth = (translation * axes).sum(dim=1) - axes @ in_plane  # (V,)
        cosine = axes @ axis
        common = in_plane + (cosine * depth).sum() / cosine.square().sum() * axis
        gauge = torch.eye(4)
        gauge[:3, :3] = front
        gauge[:3, 3] = self.centre + front @ (common - self.centre)
        return gauge

    def cameras(self) -> Cameras:
        """The refined cameras, on the CPU, in the gauge where view 0 has its exact input pose."""
        motions = torch.linalg.inv(self.gauge()) @ self.motions()
        directions = self._cameras.view_directions
        axes = torch.einsum("vij,vj->vi", motions[:, :3, :3], directions)
        offset = motions[:, :3, :3] @ self.centre + motions[:, :3, 3] - self.centre
        motions[:, :3, 3] -= (offset * axes).sum(dim=1, keepdim=True) * axes
        poses = self._cameras.world_to_camera @ torch.linalg.inv(motions)
        poses[0] = self._cameras.world_to_camera[0]
        poses[:, 3] = poses.new_tensor([0.0, 0.0, 0.0, 1.0])
        return replace(self._cameras, world_to_camera=poses)


def exponential_decay(step: int, total: int, end: float) -> float:
    """Exponential decay from 1 at the first step to `end` at the last."""
    return math.pow(end, step / max(total - 1, 1))
