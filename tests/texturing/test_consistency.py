"""Inconsistent views: which colours win, and what does not count as inconsistent."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nova3d_core.cameras.cameras import cameras_at, orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import InputError
from nova3d_core.mesh import Mesh
from nova3d_core.meshing.config import UnwrapConfig
from nova3d_core.meshing.unwrap.unwrap import unwrap
from nova3d_core.rendering.views import render_views
from nova3d_core.texturing.bake import BakeResult, bake_texture
from nova3d_core.texturing.config import BakeConfig
from nova3d_core.texturing.consistency import consistency_maps
from nova3d_core.texturing.observations import Observations
from nova3d_core.texturing.texels import rasterise_texels
from nova3d_core.views import Views

CONFIG = BakeConfig(texture_px=128)
RIG = RigConfig(count=12, width_px=128, height_px=128)
BLUE = torch.tensor([0.1, 0.2, 0.9])


@pytest.fixture(scope="module")
def solid(l_solid) -> Mesh:
    """The grey L with its red face, unwrapped, with face normals."""
    flat = replace(l_solid, normals=l_solid.face_normals.repeat_interleave(2, dim=0))
    return unwrap(flat, UnwrapConfig(method="box"), texture_px=CONFIG.texture_px).mesh


@pytest.fixture(scope="module")
def views(solid) -> Views:
    return render_views(solid, orbit_cameras(RIG)).views


@pytest.fixture(scope="module")
def truth(solid, views) -> BakeResult:
    return bake_texture(solid, views, CONFIG)


def recoloured(views: Views, view: int, where: slice = slice(None)) -> Views:
    """The views with the object blue in one of them, in the given rows or everywhere."""
    colour = views.colour.clone()
    mask = views.masks[view, where, :, None]
    colour[view, where] = BLUE * mask + (1.0 - mask)
    return replace(views, colour=colour)


def colours_at_texels(mesh: Mesh, texture: torch.Tensor) -> torch.Tensor:
    """(T, 3) of the texels in charts."""
    return texture.reshape(-1, 3)[rasterise_texels(mesh, texture.shape[0]).index]


def differences(mesh: Mesh, a: BakeResult, b: BakeResult) -> torch.Tensor:
    """Maximum difference (P,) over the channels, at the P texels with full coverage in both."""
    coverage = colours_at_texels(
        mesh, torch.minimum(a.coverage, b.coverage)[..., None].expand(-1, -1, 3)
    )
    colours = [colours_at_texels(mesh, baked.mesh.texture) for baked in (a, b)]
    return (colours[0] - colours[1]).abs().amax(dim=1)[coverage[:, 0] == 1.0]


def test_texels_take_the_colour_of_the_majority(solid, views, truth):
    broken = recoloured(views, 5)
    for consistent in (replace(CONFIG, exposure=False), CONFIG):
        assert differences(solid, bake_texture(solid, broken, consistent), truth).max() < 0.02
    plain = replace(CONFIG, exposure=False, consistency=False)
    assert differences(solid, bake_texture(solid, broken, plain), truth).max() > 0.2


def test_recoloured_band_leaves_no_rim(solid, views, truth):
    error = differences(
        solid, bake_texture(solid, recoloured(views, 1, slice(50, 75)), CONFIG), truth
    )
    assert error.max() < 0.06  # next to the red face, whose edge each view blurs differently
    assert error.mean() < 0.0005


def test_consistency_does_not_change_clean_views(globe):
    checks = (globe.vertices * 30).sin().prod(dim=1, keepdim=True) * 0.4 + 0.5
    chequered = replace(globe, vertex_colours=checks.expand(-1, 3).contiguous())
    clean = render_views(chequered, orbit_cameras(RIG)).views
    plain = bake_texture(chequered, clean, replace(CONFIG, exposure=False, consistency=False))
    full = bake_texture(chequered, clean, CONFIG)
    assert (plain.mesh.texture - full.mesh.texture).abs().max() < 1 / 255
    assert (full.coverage - plain.coverage).abs().max() < 1 / 255


def test_first_view_wins_against_a_single_other_view(globe):
    cameras = cameras_at([0.0, 30.0], [0.0, 0.0], RigConfig())
    grey = replace(globe, vertex_colours=torch.full_like(globe.vertices, 0.5))
    pair = render_views(grey, cameras).views
    both = rasterise_texels(globe, CONFIG.texture_px).normal
    both = (both @ -cameras.view_directions.T > 0.8).all(dim=1)
    for wrong in (0, 1):
        baked = bake_texture(grey, recoloured(pair, wrong), replace(CONFIG, exposure=False))
        expected = BLUE if wrong == 0 else torch.full((3,), 0.5)
        error = (colours_at_texels(globe, baked.mesh.texture)[both] - expected).abs()
        assert error.max() < 0.01
    # with equal votes no view is suppressed
    equal = replace(CONFIG, exposure=False, reference_view_votes=1.0)
    mixed = bake_texture(grey, recoloured(pair, 1), equal).mesh.texture
    error = (colours_at_texels(globe, mixed)[both] - 0.5).abs().amax(dim=1)
    assert error.median() > 0.05


def observations_of(low: torch.Tensor, high: torch.Tensor) -> Observations:
    """One texel at the centre of V images of 9 x 9, given its colour range in each (V, 3)."""
    count = len(low)
    return Observations(
        num_texels=1,
        num_views=count,
        texel=torch.zeros(count, dtype=torch.long),
        view=torch.arange(count),
        pixels=torch.full((count, 2), 4.5),
        cosine=torch.ones(count),
        confidence=torch.ones(count),
        colour=(low + high) / 2,
        low=low,
        high=high,
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.5, 0.5, 0.5, 0.5], [1, 1, 1, 1]),
        ([0.5, 0.5, 0.9, 0.5], [1, 1, 0, 1]),
        ([0.9, 0.5, 0.5, 0.5], [1, 1, 1, 1]),  # view 0 has as many votes as the other three
        ([0.9, 0.5, 0.5, 0.9], [1, 0, 0, 1]),
        ([0.5, 0.52, 0.54, 0.53], [1, 1, 1, 1]),  # within the tolerance
    ],
)
def test_votes_of_a_single_texel(values, expected):
    colours = torch.tensor(values)[:, None].expand(-1, 3).contiguous()
    maps = consistency_maps(observations_of(colours, colours), CONFIG, 9, 9)
    assert maps[:, 4, 4].tolist() == expected
    assert maps.shape == (4, 9, 9)


def test_blurred_edge_is_not_inconsistent():
    # three views see white next to black, one only the grey in between
    low = torch.tensor([0.0, 0.0, 0.45, 0.0])[:, None].expand(-1, 3).contiguous()
    high = torch.tensor([1.0, 1.0, 0.55, 1.0])[:, None].expand(-1, 3).contiguous()
    assert consistency_maps(observations_of(low, high), CONFIG, 9, 9).min() == 1.0


def test_pixels_without_samples_are_consistent():
    colours = torch.tensor([0.5, 0.5, 0.9, 0.5])[:, None].expand(-1, 3).contiguous()
    maps = consistency_maps(observations_of(colours, colours), CONFIG, 64, 64)
    assert maps[2, 4, 4] == 0.0
    assert maps[2, 20:, 20:].min() == 1.0


class PoolingTaps(TorchDispatchMode):
    """Counts the taps of pooling operations: outputs times window."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if "pool2d" in str(function):
            first = result[0] if isinstance(result, tuple) else result
            window = args[1]
            self.count += first.numel() * math.prod(window if len(window) == 2 else window * 2)
        return result


