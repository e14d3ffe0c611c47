"""End-to-end sampling from one image to views, with small real components."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import pytest
import torch

from nova3d_core.cameras.cameras import cameras_from_orbit, orbit_cameras
from nova3d_core.cameras.orbits import OrbitConfig
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.diffusion.families import FAMILIES, GuidanceConfig
from nova3d_core.diffusion.model import OneDevice
from nova3d_core.diffusion.sampling.config import SampleConfig
from nova3d_core.diffusion.sampling.pipeline import sample, sample_views
from nova3d_core.diffusion.sampling.preprocess import preprocess_image
from nova3d_core.diffusion.sampling.preview import LatentPreviewer, image_grid, latents_to_rgb
from nova3d_core.errors import Cancelled, InputError, StageError
from nova3d_core.progress import Progress

from .models import SIZE, image_and_mask, small_model

QUICK = SampleConfig(seed=3, steps=2)
ONE_PASS = [
    name for name, each in FAMILIES.items() if each.process == "edm" and name != "ouroboros3d"
]
"""Families that sample without a reconstruction in the loop; tests/recursion samples the others."""
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def nova3d(few_views):
    """A small NOVA3D model with four views."""
    return small_model("nova3d", views=4)


def weights_of(model):
    return [value.clone() for name in ("unet", "codec", "image_encoder")
            for value in model.part(name).state_dict().values()]  # fmt: skip


@pytest.mark.parametrize("name", ONE_PASS)
def test_every_family_returns_its_views_with_the_input_view_first(name):
    model = small_model(name)
    image, mask = image_and_mask()
    before = weights_of(model)
    result = sample(model, image, mask, QUICK)
    views, family = result.views, model.family
    size_px = family.upscale * SIZE
    assert views.colour.shape == (family.views, size_px, size_px, 3)
    assert result.images.shape == (len(family.domains), family.views, SIZE, SIZE, 3)
    assert float(result.images.min()) >= 0.0 and float(result.images.max()) <= 1.0
    assert float(result.images.std()) > 0.05  # not blank
    azimuths = torch.arange(family.views) * 360.0 / family.views
    if name.startswith("wonder3d"):
        azimuths = torch.tensor([0.0, 45.0, 90.0, 180.0, 270.0, 315.0])
    difference = (views.cameras.azimuth_deg - azimuths + 180.0) % 360.0 - 180.0
    assert float(difference.abs().max()) < 1e-3
    assert (views.normals is not None) == name.startswith(("nova3d", "wonder3d"))
    if family.reuse_input_view:
        prepared = preprocess_image(image, mask, SIZE, family.foreground_ratio).image
        assert result.images[0, 0].equal(prepared)
        assert not result.images[0, -1].equal(prepared)
    assert all(a.equal(b) for a, b in zip(before, weights_of(model), strict=True))
    assert not views.colour.is_inference()


def test_runs_in_inference_mode(nova3d):
    given = image_and_mask()
    expected = sample(nova3d, *given, QUICK).images
    with torch.inference_mode():
        assert sample(nova3d, *given, QUICK).images.equal(expected)


def test_normals_are_unit_vectors_in_the_front_views_frame(nova3d):
    views = sample_views(nova3d, *image_and_mask(), QUICK)
    assert views.normal_frame == "front_view"
    length = views.normals.norm(dim=-1)
    assert bool(((length - 1.0).abs() < 1e-4).logical_or(length == 0).all())


def test_images_are_determined_by_the_seed(nova3d):
    given = image_and_mask()
    first, again = (sample(nova3d, *given, QUICK).images for _ in range(2))
    assert first.equal(again)
    other = sample(nova3d, *given, replace(QUICK, seed=4)).images
    assert float((first - other).abs().mean()) > 0.01


def test_chunked_decoding_is_equivalent_without_temporal_layers(few_views):
    model, given = small_model("sv3d_u", views=5), image_and_mask()
    chunked = sample(model, *given, replace(QUICK, decode_chunk_size=2)).images
    whole = sample(model, *given, QUICK).images
    torch.testing.assert_close(chunked, whole, atol=1e-5, rtol=0)


def test_decoding_retries_with_fewer_images_when_out_of_memory(few_views, caplog):
    model, given = small_model("sv3d_u", views=5), image_and_mask()
    whole = sample(model, *given, QUICK).images
    counts = []

    def at_most_two(module, given):
        counts.append(len(given[0]))
        if counts[-1] > 2:
            raise torch.cuda.OutOfMemoryError("out of memory")

    with model.codec.vae.decoder.register_forward_pre_hook(at_most_two):
        fewer = sample(model, *given, QUICK).images
    assert counts == [5, 3, 2, 2, 1]
    assert "2 images decoded together" in caplog.text
    torch.testing.assert_close(fewer, whole, atol=1e-5, rtol=0)

    counts.clear()  # the retries start at the number of views
    with model.codec.vae.decoder.register_forward_pre_hook(at_most_two):
        sample(model, *given, replace(QUICK, decode_chunk_size=64))
    assert counts == [5, 3, 2, 2, 1]

    def never(module, given):
        raise torch.cuda.OutOfMemoryError("out of memory")

    hook = model.codec.vae.decoder.register_forward_pre_hook(never)
    with hook, pytest.raises(torch.cuda.OutOfMemoryError):
        sample(model, *given, QUICK)


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 3},
        {"guidance": GuidanceConfig("constant", 1.0, 5.0)},
        {"guidance_interval": (1.0, 1e9)},  # excludes the second level, 0.002
        {"size_px": 4 * SIZE},
    ],
    ids=lambda change: next(iter(change)),
)
def test_settings_affect_the_result(nova3d, change):
    given = image_and_mask()
    plain = sample(nova3d, *given, QUICK).images
    other = sample(nova3d, *given, replace(QUICK, **change)).images
    size_px = change.get("size_px", SIZE)
    assert other.shape == (2, 4, size_px, size_px, 3)
    assert size_px != SIZE or not other.equal(plain)


def test_task_embedding_determines_the_domain(nova3d):
    """Domains differ only in noise and task: swapping both swaps the images."""
    from nova3d_core.diffusion.sampling.pipeline import (
        draw_noise_inputs,
        make_conditioning,
        sample_latents,
    )
    from nova3d_core.diffusion.sampling.trajectory import plan_trajectory
    from nova3d_core.progress import SILENT

    trajectory = plan_trajectory(nova3d.family, SIZE)
    noise, placement = draw_noise_inputs(nova3d, SIZE, 0), OneDevice(nova3d, CPU)
    image = preprocess_image(*image_and_mask(), SIZE).image
    with torch.no_grad():
        conditioning = make_conditioning(nova3d, image, trajectory, noise, placement, SILENT)
        swapped = replace(conditioning, camera_task=conditioning.camera_task.flip(0))
        rest = (QUICK, placement, SILENT)
        one = sample_latents(nova3d, conditioning, trajectory, noise.latents, *rest)
        two = sample_latents(nova3d, swapped, trajectory, noise.latents.flip(0), *rest)
        three = sample_latents(nova3d, swapped, trajectory, noise.latents, *rest)
    scale = float(one.std())
    torch.testing.assert_close(two.flip(0), one, atol=1e-4 * scale, rtol=0)
    assert float((three - one).abs().max()) > 1e-2 * scale


def test_dynamic_orbit_conditions_the_network():
    model = small_model("sv3d_p")
    given = image_and_mask()
    sine = cameras_from_orbit(OrbitConfig(RigConfig(count=21), "sine", 30.0))
    embeds = []
    with model.unet.register_forward_pre_hook(lambda module, given: embeds.append(given[3])):
        views = sample_views(model, *given, QUICK, sine)
        level = sample_views(model, *given, QUICK)
    polar = torch.atan2(
        embeds[0][0, :, 512], embeds[0][0, :, 256]
    )  # sine and cosine of frequency 1
    azimuth = torch.atan2(embeds[0][0, :, 1024], embeds[0][0, :, 768]) % (2 * torch.pi)
    fraction = torch.arange(1, 22) / 21.0
    expected = torch.deg2rad(90.0 - 30.0 * torch.sin(2 * torch.pi * fraction))
    torch.testing.assert_close(polar, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(azimuth[:-1], 2 * torch.pi * fraction[:-1], atol=1e-4, rtol=0)
    assert float(azimuth[-1]) == 0.0
    elevations = views.cameras.elevation_deg  # the input view first
    torch.testing.assert_close(
        elevations, 30.0 * torch.sin(2 * torch.pi * torch.arange(21) / 21.0), atol=1e-3, rtol=0
    )
    assert not views.colour[5].equal(level.colour[5])


def test_rejects_wrong_sizes_and_counts_before_running_the_model(nova3d):
    calls = []
    with nova3d.image_encoder.clip.register_forward_pre_hook(lambda *_: calls.append(1)):
        with pytest.raises(InputError, match="multiple of 4"):
            sample_views(nova3d, *image_and_mask(), SampleConfig(size_px=66))
        with pytest.raises(InputError, match="generates 4 views, but got 21"):
            cameras = orbit_cameras(RigConfig(count=21))
            sample_views(nova3d, *image_and_mask(), QUICK, cameras)
        with pytest.raises(InputError, match="empty"):
            sample_views(nova3d, image_and_mask()[0], torch.zeros(40, 40), QUICK)
    assert not calls


def corrupt_output(module, value: float, only: torch.dtype | None = None):
    """Writes a value into a layer's output, for one dtype or for all."""

    def corrupt(_, given, out):
        if only is None or out.dtype == only:
            out.view(-1)[7] = value
        return out

    return module.register_forward_hook(corrupt)


