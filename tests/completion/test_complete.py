"""Completion end to end: known answers, what must not change, cost, cancels, bad input."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch

from nova3d_core.cameras.cameras import cameras_at
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.completion import complete
from nova3d_core.completion.complete import complete_texture, object_mask
from nova3d_core.completion.config import COMPLETION_METHODS, CompletionConfig
from nova3d_core.completion.prior import STAGE
from nova3d_core.completion.visibility import best_cosines, unseen_weight
from nova3d_core.diffusion.families import GuidanceConfig
from nova3d_core.errors import Cancelled, InputError, StageError
from nova3d_core.mesh import Mesh
from nova3d_core.progress import Progress
from nova3d_core.rendering.raycast import RayCaster
from nova3d_core.rendering.views import render_views
from nova3d_core.texturing.texels import rasterise_texels
from nova3d_core.views import Views

from .conftest import front_views
from .models import COLOUR, gaussian_model

RESAMPLE = CompletionConfig(steps=6)
BACK = (slice(20, 28), slice(44, 52))
"""Texels around azimuth 180 at the equator, which the front views do not see."""


@pytest.fixture(scope="module")
def model():
    return gaussian_model()


@pytest.fixture(scope="module")
def completed(textured, views, model):
    return complete_texture(textured, views, model, config=RESAMPLE)


def mean_error(texture: torch.Tensor) -> float:
    """Mean absolute difference from the model's colour at the back."""
    return float((texture[BACK] - torch.tensor(COLOUR)).abs().mean())


def test_unseen_texels_take_the_models_colour(textured, completed):
    assert mean_error(textured.texture) > 0.1
    assert mean_error(completed.mesh.texture) < 0.02
    assert float(completed.coverage[BACK].min()) > 0.95


def seen_texels(mesh: Mesh, views: Views) -> torch.Tensor:
    """(h, w) bool: texels with M = 0."""
    texels = rasterise_texels(mesh, (48, 96))
    cosines = best_cosines(RayCaster.from_mesh(mesh), texels, views.cameras)
    seen = torch.zeros(48, 96, dtype=torch.bool)
    seen.view(-1)[texels.index] = unseen_weight(cosines) == 0.0
    return seen


def test_seen_texels_stay_bit_for_bit(textured, views, completed):
    seen = seen_texels(textured, views)
    same = (completed.mesh.texture == textured.texture).all(dim=-1)
    assert bool(same[seen].all())
    assert bool((completed.coverage[seen] == 0.0).all())
    front = (slice(16, 32), [0, 4, 8, 12, 84, 88, 92])  # azimuths -45 to 45
    assert bool(seen[front].all()) and bool(same[front].all())
    assert 0.3 < float(seen.float().mean()) < 0.8
    for name in ("vertices", "faces", "uv", "normals"):
        assert torch.equal(getattr(completed.mesh, name), getattr(textured, name))


def test_preview_shows_the_orbit_from_the_input_view_on(completed, views):
    frames = completed.preview
    assert frames.shape == (21, 32, 32, 3)
    front = torch.nn.functional.interpolate(views.colour[:1].movedim(-1, 1), (32, 32), mode="area")
    # the family's camera is at another distance, so only the centre is compared
    centre = (slice(12, 20), slice(12, 20))
    assert float((frames[0][centre] - front[0].movedim(0, -1)[centre]).abs().mean()) < 0.1
    assert float((frames[10][14:18, 14:18] - torch.tensor(COLOUR)).abs().mean()) < 0.02


def test_the_report_names_passes_and_fractions(completed):
    report = completed.report
    assert report.passes == 2 * 6  # guidance takes two passes
    assert 0.1 < report.generated <= report.unseen < 0.7
    text = " ".join(report.lines())
    assert "SV3D p" in text and "12 passes" in text and "%" in text


def test_the_seed_determines_the_texture(textured, views):
    model = gaussian_model(variance=0.05)
    first, again = (
        complete_texture(textured, views, model, config=RESAMPLE).mesh.texture for _ in range(2)
    )
    assert torch.equal(first, again)
    other = complete_texture(textured, views, model, config=replace(RESAMPLE, seed=1))
    assert not torch.equal(first, other.mesh.texture)


