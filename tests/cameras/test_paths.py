"""Smooth paths through given cameras."""

from __future__ import annotations

import pytest
import torch

from nova3d_core.cameras.cameras import cameras_at
from nova3d_core.cameras.paths import path_through
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import InputError


def test_the_path_goes_through_its_cameras():
    cameras = cameras_at([0.0, 90.0, 120.0], [0.0, 20.0, -10.0], RigConfig())
    path = path_through(cameras, 5)
    assert torch.allclose(path.world_to_camera[::2], cameras.world_to_camera, atol=1e-5)


def test_rotations_are_halved_and_positions_averaged():
    cameras = cameras_at([0.0, 90.0], [0.0, 0.0], RigConfig())
    middle = path_through(cameras, 3)[1]
    expected = cameras_at([45.0], [0.0], RigConfig())
    assert torch.allclose(middle.rotation, expected.rotation, atol=1e-5)
    assert torch.allclose(middle.positions[0], cameras.positions.mean(dim=0), atol=1e-5)


def test_one_camera_stays_in_place():
    cameras = cameras_at([30.0], [10.0], RigConfig())
    path = path_through(cameras, 4)
    assert torch.allclose(path.world_to_camera, cameras.world_to_camera.expand(4, 4, 4), atol=1e-6)


def test_a_path_needs_cameras():
    cameras = cameras_at([30.0], [10.0], RigConfig())
    with pytest.raises(InputError, match="no cameras"):
        path_through(cameras[:0], 4)
    with pytest.raises(InputError, match="number of cameras of the path is 0"):
        path_through(cameras, 0)
