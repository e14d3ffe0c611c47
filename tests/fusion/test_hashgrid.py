"""The hash-grid field: rendering, gradients, and fitting shapes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nova3d_core.cameras.cameras import cameras_at
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import InputError, StageError
from nova3d_core.fusion.config import LevelConfig
from nova3d_core.fusion.fields.hashgrid.field import HashGridField
from nova3d_core.fusion.fields.hashgrid.rays import Samples, intersect_box, march
from nova3d_core.fusion.losses import LossConfig
from nova3d_core.sdf_grid import SdfGrid, grid_points

from .random_points import random_unit_cube

LEVEL = LevelConfig(64, 50, 1.0)
NO_REGULARISERS = LossConfig(eikonal=0.0, sparse=0.0, smooth=0.0)


def ball_grid(radius: float, cells: int = 48, side: float = 1.2, centre=(0.0, 0.0, 0.0)) -> SdfGrid:
    origin, spacing = torch.full((3,), -side / 2), side / cells
    shape = (cells + 1,) * 3
    points = grid_points(origin, spacing, shape)
    return SdfGrid(
        (points - torch.tensor(centre)).norm(dim=1).view(shape) - radius, origin, spacing
    )


def ball_field(radius: float = 0.4, level: LevelConfig = LEVEL, **settings) -> HashGridField:
    field = HashGridField(ball_grid(radius), **settings)
    field.set_level(level)
    return field


def shaken(field: HashGridField, size: float = 0.02, seed: int = 3) -> HashGridField:
    """The field with random tables and networks, so that every part contributes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for table in field.encoding.tables:
            table.copy_(torch.randn(table.shape, generator=generator) * 0.1)
        row = field.sdf_network.outer.weight[0]
        row.copy_(torch.randn(row.shape, generator=generator) * size)
    field._cache = None
    return field