def scattered_observations(scale: int) -> Observations:
    """2,000 texels in 4 images of 300 x 200 px, times `scale`; view 2 differs in a square."""
    count = 2000
    position = torch.rand(count, 2, generator=torch.Generator().manual_seed(0))
    pixels = (position * torch.tensor([300.0, 200.0]))[:, None].expand(-1, 4, -1).reshape(-1, 2)
    view = torch.arange(4).repeat(count)
    wrong = (view == 2) & ((pixels > 50.0) & (pixels < 130.0)).all(dim=1)
    colour = torch.where(wrong, 0.9, 0.5)[:, None].expand(-1, 3).contiguous()
    return Observations(
        num_texels=count,
        num_views=4,
        texel=torch.arange(count).repeat_interleave(4),
        view=view,
        pixels=pixels * scale,
        cosine=torch.ones(len(view)),
        confidence=torch.ones(len(view)),
        colour=colour,
        low=colour,
        high=colour,
    )


def test_cost_and_result_do_not_depend_on_the_size_of_large_images():
    taps, maps = [], []
    for scale in (3, 6, 12):
        with PoolingTaps() as pooling:
            observations = scattered_observations(scale)
            maps.append(consistency_maps(observations, CONFIG, 200 * scale, 300 * scale))
        taps.append(pooling.count)
    assert taps[0] == taps[1] == taps[2] > 0
    for scale, finer in zip((2, 4), maps[1:], strict=True):
        means = torch.nn.functional.avg_pool2d(finer[None], scale)[0]
        assert (means - maps[0]).abs().mean() < 0.002
        assert finer[2, 90 * scale * 3, 90 * scale * 3] == 0.0
        assert finer[:2].min() == 1.0


