"""Loss terms against brute force and finite differences; the ray dataset and its sampler."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nova3d_core.cameras.cameras import cameras_at, orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.fusion.fields.render_output import RenderOutput
from nova3d_core.fusion.losses import (
    LossConfig,
    Targets,
    colour_loss,
    free_conflict,
    inlier_mask,
    ray_loss,
)
from nova3d_core.fusion.rays import MAX_NORMAL_COSINE, RaySampler, pixel_area, ray_dataset, rays_of
from nova3d_core.rendering.views import render_views

from .reference_losses import colour_distance, normal_loss, robust_loss


def unit(vectors):
    return vectors / vectors.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("lambda0", [0.1, 0.2, 0.5, 1.0])
def test_free_conflict_is_the_minimum_of_eq_5_over_h(lambda0):
    distance = torch.linspace(0, 3**0.5, 173, dtype=torch.float64)
    candidates = torch.linspace(0, 1, 4001, dtype=torch.float64)
    losses = colour_loss(distance[:, None], candidates[None], lambda0)
    best, where = losses.min(dim=1)
    torch.testing.assert_close(robust_loss(distance, lambda0), best, atol=1e-7, rtol=0)
    assert (robust_loss(distance, lambda0) <= best + 1e-12).all()
    assert (free_conflict(distance, lambda0) - candidates[where]).abs().max() <= 0.5 / 4000 + 1e-9
    # H < 1 everywhere if lambda0 exceeds half the largest colour distance
    assert (float(free_conflict(distance, lambda0).max()) < 1) == (2 * lambda0 > 3**0.5)


def test_robust_loss_is_quadratic_below_2_lambda0_and_flat_above():
    lambda0 = 0.2
    distance = torch.linspace(0.01, 1.5, 150, dtype=torch.float64, requires_grad=True)
    value = robust_loss(distance, lambda0)
    grad = torch.autograd.grad(value.sum(), distance)[0]
    far = distance > 2 * lambda0
    assert far.any() and not far.all()
    expected = torch.where(far, lambda0, distance - distance**2 / (4 * lambda0))
    torch.testing.assert_close(value, expected)
    assert (grad[far] == 0).all()
    torch.testing.assert_close(grad[~far], (1 - distance / (2 * lambda0))[~far])


def test_colour_distance_is_the_norm_smoothed_at_zero():
    random = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 500, 3, generator=random, dtype=torch.float64)
    norm = (a - b).norm(dim=1)
    distance = colour_distance(a, b)
    assert (distance <= norm + 1e-12).all()
    assert (distance >= norm - 0.01).all()
    same = a[:1].clone().requires_grad_(True)
    at_zero = colour_distance(same, a[:1])
    assert float(at_zero.detach()) == 0
    assert torch.autograd.grad(at_zero.sum(), same)[0].abs().max() == 0


def test_inlier_mask_drops_the_largest_errors_of_valid_rays():
    # Wonder3D's code indexes sorted errors by unsorted positions, which keeps random rays
    random = torch.Generator().manual_seed(1)
    error = torch.rand(1000, generator=random) ** 3
    valid = torch.rand(1000, generator=random) < 0.7
    keep = inlier_mask(error, valid, 0.2)
    assert set(keep.unique().tolist()) == {0.0, 1.0}
    assert (keep[~valid] == 0).all()
    assert int(keep.sum()) == round(int(valid.sum()) * 0.8)
    assert error[keep > 0].max() < error[(keep == 0) & valid].min()
    # the order of the rays does not matter
    order = torch.randperm(1000, generator=random)
    assert torch.equal(inlier_mask(error[order], valid[order], 0.2), keep[order])


def test_inlier_mask_keeps_at_least_one_valid_ray():
    error = torch.tensor([3.0, 1.0, 2.0])
    assert inlier_mask(error, torch.ones(3, dtype=torch.bool), 0.99).tolist() == [0, 1, 0]
    assert inlier_mask(error, torch.zeros(3, dtype=torch.bool), 0.2).tolist() == [0, 0, 0]
    assert inlier_mask(error, torch.ones(3, dtype=torch.bool), 0.0).tolist() == [1, 1, 1]


def test_normal_loss_is_weighted_by_valid_rays_only():
    random = torch.Generator().manual_seed(2)
    gradient = torch.randn(400, 3, generator=random, dtype=torch.float64)
    normal = unit(torch.randn(400, 3, generator=random, dtype=torch.float64))
    weight = torch.rand(400, generator=random, dtype=torch.float64)
    weight[200:] = 0.0
    normal[300:] = 0.0
    loss = normal_loss(gradient, normal, weight, 0.0)
    cosine = (unit(gradient) * normal).sum(dim=1)
    length = gradient.norm(dim=1)
    long_enough = length > 0.1
    torch.testing.assert_close(loss[long_enough], (weight * (1 - cosine))[long_enough])
    assert (loss[200:] == 0).all()
    # background rays have no effect; Wonder3D's loss also divides by their number
    alone = normal_loss(gradient[:200], normal[:200], weight[:200], 0.0)
    assert torch.equal(loss[:200], alone)


def test_normal_loss_drops_outliers_of_valid_rays():
    random = torch.Generator().manual_seed(3)
    normal = unit(torch.randn(300, 3, generator=random, dtype=torch.float64))
    gradient = unit(normal + 0.2 * torch.randn(300, 3, generator=random, dtype=torch.float64))
    weight = torch.full((300,), 0.8, dtype=torch.float64)
    weight[100:] = 0.0
    gradient[:20] = -normal[:20]  # 20 outliers among 100 valid rays
    whole = normal_loss(gradient, normal, weight, 0.0)
    trimmed = normal_loss(gradient, normal, weight, 0.2)
    assert (trimmed[:20] == 0).all() and (whole[:20] > 1.5).all()
    assert torch.equal(trimmed[20:], whole[20:])


def make_targets(count, random, **changes):
    def rand(*shape):
        return torch.rand(*shape, generator=random, dtype=torch.float64)

    original = {
        "mask": rand(count),
        "colour": rand(count, 3),
        "normal": unit(rand(count, 3) - 0.5),
        "normal_weight": rand(count),
        "gain": rand(count, 3) + 0.5,
        "conflict": rand(count),
        "normal_factor": rand(count),
    }
    return Targets(**{**original, **changes})


def summed(parts, targets, config, lambda0):
    """The sum of the loss terms, for finite differences."""
    opacity, gradient, colour = parts
    distance = ((colour * targets.gain - targets.colour).square().sum(dim=1) + 1e-4).sqrt() - 1e-2
    h = targets.conflict
    length = gradient.norm(dim=1).clamp_min(0.1)
    cosine = (gradient * targets.normal).sum(dim=1) / length
    weight = targets.normal_weight * targets.normal_factor
    return float(
        config.colour * ((1 - h) * distance + lambda0 * h**2).sum()
        + config.normal * (weight * (1 - cosine)).sum()
        + config.mask * (opacity - targets.mask).square().sum()
    )


def test_ray_loss_gradients_match_finite_differences():
    random = torch.Generator().manual_seed(4)
    config, lambda0, count = LossConfig(colour=0.3, normal=0.7, mask=1.3), 0.4, 12
    opacity = torch.rand(count, generator=random, dtype=torch.float64)
    gradient = torch.randn(count, 3, generator=random, dtype=torch.float64)
    gradient[0] *= 0.05 / gradient[0].norm()  # too short to be normalised
    colour = torch.rand(count, 3, generator=random, dtype=torch.float64)
    targets = make_targets(count, random)
    loss = ray_loss(RenderOutput(opacity, gradient, colour, opacity), targets, config, lambda0)
    parts = [opacity, gradient, colour]
    grads = (loss.grad_opacity, loss.grad_gradient, loss.grad_colour)
    for index, (part, grad) in enumerate(zip(parts, grads, strict=True)):
        found = torch.zeros_like(part)
        for entry in range(part.numel()):
            sides = []
            for step in (1e-6, -1e-6):
                perturbed = [p.clone() for p in parts]
                perturbed[index].view(-1)[entry] += step
                sides.append(summed(perturbed, targets, config, lambda0))
            found.view(-1)[entry] = (sides[0] - sides[1]) / 2e-6
        torch.testing.assert_close(grad, found, atol=1e-6, rtol=1e-5)
    assert not loss.distance.requires_grad
    distance = colour_distance(colour * targets.gain, targets.colour)
    torch.testing.assert_close(loss.distance, distance)
    assert loss.means["mask"] == pytest.approx(float((opacity - targets.mask).square().mean()))


def test_conflict_removes_colour_and_reduces_the_normal():
    random = torch.Generator().manual_seed(5)
    count = 20
    ones, zeros = torch.ones(count).double(), torch.zeros(count).double()
    rendered = RenderOutput(
        torch.rand(count, generator=random).double(),
        torch.randn(count, 3, generator=random).double(),
        torch.rand(count, 3, generator=random).double(),
        zeros,
    )
    original = make_targets(count, random, conflict=zeros, normal_factor=ones)
    free = Targets(**{**vars(original), "conflict": ones, "normal_factor": 0.3 * ones})
    fixed, free_loss = (ray_loss(rendered, t, LossConfig(), 0.2) for t in (original, free))
    assert (free_loss.grad_colour == 0).all() and (fixed.grad_colour.norm(dim=1) > 0).all()
    torch.testing.assert_close(free_loss.grad_gradient, 0.3 * fixed.grad_gradient)
    assert torch.equal(free_loss.grad_opacity, fixed.grad_opacity)


@pytest.fixture(scope="module", params=["perspective", "orthographic"])
def ball_views(request, make_sphere):
    cameras = orbit_cameras(RigConfig(count=4, width_px=64, height_px=48, kind=request.param))
    return render_views(make_sphere(0.3, 4), cameras).views


def test_dataset_covers_masks_and_margin_with_camera_rays(ball_views):
    rays = ray_dataset(ball_views, 3, True)
    row, column = (rays.pixel[:, i].long() for i in (1, 0))
    near = torch.zeros_like(ball_views.masks, dtype=torch.bool)
    near[rays.view, row, column] = True
    assert int(near.sum()) == len(rays)  # no pixel twice
    covered = ball_views.masks > 0.02
    assert (near | ~covered).all()
    reach = torch.nn.functional.max_pool2d(covered.float()[:, None], 7, 1, 3)[:, 0] > 0
    assert torch.equal(near, reach)
    assert torch.equal(rays.mask, ball_views.masks[rays.view, row, column])
    origins, directions = ball_views.cameras.rays(rays.pixel)
    every = torch.arange(len(rays))
    torch.testing.assert_close(rays.origin, origins[rays.view, every], atol=1e-6, rtol=0)
    torch.testing.assert_close(rays.direction, directions[rays.view, every], atol=1e-6, rtol=0)
    assert torch.equal(rays_of(ball_views.cameras, rays.view, rays.pixel)[1], rays.direction)


def test_dataset_weights_normals_by_their_angle_to_the_ray(ball_views):
    rays = ray_dataset(ball_views, 3, True)
    cosine = (rays.direction * rays.normal).sum(dim=1)
    valid = rays.normal_weight > 0
    expected = (cosine < MAX_NORMAL_COSINE) & (rays.mask > 0.5) & (rays.normal.norm(dim=1) > 0.5)
    assert torch.equal(valid, expected)
    assert valid.any() and (~valid & (cosine < 0)).any()  # there are grazing ones, too
    torch.testing.assert_close(rays.normal_weight[valid], torch.exp(-cosine[valid] - 1.0))
    assert rays.normal_weight.max() <= 1.0
    assert (rays.normal_weight[rays.mask == 0] == 0).all()
    # a ball's normal is its surface point over the radius
    middle = valid & (cosine < -0.99)
    hit = rays.origin[middle] + rays.direction[middle] * _first_hit(rays, middle, 0.3)
    assert ((unit(hit) * rays.normal[middle]).sum(dim=1) > 0.99).all()
    without = ray_dataset(ball_views, 3, False)
    assert (without.normal_weight == 0).all() and (without.normal == 0).all()


@pytest.mark.parametrize(("slope_deg", "valid"), [(80, True), (84, True), (85, False), (95, False)])
def test_grazing_normals_are_excluded(slope_deg, valid, ball_views):
    # the same angle between normal and ray at every pixel; cos 84.26 degrees is the limit of 0.1
    row, column = torch.ones(ball_views.masks.shape[1:]).nonzero().unbind(dim=1)
    _, directions = ball_views.cameras.rays(torch.stack([column, row], dim=1) + 0.5)
    across = unit(
        torch.linalg.cross(directions, torch.tensor([0.1, 0.9, 0.2]).expand_as(directions))
    )
    angle = torch.deg2rad(torch.tensor(float(slope_deg)))
    normals = (across * angle.sin() - directions * angle.cos()).reshape(ball_views.colour.shape)
    rays = ray_dataset(replace(ball_views, normals=normals, normal_frame="world"), 3, True)
    expected = (rays.mask > 0.5) & valid
    assert torch.equal(rays.normal_weight > 0, expected)
    weight = torch.exp(angle.cos() - 1).expand(int(expected.sum()))
    torch.testing.assert_close(rays.normal_weight[expected], weight, atol=1e-5, rtol=0)


def _first_hit(rays, ids, radius):
    origin, direction = rays.origin[ids], rays.direction[ids]
    half = (origin * direction).sum(dim=1)
    root = (half**2 - origin.square().sum(dim=1) + radius**2).clamp_min(0).sqrt()
    return (-half - root)[:, None]


def test_dataset_colours_are_premultiplied(ball_views):
    rays = ray_dataset(ball_views, 3, True)
    row, column = (rays.pixel[:, i].long() for i in (1, 0))
    expected_colour = ball_views.colour[rays.view, row, column]
    torch.testing.assert_close(
        rays.colour + (1 - rays.mask)[:, None], expected_colour, atol=1e-5, rtol=0
    )
    assert (rays.colour[rays.mask == 0] == 0).all()
    rim = (rays.mask > 0.2) & (rays.mask < 0.8)
    assert rim.any() and (rays.colour[rim] <= rays.mask[rim][:, None] + 1e-5).all()


def test_camera_frame_normals_are_converted_to_the_world(ball_views):
    given = ray_dataset(ball_views.with_normals_in("world"), 3, True)
    own = ray_dataset(ball_views.with_normals_in("camera"), 3, True)
    assert own.normals_in_camera_frame and not given.normals_in_camera_frame
    torch.testing.assert_close(own.normal, given.normal, atol=1e-5, rtol=0)


def test_pixel_area_matches_projected_pixels():
    rig = {"width_px": 100, "height_px": 100}
    ortho = orbit_cameras(RigConfig(count=3, kind="orthographic", ortho_scale=1.5, **rig))
    assert pixel_area(ortho, torch.zeros(3)) == pytest.approx(0.015**2, rel=1e-5)
    perspective = cameras_at([0.0], [0.0], RigConfig(radius=2.0, focal_per_width=1.25, **rig))
    assert pixel_area(perspective, torch.zeros(3)) == pytest.approx((2.0 / 125) ** 2, rel=1e-5)
    nearer = pixel_area(perspective, torch.tensor([0.0, 0.0, 0.5]))
    assert nearer == pytest.approx((1.5 / 125) ** 2, rel=1e-5)


def test_dataset_area_sums_to_the_surface(ball_views):
    # number of rays on the ball times their area: with V / 3 views per point about pi r^2 * 3
    rays = ray_dataset(ball_views, 3, True)
    silhouettes = float(rays.mask.sum()) * rays.area
    assert silhouettes == pytest.approx(3 * torch.pi * 0.3**2, rel=0.05)


def test_sampler_is_seeded_and_samples_without_replacement():
    draw = RaySampler(1000, 5)
    batches = [draw.next(100) for _ in range(20)]
    for start in (0, 10):
        together = torch.cat(batches[start : start + 10])
        assert torch.equal(together.sort().values, torch.arange(1000))
    assert all((batch.diff() > 0).all() for batch in batches)
    assert not torch.equal(batches[0], batches[10])
    again, other = RaySampler(1000, 5), RaySampler(1000, 6)
    assert all(torch.equal(batch, again.next(100)) for batch in batches)
    assert not torch.equal(batches[0], other.next(100))
    assert torch.equal(RaySampler(7, 0).next(100), torch.arange(7))
    # batch sizes that do not divide the number of rays: still no ray twice in a batch
    uneven = RaySampler(10, 0)
    assert all(len(set(uneven.next(4).tolist())) == 4 for _ in range(9))