def test_it_runs_in_inference_mode(textured, views, model, completed):
    with torch.inference_mode():
        result = complete_texture(textured, views, model, config=RESAMPLE)
    assert torch.equal(result.mesh.texture, completed.mesh.texture)


@pytest.mark.parametrize(("method", "inference"), [("sds_pixels", False), ("sds_latents", True)])
def test_distillation_ends_at_the_models_colour(textured, views, model, method, inference):
    """The pixel codec is linear and exact: both gradients lead to the mean of the Gaussian."""
    config, before = CompletionConfig(method=method, iterations=100), model.unet.calls
    with torch.inference_mode(inference):
        result = complete_texture(textured, views, model, config=config)
    assert result.report.passes == model.unet.calls - before
    assert mean_error(result.mesh.texture) < 0.04
    seen = seen_texels(textured, views)
    same = (result.mesh.texture == textured.texture).all(dim=-1)
    assert bool(same[seen].all()) and float(seen.float().mean()) > 0.3


def test_later_orbits_complete_what_the_first_left(textured, model):
    views = front_views(textured, (0.0,))
    one, three = (
        complete_texture(textured, views, model, config=replace(RESAMPLE, orbits=count))
        for count in (1, 3)
    )
    assert three.report.generated > one.report.generated
    assert three.report.passes == 3 * one.report.passes


def test_a_rotated_world_gives_the_same_texture(textured, views, model, completed):
    """The input view is at azimuth 0 of the orbit, wherever it is in the world."""
    azimuths = [70.0, 130.0, 10.0]
    angle = torch.deg2rad(torch.tensor(70.0))
    matrix = torch.eye(4)
    matrix[0, 0] = matrix[2, 2] = angle.cos()
    matrix[0, 2], matrix[2, 0] = angle.sin(), -angle.sin()
    moved = replace(
        views, cameras=cameras_at(azimuths, [0.0] * 3, RigConfig(width_px=64, height_px=64))
    )
    result = complete_texture(textured.transformed(matrix), moved, model, config=RESAMPLE)
    close = (result.mesh.texture - completed.mesh.texture).abs().amax(dim=-1) < 0.01
    assert float(close.float().mean()) > 0.98


def test_a_family_without_elevations_resamples_along_its_own_orbit(textured, views):
    model = gaussian_model("v3d")
    result = complete_texture(textured, views, model, config=RESAMPLE)
    assert mean_error(result.mesh.texture) < 0.02
    for method in set(COMPLETION_METHODS) - {"resample"}:
        with pytest.raises(InputError, match=f"method {method} needs a model that takes the elev"):
            complete_texture(textured, views, model, config=CompletionConfig(method=method))


def test_one_orbit_is_all_that_such_a_family_has(textured, views, caplog):
    config = replace(RESAMPLE, orbits=3)
    result = complete_texture(textured, views, gaussian_model("v3d"), config=config)
    assert "V3D generates a single orbit: orbits = 3 is taken as 1." in caplog.text
    assert result.report.orbits == 1


def test_normals_hold_the_shape(textured, views):
    """Models with two domains get the mesh's normals, which are never resampled."""
    model = gaussian_model("nova3d")
    inputs = []
    model.unet.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    result = complete_texture(textured, views, model, config=RESAMPLE)
    assert mean_error(result.mesh.texture) < 0.02
    last = inputs[-1][1, 0, :, : model.codec.latent_channels]  # nearly free of noise
    images = model.codec.decode(last.float(), views=len(last)) * 0.5 + 0.5
    centre = images[0, :, 14:18, 14:18].mean(dim=(1, 2))  # faces the input camera
    torch.testing.assert_close(centre, torch.tensor([0.5, 0.5, 1.0]), atol=0.05, rtol=0.0)


def test_the_cost_is_logged_before_the_first_pass(textured, views, model, caplog):
    seen = []

    def note(module, given):
        seen.append("completing takes 12 passes of SV3D p" in caplog.text)

    handle = model.unet.register_forward_pre_hook(note)
    with caplog.at_level(logging.INFO):
        complete_texture(textured, views, model, config=RESAMPLE)
    handle.remove()
    assert seen and all(seen)


