"""Rotation matrices, axis-angle vectors and quaternions."""

from __future__ import annotations

import torch
from torch import Tensor


def skew_matrix(vectors: Tensor) -> Tensor:
    """Cross-product matrices K (..., 3, 3) of vectors v (..., 3): K x = v cross x."""
    x, y, z = vectors.unbind(dim=-1)
    zero = torch.zeros_like(x)
    rows = [zero, -z, y, z, zero, -x, -y, x, zero]
    return torch.stack(rows, dim=-1).reshape(*vectors.shape[:-1], 3, 3)


def axis_angle_to_matrix(axis_angle: Tensor) -> Tensor:
    """Rotation matrices (V, 3, 3) of axis-angle vectors (V, 3) in radians (Rodrigues)."""
    return torch.linalg.matrix_exp(skew_matrix(axis_angle))


def matrix_to_axis_angle(rotations: Tensor) -> Tensor:
    """Axis-angle vectors (V, 3) in radians of rotation matrices (V, 3, 3).

    Exact for small angles, too.
    """
    axis = torch.stack(
        [
            rotations[:, 2, 1] - rotations[:, 1, 2],
            rotations[:, 0, 2] - rotations[:, 2, 0],
            rotations[:, 1, 0] - rotations[:, 0, 1],
        ],
        dim=1,
    )
    trace = rotations.diagonal(dim1=1, dim2=2).sum(dim=1)
    sine = axis.norm(dim=1)  # 2 sin(angle)
    angle = torch.atan2(sine, trace - 1.0)
    return axis * (angle / sine.clamp_min(1e-12))[:, None]


def rotation_angle_deg(rotations: Tensor) -> Tensor:
    """Angles (V,) in degrees of rotation matrices (V, 3, 3)."""
    return torch.rad2deg(matrix_to_axis_angle(rotations).norm(dim=1))


def quaternion_to_matrix(quaternions: Tensor) -> Tensor:
    """Rotation matrices (N, 3, 3) of quaternions (N, 4) w, x, y, z of any length above 0."""
    w, x, y, z = torch.nn.functional.normalize(quaternions, dim=-1).unbind(dim=-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, dim=-1).reshape(*quaternions.shape[:-1], 3, 3)


def matrix_to_quaternion(rotations: Tensor) -> Tensor:
    """Unit quaternions (N, 4) w, x, y, z of rotation matrices (N, 3, 3)."""
    columns = rotations.flatten(1).unbind(dim=1)
    m00, m01, m02, m10, m11, m12, m20, m21, m22 = columns
    rows = [
        1 + m00 + m11 + m22, m21 - m12, m02 - m20, m10 - m01,
        m21 - m12, 1 + m00 - m11 - m22, m10 + m01, m02 + m20,
        m02 - m20, m10 + m01, 1 - m00 + m11 - m22, m21 + m12,
        m10 - m01, m02 + m20, m21 + m12, 1 - m00 - m11 + m22,
    ]  # fmt: skip
    outer = torch.stack(rows, dim=-1).unflatten(-1, (4, 4))  # 4 q q^T
    largest = outer.diagonal(dim1=1, dim2=2).argmax(dim=1)
    return torch.nn.functional.normalize(outer[torch.arange(len(outer)), largest], dim=-1)


def multiply_quaternions(first: Tensor, second: Tensor) -> Tensor:
    """Products (N, 4) of quaternions w, x, y, z: the rotation `second`, then `first`."""
    a, b, c, d = first.unbind(dim=-1)
    w, x, y, z = second.unbind(dim=-1)
    parts = [
        a * w - b * x - c * y - d * z,
        a * x + b * w + c * z - d * y,
        a * y - b * z + c * w + d * x,
        a * z + b * y - c * x + d * w,
    ]
    return torch.stack(parts, dim=-1)


def rotation_between(start: Tensor, end: Tensor) -> Tensor:
    """Smallest rotations (N, 3, 3) from unit vectors (N, 3) to others, which are not opposite."""
    cross = skew_matrix(torch.linalg.cross(start, end))
    cosine = (start * end).sum(dim=-1)[..., None, None]
    eye = torch.eye(3, dtype=start.dtype, device=start.device)
    return eye + cross + cross @ cross / (1.0 + cosine)
