"""Warps of views, registered to images whose displacement is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nova3d_core.cameras.cameras import cameras_at, orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import Cancelled
from nova3d_core.fusion.poses.view_warps import (
    NODES,
    WarpRegistration,
    displacement_rms_px,
    estimate_warps,
    image_features,
    unexplained_axes,
    warp_rays,
    warp_views,
    without_common_scale,
)
from nova3d_core.fusion.rays import ray_dataset
from nova3d_core.imaging.warps import smooth_image
from nova3d_core.progress import Progress
from nova3d_core.rendering.views import render_views

from .bumpy_ball import bumpy_ball

SIZE, CELL = 96, 0.01


@pytest.fixture(scope="module")
def views():
    """Three views of a bumpy ball with waves of colour."""
    rig = RigConfig(count=3, width_px=SIZE, height_px=SIZE)
    return render_views(bumpy_ball(), orbit_cameras(rig)).views


@pytest.fixture(scope="module")
def nodes():
    """(V, 2, n, n) random displacements in pixels; none of view 0."""
    random = torch.Generator().manual_seed(4)
    nodes = 2.0 * torch.randn(3, 2, NODES, NODES, generator=random)
    nodes[0] = 0.0
    return nodes


@pytest.fixture(scope="module")
def bent(views, nodes):
    return warp_views(views, nodes / SIZE)


def features_at(views, rays):
    """(7, N) features of other views at the pixels of rays."""
    column, row = rays.pixel.long().unbind(dim=1)
    mask = views.masks[rays.view, row, column]
    colour = (views.colour[rays.view, row, column] - (1.0 - mask)[:, None]).clamp_min(0.0)
    normal = views.normals[rays.view, row, column]
    return image_features(replace(rays, mask=mask, colour=colour, normal=normal))


def estimated(rays, views, target):
    start = torch.zeros(3, 2, NODES, NODES)
    return estimate_warps(rays, views.cameras, target, start, torch.ones(len(rays)), CELL)


def test_no_displacement_changes_nothing(views):
    rays = ray_dataset(views, 5, True)
    same = warp_rays(rays, views.cameras, torch.zeros(3, 2, NODES, NODES))
    for name in ("mask", "colour"):
        assert torch.allclose(getattr(same, name), getattr(rays, name), atol=1e-5)
    inside = rays.mask > 0.5
    assert torch.allclose(same.normal[inside], rays.normal[inside], atol=1e-4)
    assert torch.allclose(same.normal_weight, rays.normal_weight, atol=1e-4)


def test_rays_and_images_are_warped_alike(views, nodes, bent):
    rays = warp_rays(ray_dataset(views, 12, True), views.cameras, nodes)
    column, row = rays.pixel.long().unbind(dim=1)
    assert torch.allclose(rays.mask, bent.masks[rays.view, row, column], atol=1e-4)
    inside = rays.mask > 0.99
    colour = bent.colour[rays.view, row, column]
    assert torch.allclose(rays.colour[inside], colour[inside], atol=1e-2)
    cosine = (rays.normal * bent.normals[rays.view, row, column]).sum(dim=1)[inside]
    assert float(cosine.quantile(0.02)) > 0.999


def test_known_displacement_is_found_and_undone(views, nodes, bent):
    rays = ray_dataset(bent, 5, True)
    target = features_at(views, rays)
    found = estimated(rays, views, target)
    assert torch.equal(found[0], torch.zeros_like(found[0]))  # view 0 is exact
    undone = warp_rays(rays, views.cameras, found)
    before = (image_features(rays) - target).square().sum(dim=0)
    after = (image_features(undone) - target).square().sum(dim=0)
    for view in (1, 2):
        of_view = rays.view == view
        assert float(after[of_view].mean()) < 0.05 * float(before[of_view].mean())
        # bent(p) = clean(p + d(p)), so p + found(p) is where bent shows clean(p)
        inverse, forward = (smooth_image(each[view], SIZE, SIZE) for each in (found, nodes))
        pixel = rays.pixel[of_view & (rays.mask > 0.99)].long()
        sought, given = (field[pixel[:, 1], pixel[:, 0]] for field in (inverse, forward))
        left = (sought + given).square().sum(dim=1).mean().sqrt()
        assert float(left) < 0.4 * float(given.square().sum(dim=1).mean().sqrt())


def test_estimate_is_repeatable_and_ignores_pixels_without_weight(views, bent):
    rays = ray_dataset(bent, 5, True)
    target = features_at(views, rays)
    found = estimated(rays, views, target)
    assert torch.equal(found, estimated(rays, views, target))
    spoilt, weight = target.clone(), torch.ones(len(rays))
    spoilt[:, rays.view == 2] = 0.0
    weight[rays.view == 2] = 0.0
    start = torch.zeros_like(found)
    partial = estimate_warps(rays, views.cameras, spoilt, start, weight, CELL)
    assert torch.equal(partial[1], found[1])
    assert torch.allclose(partial[2], torch.zeros_like(partial[2]), atol=1e-6)


def test_warps_stay_inactive_where_views_agree(views, bent):
    rays = ray_dataset(views, 5, True)
    warps = WarpRegistration(rays, views.cameras)
    assert warps.is_due
    assert not warps.update(features_at(views, rays), torch.ones(len(rays)), CELL)
    assert not warps.is_due and warps.nodes() is None and warps.rms_px() == ()
    # what comes later does not matter
    other = WarpRegistration(ray_dataset(bent, 5, True), views.cameras)
    given = other.given
    assert other.update(features_at(views, given), torch.ones(len(given)), CELL)
    assert other.is_due and other.nodes().shape == (3, 2, NODES, NODES)
    found = displacement_rms_px(given, views.cameras, other.nodes() * SIZE)
    assert other.rms_px() == pytest.approx(found.tolist(), rel=1e-4)
    assert other.rms_px()[0] == 0.0 and min(other.rms_px()[1:]) > 0.5


def test_exact_view_has_more_weight_where_the_others_are_warped(views, bent):
    warps = WarpRegistration(ray_dataset(bent, 5, True), views.cameras)
    given = warps.given
    warps.update(features_at(views, given), torch.ones(len(given)), CELL)
    rays, front = warps.rays(), given.view == 0
    ratio = rays.normal_weight[front] / given.normal_weight[front]
    assert torch.allclose(ratio[given.normal_weight[front] > 0], torch.tensor(4.0))
    assert torch.equal(rays.colour[front], given.colour[front])


def test_common_scale_is_removed_and_differences_of_scale_are_kept(views, nodes):
    rays = ray_dataset(views, 5, True)
    plain = without_common_scale(rays, views.cameras, nodes)
    again = without_common_scale(rays, views.cameras, plain)
    assert torch.allclose(plain, again, atol=1e-4)  # a projection
    axis = (torch.arange(NODES) - 1.0) / (NODES - 3) * SIZE
    position = torch.stack([axis.expand(NODES, NODES), axis[:, None].expand(NODES, NODES)])
    scaled = nodes.clone()
    for view in (1, 2):
        inside = (rays.view == view) & (rays.mask > 0.5)
        centre = rays.pixel[inside].mean(dim=0)
        factor = torch.tensor([0.04, -0.02])[:, None, None]
        scaled[view] += factor * (position - centre[:, None, None])
    assert torch.allclose(without_common_scale(rays, views.cameras, scaled), plain, atol=1e-3)
    alone = nodes.clone()
    alone[1] = scaled[1]
    kept = without_common_scale(rays, views.cameras, alone) - plain
    assert torch.allclose(kept[1], (scaled[1] - nodes[1]) / 2, atol=1e-3)


def test_only_displacements_across_the_orbit_count_as_contradictions(views, nodes):
    axes = unexplained_axes(views.cameras)
    rays = ray_dataset(views, 5, True)
    along, across = nodes.clone(), nodes.clone()
    along[:, 1], across[:, 0] = 0.0, 0.0
    for displaced, factor in ((along, 0.0), (across, 2.0**0.5)):
        total = displacement_rms_px(rays, views.cameras, displaced)
        counted = displacement_rms_px(rays, views.cameras, displaced, axes)
        assert torch.allclose(counted, factor * total, atol=1e-5)
    rolled = replace(views.cameras, world_to_camera=quarter_turn() @ views.cameras.world_to_camera)
    assert torch.allclose(unexplained_axes(rolled), axes.flip(1, 2), atol=1e-5)
    elevations = [0.0] * 4 + [89.0, -89.0]
    everywhere = cameras_at([0.0, 90.0, 180.0, 270.0, 0.0, 0.0], elevations, RigConfig())
    assert torch.allclose(unexplained_axes(everywhere), torch.eye(2).expand(6, 2, 2))


def quarter_turn() -> torch.Tensor:
    """A rotation of cameras about their own axes by 90 degrees."""
    turn = torch.eye(4)
    turn[:2, :2] = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    return turn


def test_cancel_takes_effect_before_the_next_view(views, bent):
    rays = ray_dataset(bent, 5, True)
    asked = []

    def is_cancelled():
        asked.append(True)
        return len(asked) == 2

    progress = Progress(is_cancelled=is_cancelled)
    with pytest.raises(Cancelled):
        WarpRegistration(rays, views.cameras).update(
            features_at(views, rays), torch.ones(len(rays)), CELL, progress
        )
    assert len(asked) == 2
