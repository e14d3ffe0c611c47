"""Soft masks against known edges, and against the rendering of a ball."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.fusion import fuse as optimise
from nova3d_core.fusion.config import HullConfig, LevelConfig, SdfFusionConfig
from nova3d_core.fusion.fields.grid.field import DenseGrid
from nova3d_core.fusion.losses import LossConfig
from nova3d_core.fusion.poses.soft_masks import edge_distance_px, soften_masks
from nova3d_core.fusion.rays import pixel_side, ray_dataset
from nova3d_core.progress import SILENT
from nova3d_core.rendering.views import render_views
from nova3d_core.sdf_grid import SdfGrid

RADIUS = 0.3


def coverage(inside, size=64, fine=16):
    """Coverage of each pixel of a (size, size) image by the region inside(x, y)."""
    at = (torch.arange(size * fine) + 0.5) / fine
    y, x = torch.meshgrid(at, at, indexing="ij")
    return torch.nn.functional.avg_pool2d(inside(x, y).float()[None], fine)[0]


def centres(size=64):
    y, x = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
    return x, y


@pytest.mark.parametrize("edge", [20.0, 20.125, 20.5, 20.8125])
@pytest.mark.parametrize("across", [False, True])
def test_straight_edges_match_coverage(edge, across):
    mask = coverage(lambda x, y: (y if across else x) > edge)
    distance, nearest = edge_distance_px(mask)
    x, y = centres()
    torch.testing.assert_close(distance, (y if across else x) - edge, atol=1e-4, rtol=0)
    along = nearest[0].mT if across else nearest[1]  # (64, 64), the edge crosses its rows
    first = math.floor(edge + 0.5)  # the first pixel that is more than half covered
    assert torch.equal(along, torch.arange(64).clamp_min(first).expand(64, 64))


def test_round_edge_is_unbiased_within_a_tenth_of_a_pixel():
    mask = coverage(lambda x, y: (x - 31.3).square() + (y - 32.9).square() < 20.2**2)
    distance, nearest = edge_distance_px(mask)
    x, y = centres()
    true = 20.2 - ((x - 31.3).square() + (y - 32.9).square()).sqrt()
    near = true.abs() < 6.0
    error = (distance - true)[near]
    assert error.abs().quantile(0.95) < 0.1 and error.abs().max() < 0.3
    assert error.mean().abs() < 0.02
    inside = mask > 0.5
    assert inside[nearest[0], nearest[1]].all()
    row, column = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    assert torch.equal(nearest[:, inside], torch.stack([row, column])[:, inside])


def test_distances_are_clamped_to_a_limit():
    mask = coverage(lambda x, y: (x - 31.3).square() + (y - 32.9).square() < 20.2**2)
    distance, nearest = edge_distance_px(mask)
    limited, same = edge_distance_px(mask, 6.5)
    assert torch.equal(limited, distance.clamp(-6.5, 6.5)) and torch.equal(same, nearest)
    assert 0.2 < float((limited.abs() < 6.5).float().mean()) < 0.8
    assert (edge_distance_px(torch.ones(8, 12), 6.5)[0] == 6.5).all()


@pytest.mark.parametrize(("value", "distance_px"), [(0.0, -20.0), (1.0, 20.0)])
def test_mask_without_an_edge(value, distance_px):
    distance, nearest = edge_distance_px(torch.full((8, 12), value))
    assert (distance == distance_px).all()
    assert nearest.shape == (2, 8, 12) and nearest[0, 5, 7] == 5 and nearest[1, 5, 7] == 7


@pytest.fixture(scope="module", params=["perspective", "orthographic"])
def views(request, make_sphere):
    rig = RigConfig(count=4, width_px=96, height_px=80, kind=request.param)
    return render_views(make_sphere(RADIUS, 5), orbit_cameras(rig)).views


@pytest.fixture(scope="module")
def field():
    """The ball's exact signed distance."""
    size, reach = 81, 0.4
    grid = SdfGrid(torch.zeros(size, size, size), torch.full((3,), -reach), 2 * reach / (size - 1))
    values = grid.points().norm(dim=1) - RADIUS
    return DenseGrid(replace(grid, values=values.reshape(size, size, size)))


@pytest.mark.parametrize("sharpness", [1.0, 1.6])
def test_rendered_opacity_matches_soft_masks(views, field, sharpness):
    level = LevelConfig(60, 1, 1.0, sharpness=sharpness)
    field.set_level(level)
    rays = ray_dataset(views, 5, True)
    soft = soften_masks(rays, views.cameras, sharpness / field.spacing)
    rendered = field.render(rays.origin, rays.direction).opacity
    left, before = ((rendered - b.mask).square().mean().sqrt() for b in (soft, rays))
    assert left < 0.02 and left < 0.4 * before
    assert -0.012 < (rendered - soft.mask).mean() < 0.0  # the band truncates the logistic


def test_colours_are_premultiplied_by_soft_masks(views):
    colour_value = torch.tensor([0.8, 0.4, 0.1])
    coloured = replace(
        views, colour=colour_value * views.masks[..., None] + 1.0 - views.masks[..., None]
    )
    rays = ray_dataset(coloured, 5, True)
    soft = soften_masks(rays, views.cameras, 1.0 / pixel_side(rays, len(views)))
    torch.testing.assert_close(soft.colour, soft.mask[:, None] * colour_value, atol=1e-5, rtol=0)
    outside = rays.mask == 0
    assert (soft.mask[outside] > 0.01).any() and (soft.mask[rays.mask == 1] < 0.99).any()
    for name in ("view", "pixel", "origin", "direction", "normal", "normal_weight", "area"):
        assert getattr(soft, name) is getattr(rays, name)


def test_infinite_sharpness_keeps_whole_pixels(views):
    rays = ray_dataset(views, 5, True)
    soft = soften_masks(rays, views.cameras, 1e6)
    pure = (rays.mask == 0) | (rays.mask == 1)
    torch.testing.assert_close(soft.mask[pure], rays.mask[pure], atol=1e-6, rtol=0)
    torch.testing.assert_close(soft.colour[pure], rays.colour[pure], atol=1e-6, rtol=0)


HULL = HullConfig(resolution=32)


def fused(views, loss=None, **level):
    levels = (LevelConfig(24, 4, 0.5, sdf_lr_cells=0.05, pose_lr=0.0, **level),)
    config = SdfFusionConfig(
        levels=levels, hull=HULL, min_rays=256, check_inputs=False, losses=loss or LossConfig()
    )
    return optimise.fuse_sdf(views, config)


def test_mask_weight_of_a_level_multiplies_that_of_the_loss(views):
    by_level = fused(views, mask_weight=4.0)
    by_loss = fused(views, LossConfig(mask=4.0))
    assert torch.equal(by_level.grid.values, by_loss.grid.values)
    assert not torch.equal(by_level.grid.values, fused(views).grid.values)


def test_soft_masks_are_per_level(views, monkeypatch):
    calls = []
    step = optimise._step

    def watched(run, level, *rest):
        calls.append((level.soft_masks, run.rays.mask.clone(), run.input_rays.mask.clone()))
        step(run, level, *rest)

    monkeypatch.setattr(optimise, "_step", watched)
    levels = tuple(LevelConfig(24, 1, 0.5, soft_masks=soft) for soft in (False, True, False))
    config = SdfFusionConfig(levels=levels, hull=HULL, min_rays=256, check_inputs=False)
    optimise.fuse_sdf(views, config, SILENT)
    assert [soft for soft, _, _ in calls] == [False, True, False]
    for soft, used, given in calls:
        assert torch.equal(used, given) is not soft
