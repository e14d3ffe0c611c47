"""Exposure that varies smoothly over a view."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.imaging.warps import bicubic_image
from nova3d_core.rendering.views import render_views
from nova3d_core.texturing import bake
from nova3d_core.texturing.config import BakeConfig
from nova3d_core.texturing.exposure_maps import GainMaps
from nova3d_core.views import Views

CONFIG = BakeConfig(texture_px=128)
RIG = RigConfig(count=12, width_px=96, height_px=96)


@pytest.fixture(scope="module")
def clean(globe) -> Views:
    views = render_views(globe, orbit_cameras(RIG)).views
    white = 1.0 - views.masks[..., None]
    return replace(views, colour=0.8 * (views.colour - white).clamp_min(0.0) + white)


def with_smooth_gains(views: Views, spread: float) -> Views:
    """Views but the first with objects multiplied by random smooth gains."""
    height, width = views.masks.shape[1:]
    nodes = spread * torch.randn(len(views), 3, 4, 4, generator=torch.Generator().manual_seed(2))
    nodes[0] = 0.0
    gains = torch.stack([1.0 + bicubic_image(each, height, width) for each in nodes])
    white = 1.0 - views.masks[..., None]
    colour = gains * (views.colour - white).clamp_min(0.0) + white
    return replace(views, colour=colour.clamp(0.0, 1.0))


def error(baked: bake.BakeResult, truth: bake.BakeResult) -> float:
    seen = (truth.coverage > 0.9) & (truth.mesh.texture < 0.75).all(dim=-1)
    return float((baked.mesh.texture - truth.mesh.texture)[seen].abs().mean())


def test_texture_is_closer_to_the_truth_without_smooth_gains(globe, clean, monkeypatch):
    truth = bake.bake_texture(globe, clean, CONFIG)
    views = with_smooth_gains(clean, 0.1)
    compensated = error(bake.bake_texture(globe, views, CONFIG), truth)
    monkeypatch.setattr(bake, "estimate_gain_maps", lambda *a: None)
    # gains that all views of a point share cannot be distinguished from its colour
    assert compensated < 0.85 * error(bake.bake_texture(globe, views, CONFIG), truth)


def test_views_that_agree_are_left_alone(globe, clean, monkeypatch):
    found, estimate = [], bake.estimate_gain_maps
    monkeypatch.setattr(bake, "estimate_gain_maps", lambda *a: found.append(estimate(*a)))
    views = with_smooth_gains(clean, 0.0)
    views.colour[1:] *= torch.linspace(0.8, 0.9, 11)[:, None, None, None]  # one gain per view
    bake.bake_texture(globe, views, CONFIG)
    assert found == [None]


def test_maps_and_samples_agree(globe, clean, monkeypatch):
    found, estimate = [], bake.estimate_gain_maps

    def spy(observations, *size):
        found.append((observations, estimate(observations, *size)))
        return found[-1][1]

    monkeypatch.setattr(bake, "estimate_gain_maps", spy)
    bake.bake_texture(globe, with_smooth_gains(clean, 0.1), CONFIG)
    observations, maps = found[0]
    assert isinstance(maps, GainMaps) and not maps.log_nodes[0].any()
    ratio = observations.colour / maps.undone(observations, 96, 96).colour
    ids = ((observations.view == 5) & (observations.colour > 0.05).all(dim=1)).nonzero()[:, 0]
    column, row = observations.pixels[ids].long().T
    image = maps.of_view(5, 96, 96)[row, column]
    assert (ratio[ids] / image - 1).abs().max() < 0.02
    undone = maps.undone(observations, 96, 96)
    assert spread(undone) < 0.6 * spread(observations)


def spread(observations) -> float:
    """Mean standard deviation of the colours of a texel's views, among those that face it."""
    ids = ((observations.cosine > 0.4) & (observations.high < 0.98).all(dim=1)).nonzero()[:, 0]
    texel, colour = observations.texel[ids], observations.colour[ids]
    count = torch.bincount(texel, minlength=observations.num_texels).clamp_min(1)[:, None]
    zero = torch.zeros(observations.num_texels, 3)
    mean = zero.index_add(0, texel, colour) / count
    square = zero.index_add(0, texel, (colour - mean[texel]).square()) / count
    return float(square.sqrt()[count[:, 0] > 1].mean())
