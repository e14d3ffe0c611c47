"""The dense grid on balls with analytic solutions, and fitted to images."""

from __future__ import annotations

import copy
import logging

import pytest
import torch

from nova3d_core.cameras.cameras import cameras_at
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.compute import warp_backend
from nova3d_core.fusion.config import LevelConfig
from nova3d_core.fusion.fields.grid.field import DenseGrid
from nova3d_core.fusion.fields.grid.state import (
    BYTES_PER_VOXEL,
    grid_points,
    make_next_level,
    resample,
)
from nova3d_core.fusion.losses import LossConfig, Targets, ray_loss
from nova3d_core.fusion.rays import RaySampler, ray_dataset
from nova3d_core.rendering.views import render_views
from nova3d_core.sdf_grid import SdfGrid

RADIUS = 0.4


def unit(vectors):
    return torch.nn.functional.normalize(vectors, dim=-1)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def ball_grid(radius=RADIUS, stretch=1.0, size=65):
    spacing = 1.2 / (size - 1)
    grid = SdfGrid(torch.zeros(size, size, size), torch.full((3,), -0.6), spacing)
    values = stretch * (grid.points().norm(dim=1) - radius)
    return SdfGrid(values.reshape(size, size, size), grid.origin, spacing)


def ball_field(compiled, resolution=48, sharpness=1.0, **start):
    field = DenseGrid(ball_grid(**start), compiled=compiled)
    field.set_level(LevelConfig(resolution, 1, 1.0, sharpness=sharpness))
    return field


def rays_past_the_ball(count):
    """World rays and their distances from the centre (R,)."""
    random = seeded(7)
    direction = unit(torch.randn(count, 3, generator=random))
    side = unit(torch.linalg.cross(direction, torch.randn(count, 3, generator=random)))
    distance = 0.6 * torch.rand(count, generator=random)
    return distance[:, None] * side - 2.0 * direction, direction, distance


@pytest.mark.parametrize("sharpness", [1.0, 1.6])
def test_renders_a_ball_in_place(compiled, sharpness):
    field = ball_field(compiled, sharpness=sharpness)
    origins, directions, distance = rays_past_the_ball(600)
    rendered = field.render(origins, directions)
    cell = field.spacing
    inside, outside = (
        distance < RADIUS - 6 * cell / sharpness,
        distance > RADIUS + 3.2 * cell / sharpness,
    )
    assert min(int(inside.sum()), int(outside.sum())) > 100
    assert float(rendered.opacity[inside].min()) > 0.99
    assert float(rendered.opacity[outside].max()) < 0.01
    for part in (rendered.gradient, rendered.colour, rendered.depth):
        assert float(part[outside].abs().max()) < 0.01

    hit = distance < 0.9 * RADIUS
    analytic = 2.0 - (RADIUS**2 - distance[hit].square()).sqrt()
    normal = unit(origins[hit] + analytic[:, None] * directions[hit])
    cosine = -(normal * directions[hit]).sum(dim=1)
    depth = rendered.depth[hit] / rendered.opacity[hit]
    off = (depth - analytic) * cosine  # depth below the surface
    assert float(off.abs().max()) < 0.5 * cell
    angle_deg = (unit(rendered.gradient[hit]) * normal).sum(dim=1).clamp(-1, 1).arccos().rad2deg()
    assert float(angle_deg[cosine > 0.8].max()) < 1.0
    assert float(angle_deg.max()) < 2.0
    inside = distance[hit] < 0.6 * RADIUS
    grey = rendered.colour[hit][inside] / rendered.opacity[hit][inside, None]
    torch.testing.assert_close(grey, torch.full_like(grey, 0.5), atol=0.02, rtol=0)


def test_voxels_crossed_by_rays_are_active(compiled):
    """All voxels with a significant gradient."""
    for sharpness in (1.0, 1.3, 1.6):
        field = ball_field(compiled, sharpness=sharpness)
        origins, directions, _ = rays_past_the_ball(600)
        rendered = field.render(origins, directions)
        ones = [
            torch.ones_like(part) for part in (rendered.opacity, rendered.gradient, rendered.colour)
        ]
        field.backward(*ones, with_rays=False)
        state = field._state
        idle = torch.ones(state.shape, dtype=torch.bool).view(-1)
        idle[state.active.long()] = False
        # residual transmittance deep inside causes small gradients there
        for grads, left_out in ((state.grad_geo, 1e-2), (state.grad_col, 1e-6)):
            size = sum(grads).abs().sum(dim=-1).view(-1)
            assert float(size.sum()) > 0.0
            assert float(size[idle].sum()) < left_out * float(size.sum())


