"""Stereo depths of a field's surface, and the loss that uses them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nova3d_core.fusion.config import LevelConfig, PoseConfig
from nova3d_core.fusion.fields.grid.field import DenseGrid
from nova3d_core.fusion.fields.render_output import RenderOutput
from nova3d_core.fusion.losses import LossConfig
from nova3d_core.fusion.poses.pose_table import PoseTable
from nova3d_core.fusion.rays import ray_dataset
from nova3d_core.fusion.stereo.agreement import agree
from nova3d_core.fusion.stereo.depth_targets import (
    STRIDE_PX,
    depth_loss_gradients,
    downsample,
    find_depth_targets,
    sweep_band,
)
from nova3d_core.fusion.stereo.patches import SurfaceMaps, make_patches
from nova3d_core.sdf_grid import SdfGrid, grid_points
from nova3d_core.views import Views

from .scenes import centres_on, images_of, views_of

RADIUS = 0.45
PIXEL = 0.0156
"""World width of a pixel of the test's views."""


def ball_field(radius: float) -> DenseGrid:
    points = grid_points(torch.full((3,), -0.6), 0.02, (61, 61, 61))
    values = (points.norm(dim=1) - radius).reshape(61, 61, 61)
    field = DenseGrid(SdfGrid(values, torch.full((3,), -0.6), 0.02))
    field.set_level(LevelConfig(64, 1, 1.0, sharpness=1.6))
    return field


def targets_of(views, field, band=(0.04, 0.04), downsampling=1):
    rays = ray_dataset(views, 5, use_normals=False)
    poses = PoseTable(views.cameras, torch.zeros(3), PoseConfig())
    return rays, find_depth_targets(field, poses, views.cameras, rays, band, downsampling)


def true_depth(rays):
    """Distance along the rays to the ball, NaN for misses."""
    along = -(rays.origin * rays.direction).sum(dim=1)
    return along - (along.square() - rays.origin.square().sum(dim=1) + RADIUS**2).sqrt()


@pytest.mark.parametrize("radius", [0.43, 0.45, 0.47])
def test_finds_the_true_surface_around_a_field(radius):
    views, _ = views_of("ball")
    rays, targets = targets_of(views, ball_field(radius))
    truth = true_depth(rays)
    sure = (targets.weight > 0.3) & truth.isfinite()
    assert float(sure.sum()) > 0.3 * float((rays.mask > 0.9).sum())
    error = (targets.depth - truth)[sure].abs()
    assert float(error.median()) < 0.1 * PIXEL
    assert float(error.quantile(0.95)) < 0.5 * PIXEL


def test_downsampled_images_cover_a_wide_band():
    views, _ = views_of("ball", width_px=128)
    rays, targets = targets_of(views, ball_field(0.5), (0.02, 0.12), 2)
    truth = true_depth(rays)
    sure = (targets.weight > 0.3) & truth.isfinite()
    assert float(sure.sum()) > 0.2 * float((rays.mask > 0.9).sum())
    assert float((targets.depth - truth)[sure].abs().median()) < 0.4 * PIXEL


def test_downsampling_keeps_projections():
    views, maps = views_of("ball", width_px=96)
    images, small, cameras = downsample(images_of(views), maps, views.cameras, 2)
    assert images.shape == (5, 48, 48, 4) and small.depth_z.shape == (5, 48, 48)
    assert (cameras.width, cameras.height) == (48, 48)
    centre = torch.tensor([[0.01, 0.02, 0.03]])
    full, half = (each.project(centre)[0] for each in (views.cameras, cameras))
    torch.testing.assert_close(half, full / 2)
    hit = small.depth_z > 0
    unit = small.normal[hit].norm(dim=1)
    torch.testing.assert_close(unit, torch.ones_like(unit))
    assert not small.normal[~hit].any()


@pytest.mark.parametrize(("height", "width"), [(77, 76), (75, 77), (77, 77)])
def test_downsampling_of_odd_sizes_with_an_object_at_the_border(height, width):
    views, _ = views_of("ball", width_px=97)
    cropped = Views(
        replace(views.cameras, height=height, width=width),
        views.colour[:, :height, :width].contiguous(),
        views.masks[:, :height, :width].contiguous(),
    )
    rays, targets = targets_of(cropped, ball_field(0.45), downsampling=2)
    assert rays.pixel.amax(dim=0).tolist() == [width - 0.5, height - 0.5]
    sure = (targets.weight > 0.3) & (rays.mask > 0.9)
    assert float(sure.sum()) > 0.2 * float((rays.mask > 0.9).sum())
    assert float((targets.depth - true_depth(rays))[sure].abs().nanmedian()) < 0.4 * PIXEL


@pytest.mark.parametrize("selected", [[2], [1, 2], [0, 4]])
def test_few_views_give_finite_depths(selected):
    """One view has none, two have some, and two too far apart none."""
    views, _ = views_of("ball")
    _, targets = targets_of(views[selected], ball_field(0.45))
    assert bool(targets.depth.isfinite().all()) and bool(targets.weight.isfinite().all())
    assert bool((targets.weight > 0.3).any()) == (selected == [1, 2])
    assert bool((targets.weight <= 1.0).all())


def test_empty_masks_give_no_depths():
    views, maps = views_of("ball")
    images = images_of(views)
    images[..., 3] = 0.0
    offset, confidence = sweep_band(images, maps, views.cameras, (0.03, 0.03))
    assert not offset.any() and not confidence.any()
    nothing = SurfaceMaps(torch.zeros_like(maps.depth_z), torch.zeros_like(maps.normal))
    offset, confidence = sweep_band(images_of(views), nothing, views.cameras, (0.03, 0.03))
    assert not offset.any() and not confidence.any()