def test_slow_completions_warn_with_the_time(textured, views, model, monkeypatch, caplog):
    from nova3d_core.completion import prior

    monkeypatch.setattr(prior, "SLOW_S", -1.0)
    with caplog.at_level(logging.WARNING):
        complete_texture(textured, views, model, config=RESAMPLE)
    assert "about 1 minute on the CPU; a GPU takes seconds." in caplog.text


def test_models_without_guidance_take_one_pass(textured, views):
    model = gaussian_model(guidance=GuidanceConfig("constant", 1.0, 1.0))
    before = model.unet.calls
    result = complete_texture(textured, views, model, config=RESAMPLE)
    assert result.report.passes == model.unet.calls - before == 6


@pytest.mark.parametrize("method", COMPLETION_METHODS)
def test_a_cancel_in_each_stage_takes_effect_at_once(textured, views, model, method):
    """Every stage that reports can be cancelled, and raises at its next check."""
    config = CompletionConfig(method=method, steps=2, iterations=2)
    stages = []
    complete_texture(
        textured, views, model, config=config, progress=Progress(lambda e: stages.append(e.stage))
    )
    assert {"observing", "casting rays", "encoding", STAGE} <= set(stages)
    for stage in set(stages):
        events = []
        progress = Progress(
            lambda event, events=events: events.append(event.stage),
            lambda events=events, stage=stage: events[-1:] == [stage],
        )
        with pytest.raises(Cancelled):
            complete_texture(textured, views, model, config=config, progress=progress)
        assert events[-1] == stage and events.count(stage) == 1


def test_a_cancel_within_a_pass(textured, views):
    """A real network checks before each of its blocks."""
    from ..diffusion.models import small_model

    model = small_model("sv3d_p")
    blocks = []
    for module in model.unet.modules():
        if type(module).__name__ == "VideoResBlock":
            module.register_forward_hook(lambda *given: blocks.append(1))
    progress = Progress(is_cancelled=lambda: len(blocks) == 1)
    with pytest.raises(Cancelled):
        complete_texture(textured, views, model, config=RESAMPLE, progress=progress)
    assert len(blocks) == 1


def test_all_seen_leaves_the_mesh_as_it_is(textured, model, caplog):
    around = cameras_at([0, 60, 120, 180, 240, 300, 0, 0], [0.0] * 6 + [80.0, -80.0],
                        RigConfig(width_px=64, height_px=64))  # fmt: skip
    result = complete_texture(textured, render_views(textured, around).views, model)
    assert "there is nothing to complete" in caplog.text
    assert torch.equal(result.mesh.texture, textured.texture)
    assert result.report.passes == 0 and float(result.coverage.max()) == 0.0


def test_texels_that_a_seen_and_an_unseen_part_share_stay_as_they_are(textured, model, caplog):
    """Two globes, one behind the other, with one texture."""
    count = len(textured.vertices)
    near, far = (0.5 * textured.vertices + torch.tensor([0.0, 0.0, z]) for z in (0.25, -0.25))
    both = replace(
        textured,
        vertices=torch.cat([near, far]),
        faces=torch.cat([textured.faces + count, textured.faces]),  # the hidden one first
        uv=textured.uv.repeat(2, 1),
        normals=textured.normals.repeat(2, 1),
    )
    result = complete_texture(both, front_views(both, (0.0,)), model, config=RESAMPLE)
    assert "other parts of the surface use the same texels" in caplog.text
    assert "see the whole mesh" not in caplog.text
    assert torch.equal(result.mesh.texture, textured.texture)
    assert result.report.unseen > 0.5 and result.report.passes == 0


def test_one_view_works_and_warns(textured, model, caplog):
    views = front_views(textured, (0.0,))
    result = complete_texture(textured, views, model, config=RESAMPLE)
    assert "unseen by the 1 view: most of it will be the model's invention" in caplog.text
    assert mean_error(result.mesh.texture) < 0.02


