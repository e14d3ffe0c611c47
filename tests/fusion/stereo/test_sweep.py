"""Plane sweep around a surface: correlation, depths, occlusion, both implementations."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nova3d_core.cameras.cameras import cameras_at, orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.fusion.stereo import torch_impl
from nova3d_core.fusion.stereo.confidence import patch_confidence
from nova3d_core.fusion.stereo.constants import NO_SCORE, REACH_PX
from nova3d_core.fusion.stereo.patches import SurfaceMaps, make_patches, neighbour_table
from nova3d_core.fusion.stereo.sweep import aggregate, find_peaks

from .scenes import centres_on, images_of, views_of

TAPS = (2 * REACH_PX + 1) ** 2 // 2 + 1
OFFSETS = torch.linspace(-0.03, 0.03, 21)
STEP = 0.003
MAX_STEP = 0.1


@pytest.fixture(params=["warp", "torch"])
def sweep_scores(request):
    if request.param == "torch":
        return torch_impl.sweep_scores
    pytest.importorskip("warp")
    from nova3d_core.fusion.stereo import warp_impl

    return warp_impl.sweep_scores


def swept(sweep_scores, views, maps, pixel=None, images=None):
    pixel = centres_on(maps, views) if pixel is None else pixel
    patches = make_patches(views.cameras, pixel, maps)
    images = images_of(views) if images is None else images
    perspective = views.cameras.kind == "perspective"
    return sweep_scores(images, maps.depth_z, patches, OFFSETS, MAX_STEP, perspective)


def peaks_of(scores, pixel, views):
    shape = (len(views), *(side // 2 for side in views.masks.shape[1:]))
    view, row, column = pixel.unbind(dim=1)
    index = (view * shape[1] + row // 2) * shape[2] + column // 2
    return find_peaks(aggregate(scores, index, shape, 1), OFFSETS)


@pytest.mark.parametrize(
    ("gain", "offset", "expected"),
    [(1.0, 0.0, 1.0), (0.5, 0.0, 1.0), (0.4, 0.3, 1.0), (-0.7, 0.9, -1.0)],
)
def test_correlation_ignores_gain_and_offset(gain, offset, expected):
    a = torch.rand(50, 1, TAPS, 3, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(50, 1, TAPS, dtype=torch.bool)
    score = torch_impl._normalised(a, gain * a + offset, valid)
    # the noise floor costs at most a hundredth
    torch.testing.assert_close(score, torch.full((50, 1), expected), atol=0.01, rtol=0)


def test_correlation_of_different_or_flat_patches_is_small():
    random = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 400, 1, TAPS, 3, generator=random)
    valid = torch.ones(400, 1, TAPS, dtype=torch.bool)
    assert float(torch_impl._normalised(a, b, valid).mean().abs()) < 0.02
    grey = 0.5 + 0.002 * (a - 0.5)  # half a step of 8 bits
    assert float(torch_impl._normalised(grey, grey, valid).max()) < 0.01


def test_correlation_counts_valid_taps_only():
    a = torch.rand(20, 1, TAPS, 3, generator=torch.Generator().manual_seed(0))
    valid = torch.rand(20, 1, TAPS, generator=torch.Generator().manual_seed(1)) < 0.8
    expected = torch_impl._normalised(a, a, valid)
    changed = torch.where(valid[..., None], a, 7.0)
    torch.testing.assert_close(torch_impl._normalised(a, changed, valid), expected)
    few = torch.arange(TAPS) < 14
    assert (torch_impl._normalised(a, a, few.expand(20, 1, -1)) == -2.0).all()


@pytest.mark.parametrize("shift", [-0.011, 0.0, 0.007])
@pytest.mark.parametrize("kind", ["perspective", "orthographic"])
@pytest.mark.parametrize("name", ["bowl", "ball"])
def test_finds_the_depth_of_a_shifted_surface(sweep_scores, name, kind, shift):
    """To a tenth of a step, and without bias, on curved surfaces."""
    views, maps = views_of(name, kind)
    moved = replace(maps, depth_z=torch.where(maps.depth_z > 0, maps.depth_z + shift, 0.0))
    pixel = centres_on(maps, views)
    peaks = peaks_of(swept(sweep_scores, views, moved, pixel), pixel, views)
    sure = patch_confidence(peaks, 0.0156) > 0.3
    assert float(sure.float().mean()) > 0.5
    error = peaks.offset[sure] + shift
    assert float(error.abs().median()) < 0.2 * STEP
    assert abs(float(error.median())) < 0.15 * STEP
    assert float((error.abs() < STEP).float().mean()) > 0.9


def test_implementations_are_equal():
    pytest.importorskip("warp")
    from nova3d_core.fusion.stereo import warp_impl

    for kind in ("perspective", "orthographic"):
        views, maps = views_of("bowl", kind)
        fast, plain = (swept(each.sweep_scores, views, maps) for each in (warp_impl, torch_impl))
        assert bool((plain > 0.9).any()) and bool((plain == NO_SCORE).any())
        assert ((fast == NO_SCORE) == (plain == NO_SCORE)).float().mean() > 0.9999
        both = (fast > NO_SCORE) & (plain > NO_SCORE)
        off = (fast - plain)[both].abs()
        # taps that rounding moves across the edge of a mask change single scores
        assert float(off.quantile(0.999)) < 1e-3 and float(off.mean()) < 1e-5


def test_repeats_for_any_number_of_threads(sweep_scores):
    views, maps = views_of("bowl")
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(swept(sweep_scores, views, maps))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)


def test_gains_of_a_view_do_not_change_its_depths(sweep_scores):
    views, maps = views_of("bowl")
    pixel = centres_on(maps, views)
    images = images_of(views)
    darker = images.clone()
    darker[1::2, ..., :3] = 0.6 * darker[1::2, ..., :3] + 0.1
    peaks = [
        peaks_of(swept(sweep_scores, views, maps, pixel, each), pixel, views)
        for each in (images, darker)
    ]
    sure = patch_confidence(peaks[0], 0.0156) > 0.3
    off = (peaks[0].offset - peaks[1].offset)[sure].abs()
    assert float(off.median()) < 0.05 * STEP and float(off.quantile(0.9)) < 0.2 * STEP


def test_no_confidence_without_texture(sweep_scores):
    views, maps = views_of("bowl")
    noise = torch.randn(views.colour.shape, generator=torch.Generator().manual_seed(0)) / 512
    images = torch.cat([0.6 + noise, views.masks[..., None]], dim=-1)
    pixel = centres_on(maps, views)
    peaks = peaks_of(swept(sweep_scores, views, maps, pixel, images), pixel, views)
    assert float(patch_confidence(peaks, 0.0156).max()) == 0.0


def test_neighbours_behind_another_surface_are_ignored():
    views, maps = views_of("bowl")
    pixel = centres_on(maps, views)
    pixel = pixel[pixel[:, 0] == 2]
    before = make_patches(views.cameras, pixel, maps)
    assert bool((before.neighbours == 3).any())
    near = maps.depth_z.clone()
    near[3] = torch.where(near[3] > 0, near[3] - 0.5, 0.0)  # something in front, in view 3 only
    after = make_patches(views.cameras, pixel, SurfaceMaps(near, maps.normal))
    assert not bool((after.neighbours == 3).any())
    others = before.neighbours != 3
    assert torch.equal(after.neighbours[others], before.neighbours[others])


def test_neighbours_that_see_only_the_back_are_ignored():
    views, maps = views_of("ball")
    pixel = centres_on(maps, views)
    patches = make_patches(views.cameras, pixel, maps)
    normal = maps.normal[tuple(pixel.T)]
    seen = patches.neighbours >= 0
    axes = views.cameras.view_directions[patches.neighbours.clamp_min(0)]
    cosine = -(normal[:, None] * axes).sum(dim=2)
    assert float(cosine[seen].min()) > 0.0


def test_patches_project_as_the_cameras_do():
    for kind in ("perspective", "orthographic"):
        views, maps = views_of("bowl", kind)
        cameras = views.cameras
        pixel = centres_on(maps, views, 8)
        patches = make_patches(cameras, pixel, maps)
        z, dx, dy = 1.7, 3, -2
        scale = z if kind == "perspective" else 1.0
        steps = dx * patches.column_step + dy * patches.row_step
        h = patches.origin + z * patches.axis + scale * steps
        for patch, neighbour in ((patches.neighbours >= 0).nonzero()[::7]).tolist():
            view, row, column = pixel[patch].tolist()
            at = torch.tensor([[column + dx + 0.5, row + dy + 0.5]])
            origin, direction = (part[0, 0] for part in cameras[view].rays(at))
            along = float(direction @ cameras.view_directions[view])
            point = origin + z / along * direction
            other = int(patches.neighbours[patch, neighbour])
            expected = cameras[other].project(point[None])[0][0, 0]
            found = h[patch, neighbour, :2] / h[patch, neighbour, 2]
            torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-4)


def test_neighbours_of_an_orbit_are_the_nearest_views():
    table = neighbour_table(orbit_cameras(RigConfig(count=16)))
    for view in range(16):
        assert set(table[view].tolist()) == {(view + step) % 16 for step in (-2, -1, 1, 2)}


def test_views_too_close_or_too_far_are_no_neighbours():
    rig = RigConfig(width_px=32, height_px=32)
    assert (neighbour_table(cameras_at([0, 1, 90, 180], [0] * 4, rig)) == -1).all()
    assert (neighbour_table(cameras_at([0], [0], rig)) == -1).all()


def test_peak_of_a_parabola_is_exact():
    centre, height, curvature = 0.0041, 0.8, 900.0
    scores = height - curvature / 2 * (OFFSETS - centre).square()
    peaks = find_peaks(scores[None], OFFSETS)
    assert abs(float(peaks.offset) - centre) < 1e-5
    assert abs(float(peaks.curvature) / curvature - 1) < 1e-3


def test_peaks_at_the_ends_of_the_band_have_no_confidence():
    rising = torch.linspace(0.2, 0.95, len(OFFSETS))
    bump = 0.5 * torch.exp(-((OFFSETS + 0.015) / 0.004).square())
    for scores in (rising, rising.flip(0), rising.maximum(bump)):
        assert float(patch_confidence(find_peaks(scores[None], OFFSETS), 0.0056)) == 0.0
