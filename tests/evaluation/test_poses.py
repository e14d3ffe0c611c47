from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from nova3d_core.cameras.cameras import Cameras, cameras_at, orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import InputError
from nova3d_core.evaluation.config import PerturbationConfig
from nova3d_core.evaluation.metrics.poses import pose_errors, pose_motion
from nova3d_core.evaluation.perturbations import noisy_cameras, rotation_matrix

IDEAL = orbit_cameras(RigConfig(count=8, width_px=32, height_px=32))


def double(cameras: Cameras) -> Cameras:
    return replace(cameras, world_to_camera=cameras.world_to_camera.double())


def move_world(cameras: Cameras, motion: np.ndarray) -> Cameras:
    """Cameras with the same images after a rigid motion (4, 4) of the world."""
    inverse = torch.from_numpy(np.linalg.inv(motion))
    return replace(cameras, world_to_camera=cameras.world_to_camera.double() @ inverse)


def perturb(angles_deg: list[float], translations: list[tuple[float, float, float]]) -> Cameras:
    """The ideal cameras, each rotated about the origin and translated along its own axes."""
    axis = np.array([2.0, -1.0, 2.0]) / 3.0
    poses = IDEAL.world_to_camera.double().clone()
    for view, (angle, translation) in enumerate(zip(angles_deg, translations, strict=True)):
        rotation = torch.from_numpy(rotation_matrix(axis * math.radians(angle)))
        poses[view, :3, :3] = poses[view, :3, :3] @ rotation
        poses[view, :3, 3] += torch.tensor(translation, dtype=torch.float64)
    return replace(double(IDEAL), world_to_camera=poses)


def test_recovers_known_rotations_and_translations():
    angles = [0.0, 1.0, 0.01, 5.0, 90.0, 179.0, 180.0, 3.0]
    translations = [(0.0, 0.0, 0.0), (0.03, 0.04, 0.0), (0.0, 0.0, -0.02), (-0.01, 0.0, 0.01)]
    translations += [(0.0, 0.0, 0.0)] * 4
    metrics = pose_errors(perturb(angles, translations), double(IDEAL), longest_side=2.0)
    assert metrics.rotation_deg.tolist() == pytest.approx(angles, abs=1e-5)  # poses were float32
    expected = [0.0, 2.5, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0]
    assert metrics.lateral_percent.tolist() == pytest.approx(expected, abs=1e-9)
    expected = [0.0, 0.0, 1.0, 0.5, 0.0, 0.0, 0.0, 0.0]
    assert metrics.depth_percent.tolist() == pytest.approx(expected, abs=1e-9)


def test_medians_and_means_exclude_view_0_and_maxima_do_not():
    angles = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 7.0, 8.0]
    translations = [(0.0, 0.0, 0.0)] + [(0.0, i / 100, 0.0) for i in (1, 1, 1, 1, 2, 3, 5)]
    summary = pose_errors(perturb(angles, translations), double(IDEAL)).summary()
    assert summary["rotation_deg_median"] == pytest.approx(4.0)
    assert summary["rotation_deg_mean"] == pytest.approx(31 / 7)
    assert summary["rotation_deg_max"] == pytest.approx(8.0)
    assert summary["lateral_percent_median"] == pytest.approx(1.0)
    assert summary["lateral_percent_mean"] == pytest.approx(2.0)
    assert summary["lateral_percent_max"] == pytest.approx(5.0)
    front = pose_errors(perturb([9.0] + [0.0] * 7, [(0.0, 0.0, 0.0)] * 8), double(IDEAL))
    assert front.summary()["rotation_deg_max"] == pytest.approx(9.0)
    assert front.summary()["rotation_deg_mean"] == pytest.approx(0.0, abs=1e-5)


def test_median_of_an_even_number_of_views():
    cameras = IDEAL[:3]
    other = perturb([0.0, 1.0, 3.0] + [0.0] * 5, [(0.0, 0.0, 0.0)] * 8)[:3]
    assert pose_errors(other, cameras).summary()["rotation_deg_median"] == pytest.approx(2.0)


def test_measures_the_injected_pose_noise():
    config = PerturbationConfig(seed=5)
    ideal = cameras_at([i * 0.9 for i in range(400)], [10.0] * 400, RigConfig())
    metrics = pose_errors(ideal, noisy_cameras(ideal, config, longest_side=3.0), longest_side=3.0)
    # the same random numbers: three for the rotation, two for the translation of each view
    random = np.random.default_rng([5, 1])
    angles, lateral = [0.0], [0.0]
    for _ in range(399):
        angles.append(float(np.linalg.norm(random.normal(0.0, 1.0, 3) * 2.0)))
        lateral.append(float(np.linalg.norm(random.normal(0.0, 1.0, 2) * 1.0)))
    assert metrics.rotation_deg.numpy() == pytest.approx(np.array(angles), abs=1e-4)
    assert metrics.lateral_percent.numpy() == pytest.approx(np.array(lateral), abs=1e-4)
    assert float(metrics.depth_percent.max()) < 1e-4


def test_identical_poses_have_no_error():
    summary = pose_errors(IDEAL, IDEAL).summary()
    assert all(
        value < 2e-6 for value in summary.values()
    )  # float32 rotations are not exactly orthonormal
    assert len(summary) == 9


def test_rotating_the_world_changes_nothing():
    noisy = noisy_cameras(IDEAL, PerturbationConfig(seed=1))
    motion = np.eye(4)
    motion[:3, :3] = rotation_matrix(np.array([0.4, -1.1, 0.7]))
    plain = pose_errors(IDEAL, noisy)
    rotated = pose_errors(move_world(IDEAL, motion), move_world(noisy, motion))
    for name in ("rotation_deg", "lateral_percent", "depth_percent"):
        assert torch.allclose(getattr(rotated, name), getattr(plain, name), atol=1e-8), name
    motion[:3, 3] = [0.3, -0.2, 0.5]
    moved = pose_errors(move_world(IDEAL, motion), move_world(noisy, motion))
    assert torch.allclose(moved.rotation_deg, plain.rotation_deg, atol=1e-8)
    assert not torch.allclose(moved.lateral_percent, plain.lateral_percent, atol=1e-2)


def test_motion_is_symmetric_and_equals_the_error_of_exact_poses():
    noisy = noisy_cameras(IDEAL, PerturbationConfig(seed=1))
    forward, backward = pose_motion(IDEAL, noisy), pose_motion(noisy, IDEAL)
    assert torch.allclose(forward.rotation_deg, backward.rotation_deg, atol=1e-9)
    assert torch.equal(forward.lateral_percent, backward.lateral_percent)
    assert torch.equal(forward.rotation_deg, pose_errors(noisy, IDEAL).rotation_deg)


def test_dict_contains_every_view():
    document = pose_errors(IDEAL, noisy_cameras(IDEAL, PerturbationConfig(seed=1))).to_dict()
    assert len(document["by_view"]["rotation_deg"]) == len(IDEAL)
    assert document["rotation_deg_max"] == max(document["by_view"]["rotation_deg"])


def test_rejects_incompatible_cameras():
    with pytest.raises(InputError, match="8 views cannot be compared with those of 7"):
        pose_errors(IDEAL, IDEAL[:7])
    with pytest.raises(InputError, match="2 views or more"):
        pose_errors(IDEAL[:1], IDEAL[:1])
    with pytest.raises(InputError, match="longest_side is 0"):
        pose_errors(IDEAL, IDEAL, longest_side=0)
