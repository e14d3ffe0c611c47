"""Projection of 3D Gaussians to 2D Gaussians in an image (EWA splatting).

Reference: M. Zwicker et al., "EWA volume splatting", 2001, and B. Kerbl et al., "3D Gaussian
splatting for real-time radiance field rendering", 2023, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..cameras.cameras import Cameras
from ..cameras.rotations import quaternion_to_matrix
from .constants import BLUR_PX2, FRUSTUM_MARGIN, MIN_ALPHA, NEAR


@dataclass(frozen=True, eq=False)
class ProjectedSplats:
    """N splats in the image of one camera."""

    means: Tensor
    """(N, 2) centres in pixels, pixel centres at +0.5."""
    conics: Tensor
    """(N, 3) xx, xy, yy of the inverse covariances, in 1 / pixel squared."""
    depths: Tensor
    """(N,) along the viewing axis."""
    extents: Tensor
    """(N, 2) half-widths in pixels of the box outside which alpha is below `MIN_ALPHA`; 0: not
    visible. Without gradient."""


def project_splats(
    positions: Tensor,
    scales: Tensor,
    rotations: Tensor,
    opacities: Tensor,
    camera: Cameras,
    blur_px2: float = BLUR_PX2,
) -> ProjectedSplats:
    """Projects splats into one camera; differentiable in positions, scales and rotations.

    The covariance is J W S W^T J^T + blur, with S = R diag(scale^2) R^T, the rotation W from world
    to camera and the Jacobian J of the projection at the centre.

    Args:
        positions: (N, 3) in the world.
        scales: (N, 3) standard deviations.
        rotations: (N, 4) quaternions of any length above 0.
        opacities: (N,) in 0..1.
        camera: V = 1, perspective or orthographic.
        blur_px2: variance of the low-pass filter in pixels squared.
    """
    pose, intrinsics = camera.world_to_camera[0], camera.intrinsics[0]
    points = positions @ pose[:3, :3].T + pose[:3, 3]  # (N, 3) in camera axes
    focal = intrinsics.diagonal()[:2]  # (2,)
    depths = points[:, 2]
    is_drawn = (depths.detach() > NEAR) & (opacities.detach() >= MIN_ALPHA)
    axes = pose[:3, :3] @ quaternion_to_matrix(rotations) * scales[:, None, :]  # (N, 3, 3)
    if camera.kind == "perspective":
        z = torch.where(is_drawn, depths, 1.0)
        plane = points[:, :2] / z[:, None]  # (N, 2)
        jacobian = _perspective_jacobian(plane, z, camera)
        means = plane * focal + intrinsics[:2, 2]
    else:
        jacobian = torch.diag_embed(focal).new_zeros(2, 3)
        jacobian[0, 0], jacobian[1, 1] = focal[0], focal[1]
        means = points[:, :2] * focal + intrinsics[:2, 2]
    half = jacobian @ axes  # (N, 2, 3)
    covariance = half @ half.transpose(1, 2)  # (N, 2, 2)
    xx, yy = covariance[:, 0, 0] + blur_px2, covariance[:, 1, 1] + blur_px2
    xy = covariance[:, 0, 1]
    determinant = (xx * yy - xy * xy).clamp_min(1e-12)
    conics = torch.stack([yy, -xy, xx], dim=1) / determinant[:, None]
    # the ellipse where opacity * exp(-q) = MIN_ALPHA, as in gsplat
    squared = 2.0 * torch.log((opacities.detach() / MIN_ALPHA).clamp_min(1.0))  # (N,)
    variances = torch.stack([xx, yy], dim=1).detach()
    extents = (squared[:, None] * variances).sqrt() * is_drawn[:, None]
    return ProjectedSplats(means, conics, depths, extents)


def _perspective_jacobian(plane: Tensor, z: Tensor, camera: Cameras) -> Tensor:
    """(N, 2, 3) derivative of pixels by camera coordinates, at x / z, y / z (N, 2) and z (N,).

    Points far outside the image are clamped to its frustum with a margin: the linear approximation
    would blow up there.
    """
    focal = camera.intrinsics[0].diagonal()[:2]
    low, high = frustum_limits(camera)
    plane = torch.minimum(torch.maximum(plane, low), high)
    zero = torch.zeros_like(z)
    fx, fy = focal[0] / z, focal[1] / z
    rows = [fx, zero, -fx * plane[:, 0], zero, fy, -fy * plane[:, 1]]
    return torch.stack(rows, dim=1).reshape(-1, 2, 3)


def frustum_limits(camera: Cameras) -> tuple[Tensor, Tensor]:
    """Limits (2,) of x / z and y / z of the Jacobian's point: the frustum with its margin."""
    intrinsics = camera.intrinsics[0]
    focal, centre = intrinsics.diagonal()[:2], intrinsics[:2, 2]
    size = focal.new_tensor([camera.width, camera.height])
    margin = FRUSTUM_MARGIN * 0.5 * size / focal
    return -centre / focal - margin, (size - centre) / focal + margin
