"""Rotation matrices and axis-angle vectors against SciPy."""

from __future__ import annotations

import torch
from scipy.spatial.transform import Rotation

from nova3d_core.cameras.rotations import axis_angle_to_matrix, rotation_angle_deg, skew_matrix


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_axis_angle_to_matrix_matches_scipy():
    vectors = randn(50, 3)
    vectors[0], vectors[1] = 0.0, 1e-6
    expected = torch.from_numpy(Rotation.from_rotvec(vectors.numpy()).as_matrix()).float()
    torch.testing.assert_close(axis_angle_to_matrix(vectors), expected, atol=2e-6, rtol=0)
    others = randn(50, 3, seed=1)
    crossed = (skew_matrix(vectors) @ others[..., None])[..., 0]
    torch.testing.assert_close(crossed, torch.linalg.cross(vectors, others))


def test_rotation_angle_is_exact_from_tiny_angles_to_180_degrees():
    axis = torch.nn.functional.normalize(randn(1, 3), dim=1)
    angles = torch.tensor([0.0, 1e-5, 1e-3, 0.1, 1.0, 30.0, 90.0, 150.0, 179.0])
    rotations = axis_angle_to_matrix(axis.double() * torch.deg2rad(angles.double())[:, None])
    torch.testing.assert_close(rotation_angle_deg(rotations).float(), angles, atol=1e-6, rtol=1e-6)
    # in float32, too: arccos would return 0 below 0.02 degrees
    small = torch.tensor([1e-4, 1e-3, 1e-2])
    found = rotation_angle_deg(axis_angle_to_matrix(axis * torch.deg2rad(small)[:, None]))
    torch.testing.assert_close(found, small, rtol=0.01, atol=0)
