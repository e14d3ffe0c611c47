"""The terms of eq. 6 against brute force, finite differences and hand-made rays."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nova3d_core.cameras.cameras import cameras_at, orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.fusion.fields.base import RenderOutput
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
    shares = torch.linspace(0, 1, 4001, dtype=torch.float64)
    tried = colour_loss(distance[:, None], shares[None], lambda0)
    best, where = tried.min(dim=1)
    torch.testing.assert_close(robust_loss(distance, lambda0), best, atol=1e-7, rtol=0)
    assert (robust_loss(distance, lambda0) <= best + 1e-12).all()
    assert (free_conflict(distance, lambda0) - shares[where]).abs().max() <= 0.5 / 4000 + 1e-9
    # H = 1 is out of reach for prices beyond half the largest distance of colours
    assert (float(free_conflict(distance, lambda0).max()) < 1) == (2 * lambda0 > 3**0.5)


def test_robust_loss_is_quadratic_below_2_lambda0_and_flat_above():
    lambda0 = 0.2
    distance = torch.linspace(0.01, 1.5, 150, dtype=torch.float64, requires_grad=True)
    value = robust_loss(distance, lambda0)
    slope = torch.autograd.grad(value.sum(), distance)[0]
    far = distance > 2 * lambda0
    assert far.any() and not far.all()
    expected = torch.where(far, lambda0, distance - distance**2 / (4 * lambda0))
    torch.testing.assert_close(value, expected)
    assert (slope[far] == 0).all()
    torch.testing.assert_close(slope[~far], (1 - distance / (2 * lambda0))[~far])


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
    # Wonder3D's ranking indexes the sorted errors by places in the unsorted: a random share stays
    random = torch.Generator().manual_seed(1)
    error = torch.rand(1000, generator=random) ** 3
    counts = torch.rand(1000, generator=random) < 0.7
    keep = inlier_mask(error, counts, 0.2)
    assert set(keep.unique().tolist()) == {0.0, 1.0}
    assert (keep[~counts] == 0).all()
    assert int(keep.sum()) == round(int(counts.sum()) * 0.8)
    assert error[keep > 0].max() < error[(keep == 0) & counts].min()
    # the order of the rays does not matter
    order = torch.randperm(1000, generator=random)
    assert torch.equal(inlier_mask(error[order], counts[order], 0.2), keep[order])


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
    # background rays change nothing: the shipped loss divides by them, too
    alone = normal_loss(gradient[:200], normal[:200], weight[:200], 0.0)
    assert torch.equal(loss[:200], alone)


def test_normal_loss_drops_outliers_of_valid_rays():
    random = torch.Generator().manual_seed(3)
    normal = unit(torch.randn(300, 3, generator=random, dtype=torch.float64))
    gradient = unit(normal + 0.2 * torch.randn(300, 3, generator=random, dtype=torch.float64))
    weight = torch.full((300,), 0.8, dtype=torch.float64)
    weight[100:] = 0.0
    gradient[:20] = -normal[:20]  # twenty outliers of the hundred that count
    whole = normal_loss(gradient, normal, weight, 0.0)
    trimmed = normal_loss(gradient, normal, weight, 0.2)
    assert (trimmed[:20] == 0).all() and (whole[:20] > 1.5).all()
    assert torch.equal(trimmed[20:], whole[20:])


def made_targets(count, random, **changes):
    def rand(*shape):
        return torch.rand(*shape, generator=random, dtype=torch.float64)

    made = {
        "mask": rand(count),
        "colour": rand(count, 3),
        "normal": unit(rand(count, 3) - 0.5),
        "normal_weight": rand(count),
        "gain": rand(count, 3) + 0.5,
        "conflict": rand(count),
        "normal_factor": rand(count),
    }
    return Targets(**{**made, **changes})


def summed(parts, targets, config, lambda0):
    """The sum of the terms, written out for finite differences."""
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
    gradient[0] *= 0.05 / gradient[0].norm()  # too short to be stretched to a unit vector
    colour = torch.rand(count, 3, generator=random, dtype=torch.float64)
    targets = made_targets(count, random)
    loss = ray_loss(RenderOutput(opacity, gradient, colour, opacity), targets, config, lambda0)
    parts = [opacity, gradient, colour]
    slopes = (loss.grad_opacity, loss.grad_gradient, loss.grad_colour)
    for index, (part, slope) in enumerate(zip(parts, slopes, strict=True)):
        found = torch.zeros_like(part)
        for place in range(part.numel()):
            sides = []
            for step in (1e-6, -1e-6):
                shifted = [p.clone() for p in parts]
                shifted[index].view(-1)[place] += step
                sides.append(summed(shifted, targets, config, lambda0))
            found.view(-1)[place] = (sides[0] - sides[1]) / 2e-6
        torch.testing.assert_close(slope, found, atol=1e-6, rtol=1e-5)
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
    made = made_targets(count, random, conflict=zeros, normal_factor=ones)
    free = Targets(**{**vars(made), "conflict": ones, "normal_factor": 0.3 * ones})
    bound, loose = (ray_loss(rendered, t, LossConfig(), 0.2) for t in (made, free))
    assert (loose.grad_colour == 0).all() and (bound.grad_colour.norm(dim=1) > 0).all()
    torch.testing.assert_close(loose.grad_gradient, 0.3 * bound.grad_gradient)
    assert torch.equal(loose.grad_opacity, bound.grad_opacity)


@pytest.fixture(scope="module", params=["perspective", "orthographic"])
def ball_views(request, make_sphere):
    cameras = orbit_cameras(RigConfig(count=4, width_px=64, height_px=48, kind=request.param))
    return render_views(make_sphere(0.3, 4), cameras).views


def test_dataset_covers_masks_and_margin_with_camera_rays(ball_views):
    bank = ray_dataset(ball_views, 3, True)
    row, column = (bank.pixel[:, i].long() for i in (1, 0))
    near = torch.zeros_like(ball_views.masks, dtype=torch.bool)
    near[bank.view, row, column] = True
    assert int(near.sum()) == len(bank)  # no pixel twice
    seen = ball_views.masks > 0.02
    assert (near | ~seen).all()
    reach = torch.nn.functional.max_pool2d(seen.float()[:, None], 7, 1, 3)[:, 0] > 0
    assert torch.equal(near, reach)
    assert torch.equal(bank.mask, ball_views.masks[bank.view, row, column])
    origins, directions = ball_views.cameras.rays(bank.pixel)
    every = torch.arange(len(bank))
    torch.testing.assert_close(bank.origin, origins[bank.view, every], atol=1e-6, rtol=0)
    torch.testing.assert_close(bank.direction, directions[bank.view, every], atol=1e-6, rtol=0)
    assert torch.equal(rays_of(ball_views.cameras, bank.view, bank.pixel)[1], bank.direction)


def test_dataset_weights_normals_by_their_angle_to_the_ray(ball_views):
    bank = ray_dataset(ball_views, 3, True)
    cosine = (bank.direction * bank.normal).sum(dim=1)
    counts = bank.normal_weight > 0
    expected = (cosine < MAX_NORMAL_COSINE) & (bank.mask > 0.5) & (bank.normal.norm(dim=1) > 0.5)
    assert torch.equal(counts, expected)
    assert counts.any() and (~counts & (cosine < 0)).any()  # there are steep ones, too
    torch.testing.assert_close(bank.normal_weight[counts], torch.exp(-cosine[counts] - 1.0))
    assert bank.normal_weight.max() <= 1.0
    assert (bank.normal_weight[bank.mask == 0] == 0).all()
    # a ball's normal is its surface point over the radius
    middle = counts & (cosine < -0.99)
    hit = bank.origin[middle] + bank.direction[middle] * _first_hit(bank, middle, 0.3)
    assert ((unit(hit) * bank.normal[middle]).sum(dim=1) > 0.99).all()
    without = ray_dataset(ball_views, 3, False)
    assert (without.normal_weight == 0).all() and (without.normal == 0).all()


@pytest.mark.parametrize(
    ("slope_deg", "counts"), [(80, True), (84, True), (85, False), (95, False)]
)
def test_grazing_normals_are_excluded(slope_deg, counts, ball_views):
    # every pixel's normal at one angle to its own ray: cos 84.26 degrees is the limit of 0.1
    row, column = torch.ones(ball_views.masks.shape[1:]).nonzero().unbind(dim=1)
    _, directions = ball_views.cameras.rays(torch.stack([column, row], dim=1) + 0.5)
    across = unit(
        torch.linalg.cross(directions, torch.tensor([0.1, 0.9, 0.2]).expand_as(directions))
    )
    angle = torch.deg2rad(torch.tensor(float(slope_deg)))
    normals = (across * angle.sin() - directions * angle.cos()).reshape(ball_views.colour.shape)
    bank = ray_dataset(replace(ball_views, normals=normals, normal_frame="world"), 3, True)
    expected = (bank.mask > 0.5) & counts
    assert torch.equal(bank.normal_weight > 0, expected)
    weight = torch.exp(angle.cos() - 1).expand(int(expected.sum()))
    torch.testing.assert_close(bank.normal_weight[expected], weight, atol=1e-5, rtol=0)


def _first_hit(bank, which, radius):
    origin, direction = bank.origin[which], bank.direction[which]
    half = (origin * direction).sum(dim=1)
    root = (half**2 - origin.square().sum(dim=1) + radius**2).clamp_min(0).sqrt()
    return (-half - root)[:, None]


def test_dataset_colours_are_premultiplied(ball_views):
    bank = ray_dataset(ball_views, 3, True)
    row, column = (bank.pixel[:, i].long() for i in (1, 0))
    shown = ball_views.colour[bank.view, row, column]
    torch.testing.assert_close(bank.colour + (1 - bank.mask)[:, None], shown, atol=1e-5, rtol=0)
    assert (bank.colour[bank.mask == 0] == 0).all()
    rim = (bank.mask > 0.2) & (bank.mask < 0.8)
    assert rim.any() and (bank.colour[rim] <= bank.mask[rim][:, None] + 1e-5).all()


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
    # all rays on the ball, times their area: its surface seen by V / 3 views is about pi r^2 * 3
    bank = ray_dataset(ball_views, 3, True)
    silhouettes = float(bank.mask.sum()) * bank.area
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
    # sizes that do not divide the rays: still none twice in a batch
    uneven = RaySampler(10, 0)
    assert all(len(set(uneven.next(4).tolist())) == 4 for _ in range(9))
