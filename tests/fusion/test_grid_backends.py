"""The dense grid's warp kernels against PyTorch, and gradients against finite differences."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from nova3d_core.fusion.fields.grid import torch_impl
from nova3d_core.fusion.fields.grid.state import BYTES_PER_VOXEL, GridState, grid_points

CELL = 0.05
SIZE = (24, 25, 26)  # swapped axes would fail
SHARPNESS = 1.2 / CELL
BAND = 3.0 / SHARPNESS


def unit(vectors):
    return torch.nn.functional.normalize(vectors, dim=-1)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def rough_ball(dtype=torch.float32, noise=0.01):
    """A ball of 6.6 cells radius in `SIZE` voxels with noisy distances and random colours."""
    random = seeded(0)
    middle = (torch.tensor(SIZE) - 1) * CELL / 2
    points = grid_points(torch.zeros(3), CELL, SIZE)
    f = (points - middle).norm(dim=1).reshape(SIZE) - 0.33
    geo = torch.zeros(*SIZE, 4, dtype=dtype)
    geo[..., 0] = f + noise * torch.randn(SIZE, generator=random)
    col = torch.rand(*SIZE, 4, generator=random).to(dtype)
    state = GridState(torch.zeros(3), CELL, geo, col)
    torch_impl.differences(state)
    return state


def rays_in_cells(count, distance=40.0):
    """Rays towards the middle of the grid, a fifth of which miss; some are parallel to an axis."""
    random = seeded(1)
    direction = torch.randn(count, 3, generator=random)
    direction[: count // 10, :2] = 0.0
    direction[count // 10 : count // 5, 0] = 0.0
    direction = unit(direction)
    toward = torch.tensor(SIZE) * (0.5 + 0.8 * (torch.rand(count, 3, generator=random) - 0.5))
    return toward - distance * direction, direction


def close(one, other, relative):
    """Asserts that tensors agree within a fraction of the largest entry."""
    scale = float(other.abs().max())
    assert scale > 0
    assert float((one - other).abs().max()) <= relative * scale


# warp against PyTorch


@pytest.mark.parametrize("count", [600, 3000])  # one launch, and two concurrent ones
def test_march_matches_pytorch(warp_impl, count):
    origins, directions = rays_in_cells(count)
    plain = torch_impl.march(rough_ball(), origins, directions, SHARPNESS, BAND)
    fast = warp_impl.march(rough_ball(), origins, directions, SHARPNESS, BAND)
    for one, other in zip(fast[:3], plain[:3], strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
    for order in (fast[3], plain[3]):
        assert order.sort().values.tolist() == list(range(count))
    hit = plain[2] >= 0
    assert 0.5 < float(hit.float().mean()) < 0.95
    assert float(plain[0][:, 0].max()) > 0.99
    assert (plain[0][~hit] == 0).all() and (plain[1][~hit] == 0).all()


def test_rays_are_ordered_along_a_morton_curve(warp_impl):
    points = 900.0 * torch.rand(500, 3, generator=seeded(8))
    order = warp_impl.morton_order(points)

    def interleaved(point):
        x, y, z = (int(value) // 8 for value in point)
        return sum(
            ((x >> bit & 1) << 3 * bit + 2)
            | ((y >> bit & 1) << 3 * bit + 1)
            | ((z >> bit & 1) << 3 * bit)
            for bit in range(10)
        )

    expected = sorted(range(500), key=lambda ray: interleaved(points[ray]))  # stable
    assert order.tolist() == expected


@pytest.mark.parametrize(
    ("of_geo", "of_col", "relative"), [(1.0, 0.0, 1e-4), (0.0, 1.0, 1e-4), (1.0, 0.3, 1e-4)]
)
@pytest.mark.parametrize("count", [600, 3000])
def test_march_backward_matches_pytorch(warp_impl, of_geo, of_col, relative, count):
    origins, directions = rays_in_cells(count)
    grad_out_geo, grad_out_col = torch.randn(2, count, 4, generator=seeded(2))
    grad_outputs = (of_geo * grad_out_geo, of_col * grad_out_col)
    settings, found = (SHARPNESS, BAND), []
    for steps in (warp_impl, torch_impl):
        state = rough_ball()
        *outputs, start, order = steps.march(state, origins, directions, *settings)
        rays = (origins, directions, start, order)
        grad_rays = steps.march_backward(state, rays, settings, tuple(outputs), grad_outputs, True)
        found.append((sum(state.grad_geo), sum(state.grad_col), *grad_rays))
    fast, plain = found
    for index in (0, 2, 3):
        close(fast[index], plain[index], relative)
    if of_col:
        close(fast[1], plain[1], 1e-4)
    else:
        assert (fast[1] == 0).all() and (plain[1] == 0).all()


@pytest.mark.parametrize("kept", [1, 5, 32])
def test_stored_samples_give_the_same_bits_as_reading_the_grid_again(warp_impl, kept):
    count = 3000
    origins, directions = rays_in_cells(count)
    grad_outputs = tuple(torch.randn(2, count, 4, generator=seeded(2)))
    settings, found = (SHARPNESS, BAND), []
    for samples in (None, torch.full((count, kept, 2, 4), torch.nan)):
        state = rough_ball()
        *outputs, start, order = warp_impl.march(state, origins, directions, *settings, samples)
        rays = (origins, directions, start, order)
        grad_rays = warp_impl.march_backward(
            state, rays, settings, tuple(outputs), grad_outputs, True, samples
        )
        found.append((*outputs, *state.grad_geo, *state.grad_col, *grad_rays))
    assert not samples.isnan().all()
    for again, stored in zip(*found, strict=True):
        assert torch.equal(again, stored)
    assert all(float(buffer.abs().max()) > 0 for buffer in found[1])


def test_gradients_accumulate_and_those_of_rays_are_optional(compiled):
    steps = steps_of(compiled)
    origins, directions = rays_in_cells(300)
    settings = (SHARPNESS, BAND)
    grad_outputs = tuple(torch.randn(2, 300, 4, generator=seeded(2)))
    sums = []
    for calls in (1, 2):
        state = rough_ball()
        *outputs, start, order = steps.march(state, origins, directions, *settings)
        rays = (origins, directions, start, order)
        for _ in range(calls):
            grad_rays = steps.march_backward(
                state, rays, settings, tuple(outputs), grad_outputs, False
            )
        assert all(part.shape == (300, 3) and (part == 0).all() for part in grad_rays)
        sums.append((sum(state.grad_geo), sum(state.grad_col)))
    for once, twice in zip(*sums, strict=True):
        close(twice, 2 * once, 1e-5)


def steps_of(compiled):
    if not compiled:
        return torch_impl
    from nova3d_core.fusion.fields.grid import warp_impl

    return warp_impl


def filled(seed):
    """A state with random values in every buffer."""
    state = rough_ball()
    random = seeded(seed)
    for grad in (*state.grad_geo, *state.grad_col):
        grad.copy_(torch.randn(grad.shape, generator=random))
    return state


def all_tensors(state):
    named = {field.name: getattr(state, field.name) for field in fields(state)}
    named |= {
        name: getattr(state, name)
        for name in ("moments_geo", "moment_col", "square_col", "laplacian")
    }
    named |= {"grad_geo": torch.stack(state.grad_geo), "grad_col": torch.stack(state.grad_col)}
    return named | {"active": state.active}


def same_states(one, other, atol):
    for name, value in all_tensors(one).items():
        torch.testing.assert_close(value, all_tensors(other)[name], atol=atol, rtol=1e-4)


def test_differences_match_pytorch(warp_impl):
    one, other = rough_ball(), rough_ball()
    for state in (one, other):
        state.geo[..., 1:] = 7.0
        state.laplacian.zero_()
    warp_impl.differences(one)
    torch_impl.differences(other)
    torch.testing.assert_close(one.geo, other.geo, atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(one.laplacian, other.laplacian, atol=1e-6, rtol=0)
    assert float(one.laplacian.abs().max()) > 1e-3
    changed = (other.geo[..., 1] != 7.0).view(-1).nonzero()[:, 0]
    assert changed.tolist() == other.active.tolist()


@pytest.mark.parametrize("terms", [(0.0, 0.0, 0.0), (3.0, 0.0, 0.0), (0.0, 3.0, 0.0), (1, 1, 100)])
def test_adam_steps_match_pytorch(warp_impl, terms):
    one, other = filled(3), filled(3)
    before = one.geo.clone(), one.col.clone()
    for step in range(3):
        warp_impl.adam_step(one, terms, 0.1 * CELL, 0.05)
        torch_impl.adam_step(other, terms, 0.1 * CELL, 0.05)
        same_states(one, other, 1e-5)
        for state in (one, other):
            random = seeded(step)
            state.grad_geo[0] += torch.randn(state.geo.shape, generator=random)
            state.grad_col[1] += torch.randn(state.col.shape, generator=random)
    assert one.steps == other.steps == 3
    change = (one.geo - before[0])[..., 0].view(-1)[one.active.long()]
    assert 0.1 * CELL < float(change.abs().max()) < 0.3001 * CELL * 1.8
    assert float((one.col - before[1]).abs().max()) > 0.04


@pytest.mark.parametrize("stretch", [0.6, 1.0, 2.0])
def test_redistance_matches_pytorch(warp_impl, stretch):
    one, other = rough_ball(), rough_ball()
    for state in (one, other):
        state.geo[..., 0] *= stretch
    warp_impl.redistance(one)
    torch_impl.redistance(other)
    same_states(one, other, 1e-5)


# gradients against finite differences


def test_pytorch_gradients_match_finite_differences():
    # a band wider than the grid, and origins inside it: then samples do not move with f
    sharpness, band = 0.25 / CELL, 100.0
    state = rough_ball(torch.float64)
    count = 60
    directions = unit(torch.randn(count, 3, generator=seeded(4)).double())
    origins = torch.tensor(SIZE) / 2 + 0.237 - 9.0 * directions  # no sample at a voxel's border
    inputs = [state.geo, state.col, origins, directions]
    grad_outputs = tuple(torch.randn(2, count, 4, generator=seeded(5)).double())

    def loss():
        outputs = torch_impl.march(state, origins, directions, sharpness, band)[:2]
        return float(sum((by * out).sum() for by, out in zip(grad_outputs, outputs, strict=True)))

    *outputs, start, order = torch_impl.march(state, origins, directions, sharpness, band)
    assert (start == 0).all() and float(outputs[0][:, 0].min()) > 0.3
    rays = (origins, directions, start, order)
    grad_rays = torch_impl.march_backward(
        state, rays, (sharpness, band), outputs, grad_outputs, True
    )
    for index, by in enumerate((state.grad_geo[0], state.grad_col[0], *grad_rays)):
        way = torch.randn(by.shape, generator=seeded(6)).double()
        small, kept, sides = 1e-6, inputs[index].clone(), []
        for sign in (1, -1):
            inputs[index].copy_(kept + sign * small * way)
            sides.append(loss())
        inputs[index].copy_(kept)
        difference = (sides[0] - sides[1]) / (2 * small)
        assert difference == pytest.approx(float((by * way).sum()), rel=1e-4)


def test_adam_step_decreases_the_regularisers(compiled):
    """The eikonal and squared-Laplacian terms decrease when they are the only loss."""
    steps = steps_of(compiled)

    def eikonal(state):
        steps.differences(state)
        length = state.geo.view(-1, 4)[state.active.long(), 1:].norm(dim=1)
        return float((length - 1).square().mean())

    def bending(state):
        f = state.geo.view(-1, 4)[:, 0]
        return float(torch_impl._laplacian(state, state.active.long(), f).square().mean())

    for energy, terms in ((eikonal, (1.0, 0.0, 0.0)), (bending, (0.0, 0.0, 1.0))):
        state = rough_ball()
        before = energy(state)
        for _ in range(15):
            steps.adam_step(state, terms, 0.02 * CELL, 0.0)
        assert energy(state) < 0.8 * before


def test_bytes_per_voxel_match_the_tensors():
    state = rough_ball()
    tensors = [state.geo, state.col, *state.grad_geo, *state.grad_col, *state.scratch]
    tensors += [state.moments_geo, state.moment_col, state.square_col, state.fixed, state.laplacian]
    taken = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert taken <= BYTES_PER_VOXEL * state.geo[..., 0].numel() <= 1.2 * taken
