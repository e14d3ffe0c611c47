"""Pose registration against finite differences, and on an exactly known surface."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.cameras.rotations import rotation_angle_deg
from nova3d_core.evaluation.config import PerturbationConfig
from nova3d_core.evaluation.metrics.poses import pose_errors
from nova3d_core.evaluation.perturbations import noisy_cameras
from nova3d_core.fusion.config import LevelConfig, PoseConfig
from nova3d_core.fusion.fields.grid.field import DenseGrid
from nova3d_core.fusion.poses.pose_table import PoseTable
from nova3d_core.fusion.poses.registration import (
    PoseRegistration,
    downsample,
    geman_mcclure,
    pose_jacobian,
    strided_rays,
)
from nova3d_core.fusion.rays import pixel_side, ray_dataset
from nova3d_core.mesh import Mesh
from nova3d_core.rendering.views import render_views
from nova3d_core.sdf_grid import SdfGrid

KINDS = ["perspective", "orthographic"]
CENTRE = torch.tensor([0.05, -0.03, 0.08])
SCALE = torch.tensor([1.15, 1.0, 0.8])
WIDE = math.radians(3.0)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def radius(direction):
    """A ball with bumps, without rotational symmetry."""
    x, y, z = direction.unbind(dim=-1)
    return 0.36 + 0.06 * (5 * x + 1).sin() * (4 * y).cos() + 0.05 * (4 * z + 3 * x).sin()


@pytest.fixture(scope="module")
def pebble():
    import trimesh

    ball = trimesh.creation.icosphere(subdivisions=5, radius=1.0)
    position = torch.tensor(ball.vertices, dtype=torch.float32)
    vertices = position * radius(position)[:, None] * SCALE
    grey = torch.full_like(vertices, 0.5)
    return Mesh(vertices, torch.tensor(ball.faces), vertex_colours=grey)


@pytest.fixture(scope="module")
def field():
    """The pebble's signed distance with the initial grey of a grid."""
    size, reach = 97, 0.62
    spacing = 2 * reach / (size - 1)
    grid = SdfGrid(torch.zeros(size, size, size), torch.full((3,), -reach), spacing)
    unit = grid.points() / SCALE
    length = unit.norm(dim=1)
    values = (length - radius(unit / length.clamp_min(1e-6)[:, None])) * 0.8
    field = DenseGrid(replace(grid, values=values.reshape(size, size, size)))
    field.set_level(LevelConfig(96, 1, 1.0, sharpness=1.6))
    field.redistance()
    return field


def rig(kind):
    return orbit_cameras(RigConfig(count=8, width_px=128, height_px=128, kind=kind))


def taken(pebble, kind, camera_frame=False):
    """Views with pose errors of 2 degrees and 1 %, and the true poses."""
    given = rig(kind)
    true = noisy_cameras(given, PerturbationConfig(kind="noisy"), 1.0)
    views = render_views(pebble, true).views
    if camera_frame:
        views = views.with_normals_in("camera")
    return replace(views, cameras=given), true


def aligned(field, views, steps=10, spread_rad=WIDE, conflict=None, stride=1):
    rays = ray_dataset(views, 5, True)
    poses = PoseTable(views.cameras, torch.zeros(3), PoseConfig())
    registration = PoseRegistration(rays, views.cameras, field.spacing, stride)
    gains = torch.ones(len(views), 3)
    conflict = torch.zeros(len(rays)) if conflict is None else conflict(rays)
    for _ in range(steps):
        registration.step(field, poses, gains, conflict, spread_rad)
    return poses