def test_a_given_image_conditions_the_model(textured, views, model):
    given = []
    handle = model.image_encoder.register_forward_hook(lambda *call: given.append(1))
    image = torch.ones(40, 40, 3)
    image[10:30, 10:30] = torch.tensor([1.0, 0.0, 0.0])
    result = complete_texture(textured, views, model, image, config=RESAMPLE)
    handle.remove()
    assert given == [1]  # encoded once
    assert float(result.coverage.mean()) > 0.1


def test_a_mask_without_its_image(textured, views, model):
    with pytest.raises(InputError, match="a mask is given without its image"):
        complete_texture(textured, views, model, mask=torch.ones(64, 64))


def test_mesh_without_texture_or_uv(textured, globe, views, model):
    with pytest.raises(InputError, match=r"no texture to complete. Bake one from the views first"):
        complete_texture(replace(textured, texture=None), views, model)
    with pytest.raises(InputError, match=r"no UV coordinates. Unwrap and bake it first"):
        complete_texture(replace(globe, uv=None), views, model)


def test_mesh_that_does_not_fit_the_views(textured, views, model):
    small = replace(textured, vertices=0.5 * textured.vertices)
    with pytest.raises(InputError, match="the views do not fit the mesh"):
        complete_texture(small, views, model)


def test_black_views(textured, views, model):
    with pytest.raises(InputError, match="all views are black"):
        complete_texture(textured, replace(views, colour=torch.zeros_like(views.colour)), model)


def test_views_without_masks(textured, views, model, completed):
    """The background is white: the result is the same."""
    bare = Views(views.cameras, views.colour)
    result = complete_texture(textured, bare, model, config=RESAMPLE)
    assert torch.equal(result.mesh.texture, completed.mesh.texture)


def test_too_little_memory(textured, views, model, monkeypatch):
    monkeypatch.setattr(complete, "available_bytes", lambda: 100_000)
    with pytest.raises(InputError, match=r"completing a texture of 96x48 px with SV3D p needs"):
        complete_texture(textured, views, model)


def test_a_first_view_from_straight_above(textured, model):
    cameras = cameras_at([0.0, 0.0], [85.0, 0.0], RigConfig(width_px=64, height_px=64))
    views = render_views(textured, cameras).views
    with pytest.raises(InputError, match="elevation of 85 degrees, expected -70 to 70"):
        complete_texture(textured, views, model)


def test_a_model_that_returns_nan(textured, views):
    model = gaussian_model()
    model.unet.mean.fill_(float("nan"))
    with pytest.raises(StageError, match="returned NaN or infinite values"):
        complete_texture(textured, views, model, config=RESAMPLE)


def test_generated_background_is_not_baked():
    """A generated object that is smaller than the mesh's silhouette."""
    coverage = torch.zeros(32, 32)
    coverage[4:28, 4:28] = 1.0
    image = torch.ones(32, 32, 3)
    assert float(object_mask(image, coverage).max()) == 0.0
    image[10:22, 10:22] = 0.3
    mask = object_mask(image, coverage)
    assert float(mask[12:20, 12:20].min()) == 1.0
    assert float(mask[4:9, 4:28].max()) == 0.0
    grey = image * 0.5  # no white background to take a matte from
    assert torch.equal(object_mask(grey, coverage), coverage)


def test_bad_settings():
    for name, value in (("method", "paint"), ("orbits", 0), ("steps", 0), ("start_noise", -1.0),
                        ("iterations", 0), ("seed", -1)):  # fmt: skip
        with pytest.raises(InputError, match=f"completion {name}"):
            CompletionConfig(**{name: value})


@pytest.mark.parametrize("name", ["wonder3d", "nova3d-mini"])
def test_networks_of_other_kinds_run(textured, views, name):
    """Wonder3D's 2D UNet, sampled by DDIM; nova3d-mini's codec and encoder."""
    from ..diffusion.models import small_model

    result = complete_texture(textured, views, small_model(name), config=replace(RESAMPLE, steps=1))
    assert result.report.generated > 0.01
    assert bool(result.mesh.texture.isfinite().all())
    assert torch.equal(result.mesh.texture[24, :4], textured.texture[24, :4])
