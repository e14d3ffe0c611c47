"""Analytic gradients of the conflict maps against autograd, and caching of their samples."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.fusion.config import ConflictConfig
from nova3d_core.fusion.conflict.maps import ConflictMaps

DONE = 0.6
CONFIG = ConflictConfig(start_fraction=0.0, mean_budget=0.05, front_view_max=1.0)


def rays(cameras, count=3000):
    random = torch.Generator().manual_seed(0)
    view = torch.randint(len(cameras), (count,), generator=random).sort().values
    size = torch.tensor([cameras.width, cameras.height])
    pixel = (torch.rand(count, 2, generator=random) * size).floor() + 0.5
    distance, mask = torch.rand(2, count, generator=random)
    return SimpleNamespace(view=view, pixel=pixel, distance=distance, mask=mask)


def bilinear(logits, cameras, at):
    """H sampled from each view's map with `grid_sample`."""
    rows, columns = logits.shape[2:]
    cells = at.pixel / torch.tensor([cameras.width, cameras.height])
    position = cells * torch.tensor([columns, rows]) - 0.5
    limit = torch.tensor([columns - 1.001, rows - 1.001])
    position = torch.minimum(position.clamp_min(0.0), limit)
    grid = position / torch.tensor([columns - 1, rows - 1]) * 2 - 1
    values = torch.nn.functional.grid_sample(
        logits[at.view], grid[:, None, None], align_corners=True, padding_mode="border"
    )
    return torch.sigmoid(values[:, 0, 0, 0])


def test_map_gradient_equals_autograd():
    cameras = orbit_cameras()
    model, at = ConflictMaps(cameras, CONFIG), rays(cameras)
    random = torch.Generator().manual_seed(1)
    model._logits = 3.0 * torch.randn(model._logits.shape, generator=random)
    logits = model._logits.clone().requires_grad_(True)
    conflict, lambda0 = bilinear(logits, cameras, at), model.lambda0(DONE)
    inside = (at.mask > 0.5).float()
    loss = (inside * (lambda0 * conflict.square() - conflict * at.distance)).sum()
    for view in range(len(cameras)):
        mine = inside * (at.view == view)
        beyond = (mine * conflict).sum() / mine.sum() - CONFIG.mean_budget
        assert beyond > 0  # so that its gradient is tested
        loss = loss + 4.0 * mine.sum() * beyond.square()
    expected = torch.autograd.grad(loss, logits)[0]
    samples = model._sample(at.view, at.pixel)
    torch.testing.assert_close(samples.conflict, conflict.detach(), rtol=1e-4, atol=1e-5)
    grad = model._grad_conflict(at.view, samples.conflict, at.distance, at.mask, lambda0)
    grad_logits = model._grad_logits(samples, grad)
    torch.testing.assert_close(
        grad_logits, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())
    )


def test_map_samples_are_cached_within_a_step():
    cameras = orbit_cameras()
    model, at = ConflictMaps(cameras, CONFIG), rays(cameras)
    before = model._sample(at.view, at.pixel)
    assert model._sample(at.view, at.pixel) is before
    assert model._sample(at.view, at.pixel.clone()) is not before
    first = model.at(at.view, at.pixel, None, DONE)
    model.step(at.view, at.pixel, at.distance, at.mask, DONE)
    assert not torch.equal(model.at(at.view, at.pixel, None, DONE), first)