@pytest.mark.parametrize("kind", KINDS)
def test_pose_jacobian_matches_small_motions(kind):
    cameras, view = rig(kind), 3
    points = 0.3 * randn(20, 3)

    def pixels(motion):
        poses = PoseTable(cameras, CENTRE, PoseConfig())
        poses.apply(0.05 * randn(8, 3, seed=1), 0.02 * randn(8, 3, seed=2))
        poses.apply(motion[None, :3].expand(8, 3), motion[None, 3:].expand(8, 3))
        back = torch.linalg.inv(poses.motions()[view])
        return poses, cameras[view].project(points @ back[:3, :3].T + back[:3, 3])[0][0]

    poses, _ = pixels(torch.zeros(6))
    # for two channels with gradient -1 per pixel in x and y the Jacobian is the optical flow
    ramps = -torch.eye(2)[:, :, None].expand(2, 2, len(points))
    flow = pose_jacobian(ramps, points.T, view, poses, cameras)  # (6, 2, n)
    for index in range(6):
        step = torch.zeros(6)
        step[index] = 2e-3
        found = (pixels(step)[1] - pixels(-step)[1]) / 4e-3
        torch.testing.assert_close(flow[index].T, found, atol=0.1, rtol=2e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("camera_frame", [False, True])
def test_wrong_poses_converge_on_the_true_surface(field, pebble, kind, camera_frame):
    views, true = taken(pebble, kind, camera_frame)
    poses = aligned(field, views, steps=20)
    before = pose_errors(views.cameras, true)
    after = pose_errors(poses.cameras(), true)
    assert float(before.rotation_deg[1:].median()) > 2.0
    # a pixel is 0.7 degrees of a smooth grey pebble; rotations show even less in parallel rays
    assert after.rotation_deg.median() < (0.12 if kind == "perspective" else 0.3)
    assert after.rotation_deg.max() < (0.25 if kind == "perspective" else 0.7)
    assert after.lateral_percent.max() < 0.15
    # the surface is in the world of view 0's input pose: no gauge to undo
    torch.testing.assert_close(poses.gauge(), torch.eye(4), atol=2e-3, rtol=0)


@pytest.mark.parametrize("stride", [1, 2])
def test_motion_of_a_step_is_reported_in_pixels(field, pebble, stride):
    views, _ = taken(pebble, "perspective")
    rays, config = ray_dataset(views, 5, True), PoseConfig()
    poses = PoseTable(views.cameras, CENTRE, config)
    registration = PoseRegistration(rays, views.cameras, field.spacing, stride)
    moved = []
    for _ in range(20):
        step = (field, poses, torch.ones(8, 3), torch.zeros(len(rays)), WIDE)
        registration.step(*step)
        moved.append(registration.moved_px)
        if len(moved) == 1:  # from the identity
            rotation = rotation_angle_deg(poses.rotation).deg2rad()
            world = rotation * config.translation_per_radian + poses.translation.norm(dim=1)
            expected = float(world.max()) / pixel_side(rays, 8)
            assert registration.moved_px == pytest.approx(expected, rel=1e-3)
    assert moved[0] > 1.0 and moved[-1] < 0.1


def test_stride_2_converges_nearly_as_well(field, pebble):
    """A pixel is then 1.4 degrees of the pebble; at most a third of that remains."""
    views, true = taken(pebble, "perspective")
    poses = aligned(field, views, steps=20, stride=2)
    before = pose_errors(views.cameras, true)
    after = pose_errors(poses.cameras(), true)
    assert after.rotation_deg.median() < min(0.45, float(before.rotation_deg[1:].median()) / 4)
    assert after.rotation_deg.max() < 0.8
    assert after.lateral_percent.max() < 0.3


def test_downsampled_rays_match_their_cameras(pebble):
    views, _ = taken(pebble, "perspective")
    rays = ray_dataset(views, 5, True)
    ids = strided_rays(rays, 3)
    small, cameras = downsample(rays, views.cameras, ids, 3)
    assert 0.08 < len(ids) / len(rays) < 0.14
    assert (cameras.width, cameras.height) == (43, 43)
    pixel = small.pixel.long()
    indices = (small.view * 43 + pixel[:, 1]) * 43 + pixel[:, 0]
    assert len(indices.unique()) == len(ids) and int(pixel.max()) < 43
    points = 0.3 * randn(20, 3)
    full, coarse = (each.project(points)[0] for each in (views.cameras, cameras))
    torch.testing.assert_close(coarse * 3.0, full, rtol=0, atol=1e-3)
    torch.testing.assert_close(small.direction, rays.direction[ids], rtol=0, atol=0)


def test_poses_with_a_tight_prior_stay(field, pebble):
    views, _ = taken(pebble, "perspective")
    poses = aligned(field, views, spread_rad=math.radians(0.002))
    errors = pose_errors(poses.cameras(), views.cameras)
    assert errors.rotation_deg.max() < 0.05


def test_fully_conflicting_view_has_no_effect(field, pebble):
    views, _ = taken(pebble, "perspective")
    poses = aligned(field, views, conflict=lambda rays: (rays.view == 3).float())
    errors = pose_errors(poses.cameras(), views.cameras)
    assert float(errors.rotation_deg[3]) < 0.05
    assert float(errors.rotation_deg[5]) > 1.0


@pytest.mark.parametrize("bound", [0.05, 0.15])
def test_robust_weights_follow_geman_mcclure(bound):
    """Weight times residual is half the derivative of d^2 / (1 + d^2 / b^2)."""
    difference = torch.tensor([1e-3, 0.02, bound, 0.3, 2.0], requires_grad=True)
    cost = difference.square() / (1.0 + difference.square() / bound**2)
    (grad,) = torch.autograd.grad(cost.sum(), difference)
    weight = geman_mcclure(torch.full((5,), 0.6), difference.detach().square(), bound)
    torch.testing.assert_close(weight * difference, 0.6 * grad / 2, rtol=1e-4, atol=1e-7)
    assert float(weight[2]) == pytest.approx(0.6 / 4)


def test_common_translation_is_observable_in_perspective(field, pebble):
    """All views follow the object's translation in their image planes, not along their axes."""
    views = render_views(pebble, rig("perspective")).views
    rays = ray_dataset(views, 5, True)
    poses = PoseTable(views.cameras, torch.zeros(3), PoseConfig())
    translation = torch.tensor([0.0, 0.0, 0.01])
    view_axes = poses.view_axes
    poses.apply(torch.zeros(8, 3), translation - (view_axes @ translation)[:, None] * view_axes)
    registration = PoseRegistration(rays, views.cameras, field.spacing)
    for _ in range(12):
        registration.step(field, poses, torch.ones(8, 3), torch.zeros(len(rays)), WIDE)
    in_plane = (
        poses.translation - (poses.translation * view_axes).sum(dim=1, keepdim=True) * view_axes
    )
    assert in_plane.norm(dim=1).max() < 0.0015