LAYERS = {
    "sampling": lambda model: model.unet.out[2],
    "decoding": lambda model: model.codec.vae.decoder.conv_in,
    "encoding": lambda model: model.image_encoder.clip.visual_projection,
}


@pytest.mark.parametrize("stage", LAYERS)
def test_overflow_is_retried_in_float32(stage, caplog, few_views):
    def half_precision_model():
        model = small_model("nova3d", views=4)
        model.codec.to(torch.bfloat16)
        model.image_encoder.to(torch.bfloat16)
        return model, OneDevice(model, CPU, torch.bfloat16)

    model, placement = half_precision_model()
    given = image_and_mask()
    expected = sample(model, *given, QUICK, placement=placement).images
    assert caplog.text.count("retrying in float32") == 0
    with corrupt_output(LAYERS[stage](model), float("inf"), only=torch.bfloat16):
        retried = sample(model, *given, QUICK, placement=placement).images
    assert f"{stage} overflowed in bfloat16" in caplog.text
    assert bool(torch.isfinite(retried).all())
    assert 0.0 < float((retried - expected).abs().mean()) < 0.05
    assert model.codec.dtype == torch.bfloat16  # the model is unchanged
    if stage == "sampling":
        model, _ = half_precision_model()
        fine = sample(model, *given, QUICK, placement=OneDevice(model, CPU)).images
        assert retried.equal(fine)


