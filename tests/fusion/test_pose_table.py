"""Pose tables with known motions, toy losses with known minima, reverting worse poses."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.cameras.rotations import axis_angle_to_matrix, rotation_angle_deg
from nova3d_core.fusion.config import PoseConfig
from nova3d_core.fusion.fields.render_output import RayGradients
from nova3d_core.fusion.finalize import revert_worse_poses, silhouette_iou
from nova3d_core.fusion.poses.pose_table import PoseTable, exponential_decay
from nova3d_core.fusion.rays import rays_of
from nova3d_core.rendering.raycast import RayCaster
from nova3d_core.rendering.views import render_views

KINDS = ["perspective", "orthographic"]
CENTRE = torch.tensor([0.05, -0.03, 0.08])


def rig(kind, count=8, **settings):
    return orbit_cameras(RigConfig(count=count, kind=kind, **settings))


def table(cameras, centre=CENTRE, **config):
    return PoseTable(cameras, centre, PoseConfig(**config))


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
def test_initial_table_returns_the_input_cameras(kind):
    cameras = rig(kind)
    poses = table(cameras)
    assert torch.equal(poses.cameras().world_to_camera[0], cameras.world_to_camera[0])
    torch.testing.assert_close(poses.cameras().world_to_camera, cameras.world_to_camera)
    torch.testing.assert_close(poses.gauge(), torch.eye(4), atol=1e-6, rtol=0)
    torch.testing.assert_close(poses.view_axes, cameras.view_directions)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_common_motion_changes_no_camera(kind, seed):
    cameras = rig(kind)
    poses = table(cameras)
    rotation_step = axis_angle_to_matrix(0.1 * randn(1, 3, seed=seed))[0]
    translation = 0.1 * randn(3, seed=seed + 10)
    poses.rotation, poses.translation = rotation_step.repeat(8, 1, 1), translation.repeat(8, 1)
    torch.testing.assert_close(
        poses.cameras().world_to_camera, cameras.world_to_camera, atol=2e-6, rtol=0
    )
    common = torch.eye(4)
    common[:3, :3], common[:3, 3] = rotation_step, CENTRE + translation - rotation_step @ CENTRE
    torch.testing.assert_close(poses.gauge(), common, atol=2e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_view_0_keeps_its_pose_bit_for_bit(kind):
    cameras = rig(kind, elevation_deg=17.3, azimuth_start_deg=31.7)
    for seed in range(5):
        poses = table(cameras)
        poses.rotation = axis_angle_to_matrix(0.1 * randn(8, 3, seed=seed))
        poses.translation = 0.05 * randn(8, 3, seed=seed + 10)
        refined = poses.cameras()
        assert torch.equal(refined.world_to_camera[0], cameras.world_to_camera[0])
        assert torch.equal(refined.intrinsics, cameras.intrinsics)
        # no view moves along its own axis, which is unobservable
        positions = [c.rotation @ CENTRE + c.world_to_camera[:, :3, 3] for c in (refined, cameras)]
        torch.testing.assert_close(positions[0][:, 2], positions[1][:, 2], atol=3e-6, rtol=0)


def known_motions(cameras, seed):
    """(V, 4, 4) rotations about the centre and in-plane translations; identity for view 0."""
    count = len(cameras)
    rotation = axis_angle_to_matrix(math.radians(3.0) * randn(count, 3, seed=seed))
    translation = 0.02 * randn(count, 3, seed=seed + 1)
    depths = torch.einsum("vij,vj->vi", rotation, cameras.view_directions)
    translation -= (translation * depths).sum(dim=1, keepdim=True) * depths
    rotation[0], translation[0] = torch.eye(3), 0.0
    motions = torch.eye(4).repeat(count, 1, 1)
    motions[:, :3, :3] = rotation
    motions[:, :3, 3] = CENTRE + translation - rotation @ CENTRE
    return motions


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_recovers_known_motions_in_any_gauge(kind, seed):
    cameras = rig(kind)
    motions = known_motions(cameras, seed)
    true = cameras.world_to_camera @ torch.linalg.inv(motions)
    rotation_step = axis_angle_to_matrix(0.15 * randn(1, 3, seed=seed + 5))[0]
    common = torch.eye(4)
    common[:3, :3], common[:3, 3] = rotation_step, 0.1 * randn(3, seed=seed + 6)
    together = common @ motions
    poses = table(cameras)
    poses.rotation = together[:, :3, :3]
    poses.translation = together[:, :3, :3] @ CENTRE + together[:, :3, 3] - CENTRE
    torch.testing.assert_close(poses.motions(), together, atol=1e-6, rtol=0)
    torch.testing.assert_close(poses.gauge(), common, atol=3e-6, rtol=0)
    torch.testing.assert_close(poses.cameras().world_to_camera, true, atol=5e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_transformed_rays_are_those_of_the_refined_cameras(kind):
    cameras = rig(kind)
    motions = known_motions(cameras, 3)
    poses = table(cameras)
    poses.rotation = motions[:, :3, :3]
    poses.translation = motions[:, :3, :3] @ CENTRE + motions[:, :3, 3] - CENTRE
    view = torch.arange(8).repeat_interleave(5)
    pixel = 256 * torch.rand(40, 2, generator=torch.Generator().manual_seed(0))
    transformed = poses.transform_rays(view, *rays_of(cameras, view, pixel))
    expected = rays_of(poses.cameras(), view, pixel)
    torch.testing.assert_close(transformed[1], expected[1], atol=3e-6, rtol=0)
    offset = transformed[0] - expected[0]
    across = offset - (offset * transformed[1]).sum(dim=1, keepdim=True) * transformed[1]
    assert across.abs().max() < 5e-6  # an origin may lie anywhere along its ray


class PointRays:
    """Rays of true cameras through known points; the loss is their squared distance."""

    def __init__(self, cameras, true, seed=0):
        points = CENTRE + 0.25 * randn(40, 3, seed=seed)
        pixel, _ = true.project(points)  # (V, 40, 2)
        self.view = torch.arange(len(cameras)).repeat_interleave(40)
        self.points = points.repeat(len(cameras), 1)
        self.rays = rays_of(cameras, self.view, pixel.reshape(-1, 2))

    def loss(self, origin, direction):
        to_point = self.points - origin
        along = (to_point * direction).sum(dim=1, keepdim=True) * direction
        return (to_point - along).square().sum()

    def step(self, poses, pose_lr):
        """Moves the poses; returns the loss before."""
        transformed = [
            part.requires_grad_(True) for part in poses.transform_rays(self.view, *self.rays)
        ]
        loss = self.loss(*transformed)
        gradients = RayGradients(*torch.autograd.grad(loss, transformed))
        origin, direction = (part.detach() for part in transformed)
        poses.step(self.view, origin, direction, gradients, pose_lr)
        return float(loss.detach())


@pytest.mark.parametrize("kind", KINDS)
def test_steps_converge_to_the_true_poses(kind):
    given = rig(kind)
    motions = known_motions(given, 7)
    true = replace(given, world_to_camera=given.world_to_camera @ torch.linalg.inv(motions))
    toy, poses = PointRays(given, true), table(given)
    losses = [toy.step(poses, 6e-3 * exponential_decay(step, 150, 0.02)) for step in range(150)]
    assert losses[-1] < 1e-3 * losses[0]
    before = rotation_angle_deg(given.rotation @ true.rotation.transpose(1, 2))
    after = rotation_angle_deg(poses.cameras().rotation @ true.rotation.transpose(1, 2))
    assert before[1:].median() > 2.0 and after.max() < 0.1
    offset = poses.cameras().world_to_camera[:, :2, 3] - true.world_to_camera[:, :2, 3]
    assert offset.abs().max() < 2e-3


@pytest.mark.parametrize("kind", KINDS)
def test_small_step_decreases_the_loss_of_every_view(kind):
    given = rig(kind)
    motions = known_motions(given, 9)
    true = replace(given, world_to_camera=given.world_to_camera @ torch.linalg.inv(motions))
    toy, poses = PointRays(given, true), table(given)
    toy.step(poses, 1e-4)

    def by_view(rays):
        to_point = toy.points - rays[0]
        along = (to_point * rays[1]).sum(dim=1, keepdim=True) * rays[1]
        return torch.zeros(8).index_add(0, toy.view, (to_point - along).square().sum(dim=1))

    before, after = by_view(toy.rays), by_view(poses.transform_rays(toy.view, *toy.rays))
    assert (after < before)[1:].all()
    assert rotation_angle_deg(poses.rotation)[1:].min() > 0
    assert rotation_angle_deg(poses.rotation).max() < math.degrees(1e-4) * 3**0.5 * 1.01


def test_views_without_rays_keep_their_pose():
    cameras = rig("perspective")
    motions = known_motions(cameras, 9)
    true = replace(cameras, world_to_camera=cameras.world_to_camera @ torch.linalg.inv(motions))
    toy, poses = PointRays(cameras, true), table(cameras)
    half = toy.view < 4
    toy.view, toy.points = toy.view[half], toy.points[half]
    toy.rays = tuple(part[half] for part in toy.rays)
    toy.step(poses, 5e-3)
    assert torch.equal(poses.rotation[4:], torch.eye(3).repeat(4, 1, 1))
    assert rotation_angle_deg(poses.rotation[1:4]).min() > 0


def test_view_that_rotated_too_far_is_reset():
    cameras = rig("perspective")
    poses = table(cameras, max_rotation_deg=5.0)
    angles = torch.zeros(8, 3)
    angles[2, 1], angles[3, 0] = math.radians(4.0), math.radians(6.0)
    poses.rotation, poses.translation = axis_angle_to_matrix(angles), torch.full((8, 3), 0.01)
    toy = PointRays(cameras, cameras)
    toy.step(poses, 1e-6)
    assert torch.equal(poses.rotation[3], torch.eye(3)) and (poses.translation[3] == 0).all()
    assert rotation_angle_deg(poses.rotation)[2] == pytest.approx(4.0, abs=0.01)
    assert poses.translation[2].norm() > 0.01


def test_exponential_decay_runs_from_1_to_its_end():
    values = [exponential_decay(step, 11, 0.3) for step in range(11)]
    assert values[0] == 1.0 and values[-1] == pytest.approx(0.3)
    factors = [b / a for a, b in itertools.pairwise(values)]
    assert max(factors) - min(factors) < 1e-12
    assert exponential_decay(0, 1, 0.3) == 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_reverts_views_that_became_worse(kind, l_solid):
    true = rig(kind, 4, width_px=96, height_px=96)
    views = render_views(l_solid, true).views
    rotation_step = torch.eye(4)
    rotation_step[:3, :3] = axis_angle_to_matrix(torch.tensor([[0.0, 0.2, 0.1]]))[0]
    given, refined = true.world_to_camera.clone(), true.world_to_camera.clone()
    given[1] = given[1] @ rotation_step  # input wrong, refined right
    refined[2] = refined[2] @ rotation_step  # input right, refined wrong
    given[3], refined[3] = (
        given[3] @ rotation_step,
        refined[3] @ rotation_step @ rotation_step,
    )  # both wrong, refined more
    given, refined = (replace(true, world_to_camera=poses) for poses in (given, refined))
    kept, reverted = revert_worse_poses(replace(views, cameras=given), refined, l_solid)
    assert reverted == [2, 3]
    expected = refined.world_to_camera.clone()
    expected[2:] = given.world_to_camera[2:]
    assert torch.equal(kept.world_to_camera, expected)
    caster = RayCaster.from_mesh(l_solid)
    overlap = silhouette_iou(caster, true, views.masks)
    assert overlap.min() > 0.97 and overlap.max() <= 1.0
    same, none = revert_worse_poses(views, true, l_solid)
    assert none == [] and same is true