def test_backward_returns_gradients_of_world_rays(compiled):
    """Moving a ray's origin by a cell changes its opacity as the gradient predicts."""
    field = ball_field(compiled, sharpness=0.5)
    # rays along z in the plane x = 0, grazing the ball
    across = torch.linspace(RADIUS - 0.03, RADIUS + 0.02, 200)
    zero = torch.zeros_like(across)
    origins = torch.stack([zero, across, zero - 2.0], dim=1)
    directions = torch.tensor([0.0, 0.0, 1.0]).expand(200, 3).contiguous()
    one, none = torch.ones(200), torch.zeros(200, 3)
    field.render(origins, directions)
    ray_gradients = field.backward(one, none, none, True)
    small = 0.2 * field.spacing
    step = torch.tensor([0.0, small, 0.0])
    high, low = (field.render(origins + s * step, directions).opacity for s in (1, -1))
    difference = (high - low) / (2 * small)
    by_y = ray_gradients.grad_origins[:, 1]
    # sample positions are constants, hence the noise of single rays
    assert float((difference - by_y).abs().mean()) < 0.1 * float(by_y.abs().mean())
    # a rotation about the origin moves the point 2 units along the ray by twice the angle
    torch.testing.assert_close(ray_gradients.grad_directions[:, 1], 2.0 * by_y, rtol=0.1, atol=0.2)
    assert field.backward(one, none, none, False) is None


@pytest.mark.parametrize("stretch", [0.5, 1.0, 2.0])
def test_redistance_restores_distances_and_keeps_the_surface(compiled, stretch):
    field = ball_field(compiled, stretch=stretch)
    state = field._state
    points = grid_points(state.origin, field.spacing, state.shape)
    exact = (points.norm(dim=1) - RADIUS).reshape(state.shape)
    near = exact.abs() < 2.4 * field.spacing
    length = state.geo[near][:, 1:].norm(dim=1)
    assert float((length - 1).abs().max()) < 0.05
    assert float((state.geo[..., 0] - exact)[near].abs().max()) < 0.1 * field.spacing
    surface = RADIUS * unit(torch.randn(2000, 3, generator=seeded(8)))
    values = resample(state.geo[..., :1], state.origin, field.spacing, surface)
    assert float(values.abs().max()) < 0.1 * field.spacing


def test_finer_level_keeps_surface_and_colours(compiled):
    field = ball_field(compiled, resolution=32)
    state = field._state
    points = grid_points(state.origin, state.spacing, state.shape)
    state.col[..., :3] = (0.5 + points * 0.5).reshape(*state.shape, 3)
    coarse = field.spacing
    field.set_level(LevelConfig(56, 1, 1.0))
    assert field.spacing == pytest.approx(coarse * 32 / 56)
    surface = RADIUS * unit(torch.randn(2000, 3, generator=seeded(8)))
    for state in (field._state, make_next_level(field._state, field.spacing)):
        values = resample(state.geo[..., :1], state.origin, state.spacing, surface)
        assert float(values.abs().max()) < 0.1 * coarse
        colours = resample(state.col, state.origin, state.spacing, surface)[:, :3]
        torch.testing.assert_close(colours, 0.5 + surface * 0.5, atol=1e-3, rtol=0)


def test_memory_budget_makes_a_level_coarser(caplog):
    plenty = ball_field(False, resolution=64)
    budget = 0.02
    field = DenseGrid(ball_grid(), memory_gib=budget, compiled=False)
    with caplog.at_level(logging.WARNING, logger="nova3d_core"):
        field.set_level(LevelConfig(64, 1, 1.0))
    assert "exceeds the memory budget" in caplog.text
    assert field.spacing > 1.05 * plenty.spacing
    voxels = field.to_grid().values.numel()
    assert voxels * BYTES_PER_VOXEL < budget * 2**30
    caplog.clear()
    ball_field(False, resolution=64)
    assert "memory" not in caplog.text