def test_neighbours_with_another_depth_take_away_confidence():
    views, maps = views_of("ball")
    pixel = centres_on(maps, views)
    patches = make_patches(views.cameras, pixel, maps)
    shape = (len(views), *(-(-side // STRIDE_PX) for side in views.masks.shape[1:]))
    offset, confidence = torch.zeros(shape), torch.ones(shape)
    arguments = (views.cameras, patches, maps)
    same = agree(*arguments, offset, confidence, STRIDE_PX, PIXEL)
    own = pixel[:, 0] == 2
    known = own & ((patches.neighbours >= 0).sum(dim=1) >= 3)
    assert float(same[1][known].quantile(0.1)) > 0.9
    assert float(same[0][known].abs().median()) < 0.02 * PIXEL
    wrong = offset.clone()
    wrong[2] = 0.05  # view 2 alone
    found = agree(*arguments, wrong, confidence, STRIDE_PX, PIXEL)
    assert float(found[1][known].quantile(0.9)) < 0.15
    near = offset.clone()
    near[2] = 0.3 * PIXEL  # small differences are averaged
    found = agree(*arguments, near, confidence, STRIDE_PX, PIXEL)
    assert float(found[0][known].median()) < 0.15 * PIXEL
    assert float(found[1][known].median()) > 0.7


def test_depth_loss_gradients_match_autograd():
    random = torch.Generator().manual_seed(0)
    opacity, depth, target, weight = torch.rand(4, 200, generator=random, dtype=torch.float64)
    opacity = 0.3 + 0.7 * opacity
    inputs = [opacity.requires_grad_(), (opacity.detach() * (1.5 + depth)).requires_grad_()]
    residual = (inputs[1] / inputs[0] - 1.5 - target) / 0.01
    valid = opacity.detach() >= 0.5
    loss = (weight * valid * ((1.0 + residual.square()).sqrt() - 1.0)).sum()
    expected = torch.autograd.grad(loss, inputs)
    empty = torch.zeros(200, 3)
    rendered = RenderOutput(opacity.detach(), empty, empty, inputs[1].detach())
    found = depth_loss_gradients(rendered, 1.5 + target, weight, 0.01)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_depth_loss_moves_the_surface():
    """Steps on L_depth alone shrink a ball to the depths of a smaller one."""
    views, _ = views_of("ball")
    field = ball_field(0.47)
    field.set_level(LevelConfig(64, 1, 1.0, sharpness=1.6, sdf_lr_cells=0.1))
    rays = ray_dataset(views, 5, use_normals=False)
    truth = true_depth(rays)
    chosen = truth.isfinite().nonzero()[:, 0]
    origins, directions, truth = (
        part[chosen].contiguous() for part in (rays.origin, rays.direction, truth)
    )
    errors = []
    for _ in range(25):
        rendered = field.render(origins, directions)
        errors.append(float((rendered.depth / rendered.opacity - truth).abs().median()))
        by = depth_loss_gradients(rendered, truth, torch.ones_like(truth), field.spacing)
        zero = torch.zeros_like(rendered.gradient)
        area = rays.area
        field.backward(by[0] * area, zero, zero, False, by[1] * area)
        field.step(LossConfig(), 1.0)
    assert errors[0] > 0.018 and errors[-1] < 0.25 * errors[0]


def test_both_fields_pass_the_gradient_of_depth_on():
    from nova3d_core.fusion.fields.hashgrid.field import HashGridField

    views, _ = views_of("ball")
    rays = ray_dataset(views, 5, use_normals=False).at(torch.arange(3000, 3200))
    grid = ball_field(0.45)
    fields = (grid, HashGridField(grid.to_grid(), max_resolution=32))
    for field in fields:
        rendered = field.render(rays.origin, rays.direction)
        hit = (rendered.opacity > 0.99).float()
        assert float(hit.sum()) > 50
        zero = torch.zeros_like(rendered.gradient)
        none = torch.zeros_like(rendered.opacity)
        field.backward(none, zero, zero, False, hit)
    # deeper surfaces have larger distances f in front of them
    assert float(sum(grid._state.grad_geo)[..., 0].sum()) > 0.0
    bias = fields[1].sdf_network.outer.bias.grad[0]
    assert float(bias) > 0.0


def test_poses_carry_the_depths_along():
    """Depths of views whose poses were corrected are those of views with these poses."""
    views, _ = views_of("ball")
    rays = ray_dataset(views, 5, use_normals=False)
    field = ball_field(0.45)
    poses = PoseTable(views.cameras, torch.zeros(3), PoseConfig())
    expected = find_depth_targets(field, poses, views.cameras, rays, (0.03, 0.03))
    angle, shift = torch.full((5, 3), 0.03), torch.zeros(5, 3)
    moved = PoseTable(views.cameras, torch.zeros(3), PoseConfig())
    moved.apply(angle, shift)
    wrong = replace(views.cameras, world_to_camera=views.cameras.world_to_camera @ moved.motions())
    misplaced = ray_dataset(replace(views, cameras=wrong), 5, use_normals=False)
    found = find_depth_targets(field, moved, wrong, misplaced, (0.03, 0.03))
    both = (expected.weight > 0.3) & (found.weight > 0.3)
    assert float(both.sum()) > 0.9 * float((expected.weight > 0.3).sum())
    assert float((found.depth - expected.depth)[both].abs().quantile(0.99)) < 0.05 * PIXEL