def rays_at(targets: Tensor, distance: float = 2.2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rays (R, 3), (R, 3) from random points of a sphere through given targets."""
    generator = torch.Generator().manual_seed(seed)
    origins = torch.randn(len(targets), 3, generator=generator)
    origins = distance * origins / origins.norm(dim=1, keepdim=True)
    aim = targets - origins
    return origins, aim / aim.norm(dim=1, keepdim=True)


def test_field_starts_as_the_initial_sdf():
    start = ball_grid(0.4, centre=(0.05, 0.0, -0.02))
    span = (start.values < 0).nonzero()
    cells = int((span.max(dim=0).values - span.min(dim=0).values).max()) + 1
    field = HashGridField(start)
    field.set_level(LevelConfig(cells, 1, 1.0))  # the initial spacing
    grid = field.to_grid()
    assert grid.spacing == pytest.approx(start.spacing)
    torch.testing.assert_close(grid.origin, start.origin)
    torch.testing.assert_close(grid.values, start.values, atol=2e-6, rtol=0)
    field.set_level(LevelConfig(2 * cells, 1, 1.0))
    fine = field.to_grid()
    torch.testing.assert_close(fine.values[::2, ::2, ::2], start.values, atol=2e-6, rtol=0)


def colour_at(field: HashGridField, points: Tensor) -> Tensor:
    """Colours (N, 3) of a surface that faces +X everywhere."""
    encoded = field.encoding((points - field._low) / field._longest)
    facing = torch.tensor([1.0, 0.0, 0.0]).expand(len(points), 3)
    return field._colours(encoded, field.sdf_network(encoded)[:, 1:], facing)


def test_new_level_keeps_shape_and_colour():
    field = shaken(ball_field(level=replace(LEVEL, resolution=50)))
    points = random_unit_cube(500) - 0.5
    before = field.distances(points)
    change = (before - ball_field().distances(points)).abs().max()
    assert change > 0.0005
    closed = [k for k, weight in enumerate(field.encoding.weights) if weight == 0.0]
    with torch.no_grad():
        for k in closed:  # levels of weight 0 were not trained
            field.encoding.tables[k].zero_()
    colour = colour_at(field, points)
    field.set_level(LevelConfig(112, 50, 1.0, sdf_lr_cells=0.05))
    torch.testing.assert_close(field.distances(points), before, atol=1e-5, rtol=0)
    torch.testing.assert_close(colour_at(field, points), colour, atol=1e-5, rtol=0)


def test_renders_a_ball():
    field = ball_field(0.4)
    inside = torch.nn.functional.normalize(random_unit_cube(400, seed=1) - 0.5, dim=1)
    inside = inside * 0.4 * 0.7 * random_unit_cube(400, seed=2)[:, :1]
    origins, directions = rays_at(inside)
    found = field.render(origins, directions)
    assert found.opacity.min() > 0.99 and found.opacity.max() < 1 + 1e-5
    along = (origins * directions).sum(dim=1)
    t = -along - (along.square() - origins.square().sum(dim=1) + 0.4**2).sqrt()
    assert (found.depth / found.opacity / t - 1).abs().max() < 0.01
    radial = torch.nn.functional.normalize(origins + t[:, None] * directions, dim=1)
    normal = torch.nn.functional.normalize(found.gradient, dim=1)
    angle = torch.rad2deg((radial * normal).sum(dim=1).clamp(-1, 1).acos())
    assert angle.median() < 0.8 and angle.max() < 2.0
    # low-weight samples are skipped, and differences over a cell have length about 1
    assert (found.gradient.norm(dim=1) - 1).abs().max() < 0.06
    assert ((found.colour >= 0) & (found.colour <= 1)).all()


def test_rays_next_to_the_ball_are_empty():
    field = ball_field(0.4)
    origins = torch.tensor([[0.0, 0.55, 2.0], [0.0, 3.0, 2.0], [0.0, 0.0, 2.0]])
    directions = torch.tensor([[0.0, 0.0, -1.0], [0.0, 0.0, -1.0], [0.0, 0.0, 1.0]])
    found = field.render(origins, directions)
    for value in (found.opacity, found.gradient, found.colour, found.depth):
        assert not value.any()
    by = field.backward(torch.ones(3), torch.ones(3, 3), torch.ones(3, 3), True)
    assert not by.grad_origins.any() and not by.grad_directions.any()
    field.step(LossConfig(), 1.0)
    assert field.is_finite()


def test_rays_continue_after_a_near_miss():
    grid = ball_grid(0.3, centre=(0.0, 0.0, -0.2))
    points = grid.points()
    # a small ball in front, whose band the rays cross without hitting it
    front = (points - torch.tensor([0.13, 0.0, 0.3])).norm(dim=1) - 0.1
    field = HashGridField(SdfGrid(grid.values.minimum(front.view(49, 49, 49)), *_frame(grid)))
    field.set_level(LEVEL)
    origins, directions = torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([[0.0, 0.0, -1.0]])
    found = field.render(origins, directions)
    t = march(*_march_of(field), origins, directions, field._sharpness, field.spacing).t
    assert t.min() < 1.8 and t.max() > 1.9
    assert found.opacity > 0.99
    assert found.depth == pytest.approx(1.9, abs=0.05)


def _frame(grid: SdfGrid) -> tuple[Tensor, float]:
    return grid.origin, grid.spacing


def _march_of(field: HashGridField) -> tuple[SdfGrid, Tensor]:
    return SdfGrid(field._cached(), field._low, field._cache_spacing), field._size


def plain_neus(field: HashGridField, origin: Tensor, direction: Tensor, t: Tensor) -> dict:
    """The definition, ray by ray and section by section, without skipping samples."""
    points = origin + t[:, None] * direction
    with torch.no_grad():
        f = field.distances(points)
        slope = torch.stack(
            [
                (field.distances(points + step) - field.distances(points - step))
                / (2 * field.spacing)
                for step in field.spacing * torch.eye(3)
            ],
            dim=1,
        )
        encoded = field.encoding((points - field._low) / field._longest)
        normal = slope / slope.norm(dim=1, keepdim=True)
        features = field.sdf_network(encoded)[:, 1:]
        colour = field.color_network(torch.cat([features, normal, encoded], dim=1))
    sigma = [1 / (1 + math.exp(-field._sharpness * float(value))) for value in f]
    weights, light = [0.0] * len(t), 1.0
    for i in range(len(t) - 1):
        alpha = max((sigma[i] - sigma[i + 1]) / sigma[i], 0.0)
        weights[i] += 0.5 * light * alpha
        weights[i + 1] += 0.5 * light * alpha
        light *= 1 - alpha
    w = torch.tensor(weights)[:, None]
    return {
        "opacity": float(w.sum()),
        "gradient": (w * slope).sum(dim=0),
        "colour": (w * colour).sum(dim=0),
        "depth": float((w[:, 0] * t).sum()),
        "faint": float(w[w < 0.01].sum()),
    }


def test_rendering_matches_its_definition():
    field = shaken(ball_field(0.4))
    origins, directions = rays_at((random_unit_cube(12, seed=4) - 0.5) * 0.7)
    samples = march(*_march_of(field), origins, directions, field._sharpness, field.spacing)
    found = field.render_samples(origins, directions, samples)
    assert samples.slot.max() > 8
    for ray in range(12):
        truth = plain_neus(field, origins[ray], directions[ray], samples.t[samples.ray == ray])
        assert found.opacity[ray] == pytest.approx(truth["opacity"], abs=1e-5)
        assert found.depth[ray] == pytest.approx(truth["depth"], abs=1e-4)
        left_out = (
            truth["faint"] * 1.5 + 1e-5
        )  # gradients have length about 1, colours are at most 1
        assert (found.gradient[ray] - truth["gradient"]).abs().max() <= left_out
        assert (found.colour[ray] - truth["colour"]).abs().max() <= left_out
        assert truth["faint"] < 0.1


def test_only_low_weight_samples_are_skipped(monkeypatch):
    monkeypatch.setattr("nova3d_core.fusion.fields.hashgrid.field.MIN_WEIGHT", -1.0)
    field = shaken(ball_field(0.4))
    origins, directions = rays_at((random_unit_cube(6, seed=4) - 0.5) * 0.7)
    samples = march(*_march_of(field), origins, directions, field._sharpness, field.spacing)
    found = field.render_samples(origins, directions, samples)
    for ray in range(6):
        truth = plain_neus(field, origins[ray], directions[ray], samples.t[samples.ray == ray])
        torch.testing.assert_close(found.gradient[ray], truth["gradient"], atol=2e-4, rtol=0)
        torch.testing.assert_close(found.colour[ray], truth["colour"], atol=1e-5, rtol=0)


def _random_like(shapes, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def _given(field: HashGridField, samples: Samples, rays, weights) -> float:
    found = field.render_samples(*rays, samples)
    outputs = (found.opacity, found.gradient, found.colour)
    return float(
        sum((w.double() * o.double()).sum() for w, o in zip(weights, outputs, strict=True))
    )


def test_gradients_match_finite_differences(monkeypatch):
    monkeypatch.setattr(
        "nova3d_core.fusion.fields.hashgrid.field.MIN_WEIGHT", -1.0
    )  # no jumps at 0.01
    field = shaken(ball_field(0.4), size=0.005)
    rays = rays_at((random_unit_cube(300, seed=6) - 0.5) * 0.6)
    samples = march(*_march_of(field), *rays, field._sharpness, field.spacing)
    weights = _random_like([(300,), (300, 3), (300, 3)], 7)
    leaves = [part.clone().requires_grad_() for part in rays]
    field.render_samples(*leaves, samples)
    by = field.backward(*weights, True)
    parameters = {"table": field.encoding.tables[1], "net": field.sdf_network.inner.weight}
    grads = {name: value.grad.clone() for name, value in parameters.items()}
    for index, slope in ((0, by.grad_origins), (1, by.grad_directions)):
        # along the gradient, where rounding and the kinks between cells matter least
        direction = slope / slope.norm(dim=1, keepdim=True).clamp(min=1e-6)
        size, ends = 2e-5, []
        for sign in (1, -1):
            perturbed = list(rays)
            perturbed[index] = rays[index] + sign * size * direction
            ends.append(_given(field, samples, perturbed, weights))
        expected = float((slope * direction).sum())
        assert (ends[0] - ends[1]) / (2 * size) == pytest.approx(expected, rel=0.02)
    for name, value in parameters.items():
        direction = grads[name] / grads[name].norm()
        size, ends = (3e-3 if name == "table" else 3e-4), []
        for sign in (1, -2):
            with torch.no_grad():
                value += sign * size * direction
            ends.append(_given(field, samples, rays, weights))
        expected = float((grads[name] * direction).sum())
        assert (ends[0] - ends[1]) / (2 * size) == pytest.approx(expected, rel=0.02)


def sphere_views(radius: float, pixels: int = 48) -> dict[str, Tensor]:
    """All rays of six views of a ball with their target mask, normal and colour."""
    rig = RigConfig(width_px=pixels, height_px=pixels)
    cameras = cameras_at([0.0, 90.0, 180.0, 270.0, 0.0, 0.0], [0.0] * 4 + [80.0, -80.0], rig)
    rotation = cameras.world_to_camera[:, :3, :3]
    centre = -torch.einsum("vij,vi->vj", rotation, cameras.world_to_camera[:, :3, 3])
    at = torch.arange(pixels) + 0.5
    y, x = torch.meshgrid(at, at, indexing="ij")
    pixel = torch.stack([x, y, torch.ones_like(x)], dim=-1).view(-1, 3)
    local = torch.einsum("vij,nj->vni", torch.linalg.inv(cameras.intrinsics), pixel)
    world = torch.einsum("vji,vnj->vni", rotation, local).reshape(-1, 3)
    directions = torch.nn.functional.normalize(world, dim=1)
    origins = centre.repeat_interleave(pixels**2, dim=0)
    along = (origins * directions).sum(dim=1)
    depth = along.square() - origins.square().sum(dim=1) + radius**2
    hit = depth > 0
    t = -along - depth.clamp(min=0).sqrt()
    normal = torch.nn.functional.normalize(origins + t[:, None] * directions, dim=1)
    colour = torch.stack([normal[:, 0] > 0, normal[:, 1] > 0, normal[:, 2] > 0], dim=1).float()
    near = along.square() - origins.square().sum(dim=1) + 0.55**2 > 0  # rays near the ball
    return {
        "origins": origins[near],
        "directions": directions[near],
        "mask": hit[near].float(),
        "normal": (normal * hit[:, None])[near],
        "colour": (colour * 0.8 * hit[:, None])[near],
    }


def learn(field: HashGridField, views: dict[str, Tensor], steps: int, rays: int = 300) -> list:
    """Mask, normal and colour losses of random rays; returns the last step's losses."""
    generator = torch.Generator().manual_seed(0)
    area = (2.2 / (1.3889 * 48)) ** 2
    for step in range(steps):
        pick = torch.randint(len(views["mask"]), (rays,), generator=generator)
        found = field.render(views["origins"][pick], views["directions"][pick])
        opacity, gradient = found.opacity.requires_grad_(), found.gradient.requires_grad_()
        colour, mask = found.colour.requires_grad_(), views["mask"][pick]
        normal = torch.nn.functional.normalize(gradient, dim=1)
        terms = [
            (opacity - mask).square(),
            mask * (1 - (normal * views["normal"][pick]).sum(dim=1)),
            0.3 * (colour - views["colour"][pick]).square().sum(dim=1),
        ]
        loss = sum(term.sum() for term in terms) * area * len(views["mask"]) / rays
        by = torch.autograd.grad(loss, [opacity, gradient, colour])
        field.backward(*by, False)
        field.step(LossConfig(), 1.0 - 0.8 * step / steps)
        if step % 10 == 9:
            field.redistance()
    return [float(term.detach().mean()) for term in terms]


def radius_error(field: HashGridField, radius: float) -> tuple[float, float]:
    """Mean and largest distance of the surface from a ball, along 200 rays from the centre."""
    outward = torch.nn.functional.normalize(random_unit_cube(200, seed=9) - 0.5, dim=1)
    reach = torch.linspace(0.2, 0.59, 400)
    with torch.no_grad():
        f = field.distances((outward[:, None] * reach[:, None]).view(-1, 3)).view(200, 400)
    error = (reach[(f > 0).int().argmax(dim=1)] - radius).abs()
    return float(error.mean()), float(error.max())


@pytest.mark.parametrize(("radius", "truth"), [(0.4, 0.45), (0.45, 0.4)])
def test_fits_another_ball_from_six_views(radius, truth):
    field, views = ball_field(radius), sphere_views(truth)
    before, _ = radius_error(field, truth)
    assert before == pytest.approx(0.05, abs=0.002)
    losses = []
    for resolution, steps in ((32, 30), (64, 40)):
        field.set_level(LevelConfig(resolution, steps, 1.0, sdf_lr_cells=0.1))
        losses.append(learn(field, views, steps))
    mean, largest = radius_error(field, truth)
    assert mean < before / 8
    assert largest < 0.02
    assert losses[1][1] < 2.5e-3  # normals within four degrees or so
    assert losses[1][2] < losses[0][2] / 2
    with torch.no_grad():
        length = field.gradients(field._near).norm(dim=1)
    assert (length - 1).abs().mean() < 0.15
    assert field.surface_area == pytest.approx(4 * math.pi * truth**2, rel=0.15)


def test_the_same_seed_repeats_bit_for_bit():
    views, grids = sphere_views(0.45), []
    for seed in (0, 0, 1):
        torch.manual_seed(len(grids))  # the global generator has no effect
        field = ball_field(0.4, replace(LEVEL, resolution=32), seed=seed)
        learn(field, views, 6, rays=200)
        grids.append(field.to_grid().values)
    assert torch.equal(grids[0], grids[1])
    assert not torch.equal(grids[0], grids[2])


def test_init_keeps_the_global_random_state():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    ball_field()
    assert torch.equal(torch.rand(3), expected)


def test_regularisers_of_known_fields():
    field = ball_field(0.4)
    area = field.surface_area
    assert area == pytest.approx(4 * math.pi * 0.4**2, rel=0.02)
    eikonal = field.regularisers(replace(NO_REGULARISERS, eikonal=1.0))
    assert eikonal < 1e-3 * area  # the gradient of a distance has length 1
    smooth = field.regularisers(replace(NO_REGULARISERS, smooth=1.0))
    # the Laplacian of a ball's distance is 2 / r; samples cover some cells to both sides
    assert float(smooth.detach()) / area == pytest.approx((2 / 0.4) ** 2, rel=0.25)
    sparse = field.regularisers(replace(NO_REGULARISERS, sparse=1.0))
    reach = 2.0 * field._cache_spacing / field.spacing
    assert float(sparse.detach()) / area == pytest.approx((1 - math.exp(-reach)) / reach, rel=0.05)
    doubled = SdfGrid(2 * ball_grid(0.4).values, *_frame(ball_grid(0.4)))
    steep = HashGridField(doubled)
    steep.set_level(LEVEL)
    loss = steep.regularisers(replace(NO_REGULARISERS, eikonal=0.5))
    assert float(loss.detach()) / steep.surface_area == pytest.approx(0.5, rel=0.03)


def test_no_gradient_from_colour_to_its_normal():
    field = shaken(ball_field(0.4))
    with torch.no_grad():  # colour depends on the normal only, not on features and position
        field.color_network[0].weight[:, :13] = 0.0
        field.color_network[0].weight[:, 16:] = 0.0
    points = torch.tensor([[0.4, 0.0, 0.0]])
    encoded = field.encoding((points - field._low) / field._longest)
    slope = field.gradients(points)
    seen = field._colours(encoded, field.sdf_network(encoded)[:, 1:], slope)
    by = torch.autograd.grad(seen.sum(), [field.sdf_network.inner.weight], allow_unused=True)[0]
    assert by is None or not by.any()
    assert field.color_network[0].weight[:, 13:16].abs().max() > 0


def test_misuse_raises():
    field = ball_field()
    ones = torch.ones(1), torch.ones(1, 3), torch.ones(1, 3)
    with pytest.raises(StageError, match="without a preceding render"):
        field.backward(*ones, False)
    field.track_rays = False
    field.render(torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([[0.0, 0.0, -1.0]]))
    with pytest.raises(StageError, match="track_rays"):
        field.backward(*ones, True)
    with pytest.raises(InputError, match="encloses no volume"):
        HashGridField(SdfGrid(torch.ones(4, 4, 4), torch.zeros(3), 0.1))


def test_vanished_surface_is_an_error():
    field = ball_field()
    with torch.no_grad():
        field.sdf_network.outer.bias[0] = 1e3
    field._cache = None
    with pytest.raises(StageError, match="vanished"):
        field.step(LossConfig(), 1.0)


def test_is_finite_detects_nan():
    field = ball_field()
    assert field.is_finite()
    with torch.no_grad():
        field.encoding.tables[2][0, 5] = float("nan")
    assert not field.is_finite()


def test_intersect_box_of_parallel_and_missing_rays():
    low, size = torch.zeros(3), torch.ones(3)
    origins = torch.tensor([[0.5, 0.5, 3.0], [0.5, 0.5, 0.5], [0.5, 2.0, 3.0], [0.5, 0.5, -1.0]])
    directions = torch.tensor([[0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0, 0, -1.0]])
    near, far = intersect_box(low, size, origins, directions)
    torch.testing.assert_close(near[:2], torch.tensor([2.0, 0.0]))
    torch.testing.assert_close(far[:2], torch.tensor([3.0, 0.5]))
    assert (near[2:] > far[2:]).all()