@pytest.mark.parametrize("name", ["geo", "col"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_is_finite_detects_overflow(name, bad):
    field = ball_field(False, resolution=24)
    assert field.is_finite()
    getattr(field._state, name)[5, 6, 7, 0] = bad
    assert not field.is_finite()


def optimise_field(compiled, steps=4, count=warp_backend.NUM_CPU_LAUNCHES * 1100):
    field = ball_field(compiled, resolution=24)
    origins, directions, distance = rays_past_the_ball(count)
    for _ in range(steps):
        rendered = field.render(origins, directions)
        grad_opacity = 1e-4 * (rendered.opacity - (distance < 0.3).float())
        grad_rays = field.backward(
            grad_opacity, 1e-5 * rendered.gradient, 1e-4 * rendered.colour, True
        )
        field.step(LossConfig(), 1.0)
    field.redistance()
    return field._state.geo, field._state.col, grad_rays.grad_origins, grad_rays.grad_directions


def test_runs_repeat_bit_for_bit(warp_impl):
    # scatter in torch is not deterministic with several threads
    for one, other in zip(optimise_field(True), optimise_field(True), strict=True):
        assert torch.equal(one, other)


def test_warp_and_pytorch_runs_stay_close(warp_impl):
    # differences of the colour gradients, see above, accumulate over the steps
    for one, other in zip(optimise_field(True), optimise_field(False), strict=True):
        assert float((one - other).norm()) < 5e-2 * float(other.norm())


def test_to_grid_is_a_copy(compiled):
    field = ball_field(compiled, resolution=24)
    grid = field.to_grid()
    before = copy.deepcopy(grid.values)
    field._state.geo += 1.0
    assert torch.equal(grid.values, before)
    assert grid.spacing == field.spacing


# fitting


def test_large_ball_shrinks_to_images_of_a_small_one(make_sphere):
    rig = RigConfig(width_px=48, height_px=48)
    cameras = cameras_at([0.0, 90.0, 180.0, 270.0, 0.0, 0.0], [0.0] * 4 + [80.0, -80.0], rig)
    views = render_views(make_sphere(0.3, 4), cameras).views
    rays = ray_dataset(views, 6, True)
    field = DenseGrid(ball_grid(0.4))  # warp if available: PyTorch is slow
    sampler, loss = RaySampler(len(rays), 0), LossConfig()
    for level in (LevelConfig(24, 60, 0.3), LevelConfig(40, 50, 0.4)):
        field.set_level(level)
        for step in range(level.steps):
            if step % 15 == 14:
                field.redistance()
            ids = sampler.next(round(level.ray_fraction * len(rays)))
            rendered = field.render(rays.origin[ids], rays.direction[ids])
            ray_losses = ray_loss(rendered, targets_of(rays, ids), loss, 1.0)
            scale = rays.area * len(rays) / len(ids)
            by = (ray_losses.grad_opacity, ray_losses.grad_gradient, ray_losses.grad_colour)
            field.backward(*(scale * part for part in by), False)
            field.step(loss, 0.3 ** (step / level.steps))
    field.redistance()
    radii = radii_of(field.to_grid())
    assert float((radii - 0.3).abs().max()) < 0.01
    assert abs(float(radii.mean()) - 0.3) < 0.004


def targets_of(rays, ids):
    ones = torch.ones(len(ids))
    return Targets(
        rays.mask[ids],
        rays.colour[ids],
        rays.normal[ids],
        rays.normal_weight[ids],
        torch.ones(len(ids), 3),
        0 * ones,
        ones,
    )


def radii_of(grid):
    """(N,) distance of the surface from the centre in many directions."""
    directions = unit(torch.randn(500, 3, generator=seeded(9)))
    along = torch.linspace(0.2, 0.45, 251)
    points = (along[:, None, None] * directions).reshape(-1, 3)
    values = resample(grid.values[..., None], grid.origin, grid.spacing, points)
    inside = values.reshape(251, 500) < 0
    assert (inside[0] & ~inside[-1]).all()
    return along[inside.long().cumprod(dim=0).sum(dim=0) - 1] + 0.0005
