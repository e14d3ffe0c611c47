from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from nova3d_core.cameras.cameras import Cameras, cameras_at, orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import InputError
from nova3d_core.evaluation.config import ConditionConfig
from nova3d_core.evaluation.metrics.poses import pose_figures, pose_motion
from nova3d_core.evaluation.perturbations import noisy_cameras, rotation_matrix

IDEAL = orbit_cameras(RigConfig(count=8, width_px=32, height_px=32))


def double(cameras: Cameras) -> Cameras:
    return replace(cameras, world_to_camera=cameras.world_to_camera.double())


def moved_world(cameras: Cameras, motion: np.ndarray) -> Cameras:
    """Cameras that see the same after the world has been moved by a rigid (4, 4)."""
    inverse = torch.from_numpy(np.linalg.inv(motion))
    return replace(cameras, world_to_camera=cameras.world_to_camera.double() @ inverse)


def changed(turns_deg: list[float], shifts: list[tuple[float, float, float]]) -> Cameras:
    """The ideal cameras, each turned about the origin by an angle and shifted in its own axes."""
    axis = np.array([2.0, -1.0, 2.0]) / 3.0
    poses = IDEAL.world_to_camera.double().clone()
    for view, (angle, shift) in enumerate(zip(turns_deg, shifts, strict=True)):
        turn = torch.from_numpy(rotation_matrix(axis * math.radians(angle)))
        poses[view, :3, :3] = poses[view, :3, :3] @ turn
        poses[view, :3, 3] += torch.tensor(shift, dtype=torch.float64)
    return replace(double(IDEAL), world_to_camera=poses)


def test_known_turns_and_shifts_come_back_view_by_view():
    turns = [0.0, 1.0, 0.01, 5.0, 90.0, 179.0, 180.0, 3.0]
    shifts = [(0.0, 0.0, 0.0), (0.03, 0.04, 0.0), (0.0, 0.0, -0.02), (-0.01, 0.0, 0.01)]
    shifts += [(0.0, 0.0, 0.0)] * 4
    figures = pose_figures(changed(turns, shifts), double(IDEAL), longest_side=2.0)
    assert figures.rotation_deg.tolist() == pytest.approx(turns, abs=1e-5)  # poses were float32
    wanted = [0.0, 2.5, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0]
    assert figures.shift_percent.tolist() == pytest.approx(wanted, abs=1e-9)
    wanted = [0.0, 0.0, 1.0, 0.5, 0.0, 0.0, 0.0, 0.0]
    assert figures.depth_percent.tolist() == pytest.approx(wanted, abs=1e-9)


def test_medians_and_means_leave_view_0_out_and_the_largest_does_not():
    turns = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 7.0, 8.0]
    shifts = [(0.0, 0.0, 0.0)] + [(0.0, i / 100, 0.0) for i in (1, 1, 1, 1, 2, 3, 5)]
    summary = pose_figures(changed(turns, shifts), double(IDEAL)).summary()
    assert summary["rotation_deg_median"] == pytest.approx(4.0)
    assert summary["rotation_deg_mean"] == pytest.approx(31 / 7)
    assert summary["rotation_deg_max"] == pytest.approx(8.0)
    assert summary["shift_percent_median"] == pytest.approx(1.0)
    assert summary["shift_percent_mean"] == pytest.approx(2.0)
    assert summary["shift_percent_max"] == pytest.approx(5.0)
    front = pose_figures(changed([9.0] + [0.0] * 7, [(0.0, 0.0, 0.0)] * 8), double(IDEAL))
    assert front.summary()["rotation_deg_max"] == pytest.approx(9.0)
    assert front.summary()["rotation_deg_mean"] == pytest.approx(0.0, abs=1e-5)


def test_the_median_of_an_even_number_lies_between():
    cameras = IDEAL[:3]
    other = changed([0.0, 1.0, 3.0] + [0.0] * 5, [(0.0, 0.0, 0.0)] * 8)[:3]
    assert pose_figures(other, cameras).summary()["rotation_deg_median"] == pytest.approx(2.0)


def test_the_benchmarks_noise_is_measured_as_what_was_injected():
    config = ConditionConfig(seed=5)
    ideal = cameras_at([i * 0.9 for i in range(400)], [10.0] * 400, RigConfig())
    figures = pose_figures(ideal, noisy_cameras(ideal, config, longest_side=3.0), longest_side=3.0)
    # the same random numbers, drawn here: three of the rotation, two of the shift a view
    random = np.random.default_rng([5, 1])
    turns, shifts = [0.0], [0.0]
    for _ in range(399):
        turns.append(float(np.linalg.norm(random.normal(0.0, 1.0, 3) * 2.0)))
        shifts.append(float(np.linalg.norm(random.normal(0.0, 1.0, 2) * 1.0)))
    assert figures.rotation_deg.numpy() == pytest.approx(np.array(turns), abs=1e-4)
    assert figures.shift_percent.numpy() == pytest.approx(np.array(shifts), abs=1e-4)
    assert float(figures.depth_percent.max()) < 1e-4


def test_the_same_poses_have_no_error():
    summary = pose_figures(IDEAL, IDEAL).summary()
    assert all(value < 2e-6 for value in summary.values())  # float32 rotations: not quite unit
    assert len(summary) == 9


def test_turning_the_world_under_both_changes_nothing():
    noisy = noisy_cameras(IDEAL, ConditionConfig(seed=1))
    motion = np.eye(4)
    motion[:3, :3] = rotation_matrix(np.array([0.4, -1.1, 0.7]))
    plain = pose_figures(IDEAL, noisy)
    turned = pose_figures(moved_world(IDEAL, motion), moved_world(noisy, motion))
    for name in ("rotation_deg", "shift_percent", "depth_percent"):
        assert torch.allclose(getattr(turned, name), getattr(plain, name), atol=1e-8), name
    motion[:3, 3] = [0.3, -0.2, 0.5]
    moved = pose_figures(moved_world(IDEAL, motion), moved_world(noisy, motion))
    assert torch.allclose(moved.rotation_deg, plain.rotation_deg, atol=1e-8)
    assert not torch.allclose(moved.shift_percent, plain.shift_percent, atol=1e-2)


def test_motion_is_the_same_from_either_side_and_error_goes_to_motion_for_exact_poses():
    noisy = noisy_cameras(IDEAL, ConditionConfig(seed=1))
    there, back = pose_motion(IDEAL, noisy), pose_motion(noisy, IDEAL)
    assert torch.allclose(there.rotation_deg, back.rotation_deg, atol=1e-9)
    assert torch.equal(there.shift_percent, back.shift_percent)
    assert torch.equal(there.rotation_deg, pose_figures(noisy, IDEAL).rotation_deg)


def test_the_document_holds_every_view():
    document = pose_figures(IDEAL, noisy_cameras(IDEAL, ConditionConfig(seed=1))).to_dict()
    assert len(document["by_view"]["rotation_deg"]) == len(IDEAL)
    assert document["rotation_deg_max"] == max(document["by_view"]["rotation_deg"])


def test_bundles_that_do_not_compare_are_refused():
    with pytest.raises(InputError, match="8 views cannot be compared with those of 7"):
        pose_figures(IDEAL, IDEAL[:7])
    with pytest.raises(InputError, match="2 views or more"):
        pose_figures(IDEAL[:1], IDEAL[:1])
    with pytest.raises(InputError, match="longest_side is 0"):
        pose_figures(IDEAL, IDEAL, longest_side=0)
