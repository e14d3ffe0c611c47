"""Removal of light: recovery of light and albedo, the gate, what must not change, bad input."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch

from nova3d_core.cameras.cameras import Cameras, cameras_from_orbit, orbit_cameras
from nova3d_core.cameras.orbits import OrbitConfig
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import Cancelled, InputError, StageError
from nova3d_core.evaluation.lights import (
    LIGHTS,
    DistantLight,
    albedo_error,
    lit_views,
    log_correlation,
    nearest_surface,
)
from nova3d_core.io.images.srgb import srgb_from_linear
from nova3d_core.mesh import Mesh
from nova3d_core.progress import SILENT, Progress
from nova3d_core.rendering.config import RenderConfig
from nova3d_core.rendering.views import render_views
from nova3d_core.texturing.config import UnlightConfig
from nova3d_core.texturing.lighting import unlight as unlight_module
from nova3d_core.texturing.lighting.images import light_image, shading_images
from nova3d_core.texturing.lighting.observe import observe_surface, sample_points
from nova3d_core.texturing.lighting.unlight import Unlit, unlight, without_shading
from nova3d_core.views import Views

SIZE_PX = 64
FAST = UnlightConfig(points=1200, steps=80, parsimony_steps=60)


@pytest.fixture(scope="module")
def shape(globe) -> Mesh:
    """The globe in patches of four colours, which are not tied to its normals."""
    azimuth = torch.atan2(globe.vertices[:, 0], globe.vertices[:, 2])
    height = globe.vertices[:, 1]
    index = (torch.floor(azimuth * 3.0) + 2 * torch.floor(height * 9.0)).long().remainder(4)
    palette = torch.tensor(
        [[0.8, 0.75, 0.7], [0.7, 0.3, 0.25], [0.3, 0.5, 0.75], [0.45, 0.6, 0.35]]
    )
    bare = replace(globe, uv=None, texture=None, vertex_colours=palette[index])
    return bare.with_smooth_normals()


def cameras(count: int = 8) -> Cameras:
    """Alternately from above and below."""
    return cameras_from_orbit(
        OrbitConfig(
            RigConfig(width_px=SIZE_PX, height_px=SIZE_PX),
            motion="custom",
            azimuths_deg=tuple(360.0 * index / count for index in range(count)),
            elevations_deg=tuple(35.0 if index % 2 else -35.0 for index in range(count)),
        )
    )


@pytest.fixture(scope="module")
def truth(shape) -> Views:
    return replace(
        render_views(shape, cameras(), RenderConfig(2)).views, normals=None, normal_frame=None
    )


def lit(shape: Mesh, light: DistantLight) -> Views:
    views = lit_views(shape, cameras(), light, RenderConfig(2))
    return replace(views, normals=None, normal_frame=None)


@pytest.fixture(scope="module")
def views(shape) -> Views:
    return lit(shape, LIGHTS["key"])


@pytest.fixture(scope="module")
def unlit(shape, views) -> Unlit:
    return unlight(views, shape, FAST)


def error(found: Views, truth: Views) -> float:
    inside = truth.masks > 0.999
    return albedo_error(found.colour[inside], truth.colour[inside])


@pytest.mark.parametrize("name", ["soft", "key"])
def test_light_and_albedo_come_back(shape, truth, name):
    given = lit(shape, LIGHTS[name])
    unlit = unlight(given, shape, FAST)
    assert unlit.report.is_applied
    assert error(unlit.views, truth) < 0.4 * error(given, truth)
    normals = sample_points(shape, 2000, 0).normal
    assert log_correlation(unlit.light.shading(normals), LIGHTS[name].shading(normals)) > 0.95


def test_unlit_views_stay_bit_for_bit_and_the_reason_is_named(shape, truth, caplog):
    with caplog.at_level(logging.WARNING):
        unlit = unlight(truth, shape, FAST)
    assert torch.equal(unlit.views.colour, truth.colour)
    assert not unlit.report.is_applied
    assert unlit.report.spread < 0.15
    assert "the views count as unlit and are unchanged" in caplog.text
    assert "count as unlit" in unlit.report.to_text()


def test_open_gate_hardly_changes_unlit_views(shape, truth):
    unlit = unlight(truth, shape, replace(FAST, gate=0.0))
    assert unlit.report.is_applied
    assert error(unlit.views, truth) <= 0.03


def test_baked_in_shading_is_no_evidence_for_a_light(shape, truth):
    """One of four materials is darker below: the fit finds no light that explains the others."""
    colours = shape.vertex_colours.clone()
    is_faded = colours[:, 0] > 0.75
    fade = 0.55 - 0.9 * shape.vertices[:, 1]
    colours[is_faded] *= fade.clamp(0.1, 1.0)[is_faded, None]
    mesh = replace(shape, vertex_colours=colours)
    views = replace(
        render_views(mesh, cameras(), RenderConfig(2)).views, normals=None, normal_frame=None
    )
    unlit = unlight(views, mesh, FAST)
    assert unlit.report.spread < 0.05
    assert not unlit.report.is_applied
    assert torch.equal(unlit.views.colour, views.colour)


def test_a_finely_mottled_texture(shape):
    """Its entropy is high with and without light: the spread decides, and weak light stays."""
    random = torch.Generator().manual_seed(0)
    colours = 0.1 + 0.8 * torch.rand(len(shape.vertices), 3, generator=random)
    mesh = replace(shape, vertex_colours=colours)
    truth = render_views(mesh, cameras(), RenderConfig(2)).views
    key, soft = (lit(mesh, LIGHTS[name]) for name in ("key", "soft"))
    unlit = unlight(key, mesh, FAST)
    assert unlit.report.evidence < 0.4
    assert unlit.report.is_applied
    assert error(unlit.views, truth) < 0.4 * error(key, truth)
    unlit = unlight(soft, mesh, FAST)
    assert unlit.report.spread > FAST.gate
    assert not unlit.report.is_applied
    assert "no light explains the colours of all materials" in unlit.report.reason
    assert torch.equal(unlit.views.colour, soft.colour)
    assert unlight(soft, mesh, replace(FAST, gate=0.0)).report.is_applied


def test_strength_scales_the_change(shape, views, truth, unlit):
    half = error(unlight(views, shape, replace(FAST, strength=0.5)).views, truth)
    assert error(views, truth) > half > error(unlit.views, truth)


def test_strength_of_zero_only_shows_the_shading(shape, views, unlit):
    shown = unlight(views, shape, replace(FAST, strength=0.0))
    assert torch.equal(shown.views.colour, views.colour)
    assert torch.equal(shown.shading, unlit.shading)
    assert shown.report.reason == "the strength is 0: the views are unchanged."


def test_background_masks_and_cameras_do_not_change(views, unlit):
    result = unlit.views
    outside = views.masks == 0.0
    assert torch.equal(result.colour[outside], views.colour[outside])
    assert torch.equal(result.masks, views.masks)
    assert torch.equal(result.cameras.world_to_camera, views.cameras.world_to_camera)


def test_same_input_gives_the_same_result(shape, views, unlit):
    assert torch.equal(unlight(views, shape, FAST).views.colour, unlit.views.colour)


def test_uniform_divisor_keeps_silhouettes_on_white():
    """A grey object of 0.5 in linear light, half of it in a silhouette pixel, on white."""
    mask = torch.tensor([[1.0, 0.5, 0.0]])
    grey = 0.5
    image = (grey * mask + 1.0 - mask)[..., None].repeat(1, 1, 3)
    result = without_shading(image, mask, torch.full((1, 3), 0.5))
    own = float(result[0, 0, 0])
    assert own == pytest.approx((1.055 * (2 * 0.21404) ** (1 / 2.4)) - 0.055, abs=1e-4)
    assert float(result[0, 1, 0]) == pytest.approx(0.5 * own + 0.5, abs=1e-5)
    assert float(result[0, 2, 0]) == 1.0


def test_images_of_shading_and_light(views, unlit):
    images = shading_images(unlit)
    assert images.shape == views.colour.shape
    assert bool((images[views.masks == 0.0] == 1.0).all())
    shown = images[views.masks > 0.99]
    assert float(shown.min()) < 0.6 < 0.95 < float(shown.max()) <= 1.0
    light = light_image(unlit.light)
    assert light.shape == (1, 128, 256, 3)
    assert float(light[0, :64].mean()) > float(light[0, 64:].mean())  # the lamps are above


def test_observed_colours_are_the_true_ones(shape, truth):
    surface = observe_surface(shape, truth, 2000, 0, SILENT)
    nearest = nearest_surface(shape, surface.position)
    found = torch.from_numpy(srgb_from_linear(surface.colour.numpy()))
    assert float((found - nearest.colour).abs().median()) < 0.02
    assert surface.contradiction < 0.1


def test_one_contradicting_view_does_not_change_the_median(shape, truth):
    colour = truth.colour.clone()
    colour[3] = torch.where(truth.masks[3, ..., None] > 0.5, 1.0 - colour[3], colour[3])
    same, other = (
        observe_surface(shape, each, 2000, 0, SILENT)
        for each in (truth, replace(truth, colour=colour))
    )
    rows = {tuple(each): index for index, each in enumerate(same.position.tolist())}
    pairs = [(rows[tuple(p)], i) for i, p in enumerate(other.position.tolist()) if tuple(p) in rows]
    first, second = (torch.tensor(index) for index in zip(*pairs, strict=True))
    difference = (same.colour[first] - other.colour[second]).abs().amax(dim=1)
    assert float((difference < 0.02).float().mean()) > 0.8


def test_mesh_needs_neither_uv_nor_normals_nor_colours(shape, views, truth):
    bare = Mesh(shape.vertices, shape.faces)
    result = unlight(views, bare, FAST).views
    assert error(result, truth) < 0.5 * error(views, truth)


def test_views_without_masks_are_matted(shape, views, truth):
    result = unlight(replace(views, masks=None), shape, FAST)
    assert result.views.masks is not None
    assert error(result.views, truth) < 0.5 * error(views, truth)


def test_one_view_warns(shape, views, caplog):
    with caplog.at_level(logging.WARNING):
        unlit = unlight(views[:1], shape, FAST)
    assert "cannot be separated reliably in a single view" in caplog.text
    assert len(unlit.views) == 1


def test_light_that_moves_with_the_camera_is_named(shape, caplog):
    colour, masks = [], []
    for camera in (cameras()[index] for index in range(8)):
        towards = tuple((-camera.view_directions[0]).tolist())
        view = lit_views(shape, camera, DistantLight(0.05, 0.0, ((1.0, towards),)), RenderConfig(1))
        colour.append(view.colour)
        masks.append(view.masks)
    views = Views(cameras(), torch.cat(colour), torch.cat(masks))
    with caplog.at_level(logging.WARNING):
        unlight(views, shape, FAST)
    assert "the light seems to move with the camera" in caplog.text


def test_black_views(shape, truth):
    black = replace(truth, colour=torch.where(truth.masks[..., None] > 0.0, 0.0, truth.colour))
    with pytest.raises(InputError, match="only 0 are neither black nor overexposed"):
        unlight(black, shape, FAST)


def test_overexposed_views(shape, truth):
    with pytest.raises(InputError, match="neither black nor overexposed"):
        unlight(replace(truth, colour=torch.ones_like(truth.colour)), shape, FAST)


def test_mesh_that_does_not_fit_the_views(shape, views):
    small = replace(shape, vertices=0.5 * shape.vertices)
    with pytest.raises(InputError, match="the views do not fit the mesh"):
        unlight(views, small, FAST)


def test_mesh_that_no_view_sees(shape, views):
    aside = replace(shape, vertices=shape.vertices + torch.tensor([50.0, 0.0, 0.0]))
    with pytest.raises((InputError, StageError), match=r"do not fit|no view sees the mesh"):
        unlight(views, aside, FAST)
    with pytest.raises(StageError, match="no view sees the mesh clearly"):
        unlight(views, aside, FAST, check_fit=False)


def test_too_little_memory(shape, views, monkeypatch):
    monkeypatch.setattr(unlight_module, "available_bytes", lambda: 500_000)
    with pytest.raises(InputError, match=r"removing light from 8 views of 64x64 px needs"):
        unlight(views, shape, FAST)


@pytest.mark.parametrize("stage", ["observing", "fitting the light", "removing light"])
def test_cancel_takes_effect_within_a_step(shape, views, stage):
    steps = []

    def report(event):
        if event.stage == stage:
            steps.append(event.step)

    with pytest.raises(Cancelled):
        unlight(views, shape, FAST, Progress(report, lambda: len(steps) >= 3))
    assert len(steps) == 3


def test_progress_counts_both_parts_of_the_fit(shape, views):
    steps = []

    def report(event):
        if event.stage == "fitting the light":
            steps.append((event.step, event.total))

    unlight(views, shape, FAST, Progress(report))
    assert steps == [(step, 140) for step in range(1, 141)]


def test_bad_settings():
    with pytest.raises(InputError, match="unlight strength"):
        UnlightConfig(strength=1.5)
    with pytest.raises(InputError, match="unlight gate"):
        UnlightConfig(gate=-0.1)
    with pytest.raises(InputError, match="unlight lobes"):
        UnlightConfig(lobes=0)


def test_orbit_views_of_a_level_rig_work_too(shape):
    rig = RigConfig(count=6, width_px=SIZE_PX, height_px=SIZE_PX)
    views = lit_views(shape, orbit_cameras(rig), LIGHTS["key"], RenderConfig(1))
    assert unlight(views, shape, FAST).report.is_applied