def test_conflict_map_of_ones_equals_leaving_the_view_out(solid, views):
    broken = recoloured(views, 4)
    conflict = torch.zeros(broken.colour.shape[:3])
    conflict[4] = 1.0
    rest = [view for view in range(len(views)) if view != 4]
    with_map = bake_texture(solid, broken, CONFIG, conflict=conflict)
    without = bake_texture(solid, broken[rest], CONFIG)
    assert torch.equal(with_map.mesh.texture, without.mesh.texture)
    assert torch.equal(with_map.coverage, without.coverage)
    assert torch.equal(with_map.gains[rest], without.gains)
    assert torch.equal(with_map.gains[4], torch.ones(3))


def test_conflict_map_acts_locally(solid, views):
    plain = replace(CONFIG, exposure=False, consistency=False)
    broken = recoloured(views, 1, slice(50, 75))
    conflict = torch.zeros(broken.colour.shape[:3])
    conflict[1, 48:77] = 1.0
    truth = bake_texture(solid, views, plain)
    error = differences(solid, bake_texture(solid, broken, plain, conflict=conflict), truth)
    assert error.max() < 0.06
    assert error.mean() < 0.0005
    assert differences(solid, bake_texture(solid, broken, plain), truth).max() > 0.2
    nothing = bake_texture(solid, broken, plain, conflict=torch.zeros_like(conflict))
    assert torch.equal(nothing.mesh.texture, bake_texture(solid, broken, plain).mesh.texture)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda maps: maps[1:], "conflict"),
        (lambda maps: maps[:, ::2], "conflict"),
        (lambda maps: maps + 1.5, "conflict"),
        (lambda maps: maps * torch.nan, "conflict"),
    ],
)
def test_invalid_conflict_maps_are_errors(solid, views, change, message):
    with pytest.raises(InputError, match=message):
        bake_texture(solid, views, CONFIG, conflict=change(torch.zeros(views.colour.shape[:3])))


def test_baking_is_deterministic(solid, views):
    runs = [bake_texture(solid, recoloured(views, 3), CONFIG) for _ in range(2)]
    assert torch.equal(runs[0].mesh.texture, runs[1].mesh.texture)
    assert torch.equal(runs[0].gains, runs[1].gains)


@pytest.mark.parametrize(
    "wrong",
    [
        {"consistency_tolerance": 0.2},
        {"consistency_tolerance": -0.1},
        {"consistency_limit": float("nan")},
        {"reference_view_votes": 0.0},
    ],
)
def test_settings_out_of_range_are_errors(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        BakeConfig(**wrong)