@pytest.mark.parametrize("stage", LAYERS)
def test_persistent_nan_is_an_error(stage, caplog, few_views):
    model = small_model("nova3d", views=4)
    placement = OneDevice(model, CPU, torch.bfloat16)
    with corrupt_output(LAYERS[stage](model), float("nan")), pytest.raises(StageError) as caught:
        sample(model, *image_and_mask(), QUICK, placement=placement)
    assert caught.value.stage == stage
    assert "small.safetensors" in str(caught.value) and "float32" in str(caught.value)
    assert ("retrying in float32" in caplog.text) == (
        stage == "sampling"
    )  # the others already ran in it


def test_nan_ends_the_sampling_immediately(nova3d):
    calls = []
    counted = nova3d.unet.register_forward_hook(lambda *_: calls.append(1))
    with counted, corrupt_output(nova3d.unet.out[2], float("nan")), pytest.raises(StageError):
        sample(nova3d, *image_and_mask(), SampleConfig(steps=20))
    assert len(calls) == 2  # both passes of the first step


def test_cancelling_stops_immediately_at_any_time(nova3d):
    stages, events = set(), []
    complete = Progress(events.append)
    sample_views(nova3d, *image_and_mask(), QUICK, progress=complete)
    passes = []
    hook = nova3d.unet.register_forward_hook(lambda *_: passes.append(1))
    with hook:
        for moment in range(1, 100):
            checks = []

            def is_cancelled(checks=checks, moment=moment):
                checks.append(len(passes))
                return len(checks) >= moment

            try:
                sample_views(
                    nova3d, *image_and_mask(), QUICK, progress=Progress(None, is_cancelled)
                )
            except Cancelled as cancelled:
                stages.add(cancelled.stage)
                assert len(checks) == moment and checks[-1] == len(passes)
            else:
                break
    assert stages == {"encoding", "sampling", "decoding"}
    assert moment > 8
    reported = [(event.stage, event.step, event.total) for event in events]
    assert reported[:3] == [("encoding", step, 2) for step in (0, 1, 2)]
    assert [each for each in reported if each[0] == "sampling"] == [
        ("sampling", step, 2) for step in (0, 1, 2)
    ]
    assert reported[-1] == ("decoding", 8, 8)


def test_previews_show_colours_above_normals_at_a_limited_rate(nova3d):
    events = []
    sample(nova3d, *image_and_mask(), QUICK, progress=Progress(events.append))
    grids = [event.preview() for event in events if event.preview is not None]
    side = SIZE // 2
    assert grids[0].shape == (2 * side, 4 * side, 3)  # a row of colours, a row of normals
    assert float(grids[0].min()) >= 0.0 and float(grids[0].max()) <= 1.0

    now = iter([10.0, 10.4, 10.9, 11.1, 11.2, 13.0])
    previewer = LatentPreviewer(lambda batch: batch.roll(1, 0), lambda: next(now))
    latents = torch.randn(2, 1, 4, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    offered = [previewer.preview(latents) for _ in range(6)]
    assert [each is not None for each in offered] == [True, False, False, True, False, True]
    colours = latents_to_rgb(latents[:, 0])  # (D, V, h, w, 3)
    assert offered[0]().equal(image_grid(colours.roll(1, 1)))
    assert (
        LatentPreviewer(lambda batch: batch).preview(latents[:, :, :, :3]) is None
    )  # not such latents


def test_previews_of_pixel_latents_are_the_images(few_views):
    events = []
    model = small_model("nova3d-mini", views=4)
    model.family = replace(model.family, reuse_input_view=False)
    one_step = SampleConfig(steps=1, seed=3)
    result = sample(model, *image_and_mask(), one_step, progress=Progress(events.append))
    grid = next(event.preview() for event in events if event.preview is not None)
    torch.testing.assert_close(grid, image_grid(result.images), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "sigma"), [("nova3d", 700.0), ("nova3d-mini", 80.0)])
def test_sampling_starts_at_the_familys_noise_level(few_views, name, sigma):
    model, inputs = small_model(name, views=4), []
    model.family = replace(model.family, sigma_max=sigma)
    with model.unet.register_forward_pre_hook(lambda _, given: inputs.append(given)):
        sample(model, *image_and_mask(), QUICK)
    first = inputs[0]
    assert float(first[1][0]) == pytest.approx(math.log(sigma) / 4.0, rel=1e-5)
    # c_in scales the noisy data to unit variance
    noisy = first[0][:, :, :, : model.codec.latent_channels]
    assert float(noisy.std()) == pytest.approx(1.0, abs=0.1)


def test_step_without_guidance_is_one_pass(few_views):
    model, passes = small_model("nova3d-mini", views=4), []
    with model.unet.register_forward_pre_hook(lambda *_: passes.append(1)):
        unguided = GuidanceConfig("constant", 1.0, 1.0)
        sample(model, *image_and_mask(), SampleConfig(steps=5, guidance=unguided))
    assert len(passes) == 5


def test_image_grid_and_latents_to_rgb():
    images = (
        torch.arange(2 * 16, dtype=torch.float32).reshape(2, 16, 1, 1, 1).expand(2, 16, 3, 2, 3)
    )
    grid = image_grid(images)
    assert grid.shape == (4 * 3, 8 * 2, 3)
    assert grid[::3, ::2, 0].equal(torch.arange(32.0).reshape(4, 8))
    partial = image_grid(images[:1, :5])
    assert partial[::3, ::2, 0].tolist() == [[0.0, 1.0, 2.0, 3.0], [4.0, 1.0, 1.0, 1.0]]
    latent = torch.tensor([1.0, 1.0, 0.0, -1.0]).reshape(4, 1, 1)
    expected = 0.5 + 0.5 * torch.tensor([0.8882, 0.9887, 1.2754])
    torch.testing.assert_close(latents_to_rgb(latent)[0, 0], expected.clamp(max=1.0))


def test_warns_before_slow_sampling_on_the_cpu(nova3d, caplog, monkeypatch):
    from nova3d_core.diffusion.sampling import pipeline

    with caplog.at_level(logging.WARNING):
        sample(nova3d, *image_and_mask(), QUICK)
        assert "minutes" not in caplog.text
        monkeypatch.setattr(pipeline, "SLOW_SAMPLING_S", 0.0)
        logs = []
        with nova3d.unet.register_forward_pre_hook(lambda *_: logs.append(caplog.text)):
            sample(nova3d, *image_and_mask(), QUICK)
    assert "takes about 1 minutes" in logs[0] or "about a minute" in logs[0]


def test_notes_report_a_tiny_input_image(nova3d):
    image, mask = image_and_mask(3)
    assert any("3x3 px" in note for note in sample(nova3d, image, mask, QUICK).notes)
