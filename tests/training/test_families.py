"""Training of SV3D and V3D: orbits, conditions, initialisation, learning, resuming, export."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from nova3d_core.cameras.cameras import cameras_at
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.diffusion.families import FAMILIES
from nova3d_core.diffusion.sampling.conditioning import added_embeds
from nova3d_core.diffusion.sampling.config import SampleConfig
from nova3d_core.diffusion.sampling.pipeline import sample
from nova3d_core.diffusion.sampling.trajectory import plan_trajectory
from nova3d_core.errors import InputError
from nova3d_core.training.config import ConditioningConfig, NoiseStage
from nova3d_core.training.data.batches import check_orbits, collate_images, to_signed
from nova3d_core.training.data.conditioning import (
    independent_dropout_masks,
    sample_conditioning,
    to_network_order,
)
from nova3d_core.training.data.config import DatasetConfig, ImageConfig, PrecomputeConfig
from nova3d_core.training.data.mesh_sources import ProceduralObjects
from nova3d_core.training.data.orbits import TRAINING_ORBITS
from nova3d_core.training.data.precompute_latents import Encoders, precompute_latents
from nova3d_core.training.data.render import render_object, rotated
from nova3d_core.training.data.render_dataset import render_dataset
from nova3d_core.training.data.sampled_orbits import (
    MAX_ELEVATION_DEG,
    MAX_EXTENT,
    SINE_PERIODS,
    dynamic_elevations,
    sample_orbit,
)
from nova3d_core.training.data.shards import ShardDataset
from nova3d_core.training.data.stream import ProceduralDataset
from nova3d_core.training.export import export_run
from nova3d_core.training.init_from_svd import sv3d_p_from_u, unet_from_svd
from nova3d_core.training.losses import angle_weights
from nova3d_core.training.object_sources import make_object_stream
from nova3d_core.training.objective import Objective
from nova3d_core.training.presets import read_train_config
from nova3d_core.training.procedural import procedural_object
from nova3d_core.training.runs import train
from nova3d_core.training.step_rng import draw_step_randomness
from nova3d_core.training.train_module import init_train_module
from nova3d_core.weights.load import load_model

from ..weights.models import random_unet
from .parts import SIZE, SMALL, UNET, assert_equal, cancel_after, log_of, of, run, state

TRAINED = {"sv3d_u": 256, "sv3d_p": 1280, "v3d": 768}
"""Families, and the length of their added embeddings."""


def small(family, **changes):
    """A small run of a family, on procedural objects."""
    unet = replace(
        UNET, domains=1, alignment="none", camera_task_dim=0, add_embed_dim=TRAINED[family]
    )
    config = of(
        SMALL,
        family=family,
        network__unet=unet,
        conditioning__independent_dropout=True,
        input_view_weight=0.5 if family != "v3d" else 1.0,
    )
    return of(config, **changes)


def items_of(family, count=2, size=SIZE):
    stream = ProceduralDataset(3, size, family=family)
    return [stream.fetch(number) for number in range(count)]


def randomness_of(family, count=2):
    settings = FAMILIES[family]
    shape = (1, settings.views, 48, SIZE // 4, SIZE // 4)
    return draw_step_randomness(0, 0, range(count), shape, SIZE, settings.noise_aug_target)


# orbits


@pytest.mark.parametrize("family", TRAINED)
def test_orbits_start_at_the_input_view_and_follow_their_seed(family):
    kind = TRAINING_ORBITS[family]
    assert kind.views == FAMILIES[family].views
    for seed in range(20):
        orbit = sample_orbit(kind, kind.views, seed)
        assert orbit.azimuths_deg[0] == 0.0
        steps = np.diff([*orbit.azimuths_deg, 360.0]) * kind.views / 360.0
        assert (steps > 0.45).all() and (steps < 1.55).all()
        again = sample_orbit(kind, kind.views, seed)
        assert np.array_equal(orbit.elevations_deg, again.elevations_deg)
        spread = np.ptp(orbit.elevations_deg)
        assert (spread > 5.0) if kind.motion == "dynamic" else (spread == 0.0)
        assert (kind.motion == "dynamic") == (np.ptp(steps) > 1e-6)
    first, second = (sample_orbit(kind, kind.views, seed) for seed in (0, 1))
    tilts = [each.pitch_deg + each.elevations_deg[0] for each in (first, second)]
    assert tilts[0] != tilts[1]


def test_dynamic_elevations_are_sines_of_whole_periods():
    for seed in range(30):  # a third of the first sums come near a pole and are drawn again
        elevations = dynamic_elevations(np.random.default_rng(seed), 64, 12.0)
        assert np.abs(elevations).max() <= MAX_ELEVATION_DEG
        spectrum = np.abs(np.fft.rfft(elevations)) / 64
        assert spectrum[0] == pytest.approx(12.0, abs=1e-9)
        assert (
            spectrum[SINE_PERIODS[1] + 1 :].max() < 1e-9 < spectrum[1 : SINE_PERIODS[1] + 1].max()
        )


def test_pitch_shows_the_top_of_an_object():
    from nova3d_core.mesh import Mesh

    mesh = Mesh(
        torch.tensor([[0.0, 0.5, 0.0], [0.01, -0.5, 0.0], [-0.01, -0.5, 0.0]]),
        torch.tensor([[0, 1, 2]]),
    )
    top = rotated(mesh, 0.0, 30.0).vertices[0]
    assert top[2] > 0.2 and top[1] > 0.4  # towards the camera of view 0, on +Z


def test_distance_is_the_smallest_at_which_nothing_is_cut_off():
    kind = TRAINING_ORBITS["sv3d_p"]
    for number in range(3):
        mesh = procedural_object(number)
        config = ImageConfig(size_px=64, family="sv3d_p")
        images = render_object(mesh, config=config, orbit=sample_orbit(kind, 21, number))
        filled = images["mask"] > 0  # (V, H, W)
        rows, columns = filled.any(dim=2).nonzero()[:, 1], filled.any(dim=1).nonzero()[:, 1]
        reach = max(float((each + 0.5 - 32).abs().max() + 0.5) for each in (rows, columns))
        assert 32 * MAX_EXTENT - 1.5 <= reach <= 32 * MAX_EXTENT + 1.0


def test_rendered_shards_hold_the_orbits_of_a_family(tmp_path):
    image = ImageConfig(size_px=SIZE, family="sv3d_p", supersample=1)
    render_dataset(ProceduralObjects(2), tmp_path, DatasetConfig(seed=3, image=image))
    items = list(ShardDataset(tmp_path, shuffle=False, epochs=1))
    expected = [
        ProceduralDataset(3, family="sv3d_p", size_px=SIZE).fetch(number) for number in (0, 1)
    ]
    for item, same in zip(items, expected, strict=True):
        assert item["colour"].shape == (21, SIZE, SIZE, 3)
        torch.testing.assert_close(item["azimuth_deg"], same["azimuth_deg"], atol=1e-4, rtol=0)
        torch.testing.assert_close(item["elevation_deg"], same["elevation_deg"], atol=1e-4, rtol=0)


def test_rejects_cameras_on_which_a_family_is_not_conditioned():
    dynamic = items_of("sv3d_p", 1)
    check_orbits(dynamic, FAMILIES["sv3d_p"])
    check_orbits(items_of("sv3d_u", 1), FAMILIES["sv3d_u"])
    with pytest.raises(InputError, match=r"--image\.family sv3d_u"):
        check_orbits(dynamic, FAMILIES["sv3d_u"])


# conditions


@pytest.mark.parametrize("family", TRAINED)
def test_conditions_equal_those_of_sampling(family):
    settings, items, randomness = FAMILIES[family], items_of(family), randomness_of(family)
    batch = collate_images(items, settings.views, SIZE)
    conditioning = sample_conditioning(batch, randomness, ConditioningConfig(), settings)
    strengths = torch.exp(-3.0 + 0.5 * randomness.strength)
    for index, item in enumerate(items):
        angles = item["azimuth_deg"].tolist(), item["elevation_deg"].tolist()
        cameras = cameras_at(*angles, RigConfig(width_px=SIZE, height_px=SIZE))
        trajectory = plan_trajectory(settings, SIZE, cameras=cameras)
        expected = added_embeds(settings, trajectory, float(strengths[index]))
        torch.testing.assert_close(conditioning.added_embeds[index], expected, atol=2e-4, rtol=0)
        inputs = to_network_order(batch.colour[index], settings, 0)
        assert torch.equal(trajectory.input_view_first(inputs), batch.colour[index])


def test_noise_of_v3d_is_added_to_the_latent():
    config = small("v3d", conditioning__dropout=0.0)
    module = init_train_module(config.network, FAMILIES["v3d"], 0)
    batch, randomness = collate_images(items_of("v3d"), 18, SIZE), randomness_of("v3d")
    conditioning = sample_conditioning(
        batch, randomness, of(config, conditioning__augmentation__random_background_fraction=0.0)
        .conditioning, FAMILIES["v3d"],
    )  # fmt: skip
    objective = Objective(config, module, module, torch.device("cpu"))
    x = objective.concat(torch.zeros(1, 2, 18, 48, 4, 4), conditioning)
    strengths = torch.exp(-3.0 + 0.5 * randomness.strength)[:, None, None, None]
    clean = module.codec.encode(to_signed(batch.colour[:, 0]))
    expected = clean + strengths * randomness.image_noise
    torch.testing.assert_close(x[0, :, 5, 48:], expected)


def test_input_view_is_at_the_index_of_the_family():
    """A network that returns 0 has a loss of the target alone: that of the rolled latents."""
    config = small("sv3d_p", input_view_weight=1.0, conditioning__dropout=0.0)
    module = init_train_module(config.network, FAMILIES["sv3d_p"], 0)
    batch, randomness = collate_images(items_of("sv3d_p"), 21, SIZE), randomness_of("sv3d_p")
    seen = []

    def network(x, *_):
        seen.append(x)
        return torch.zeros_like(x[:, :, :, :48])

    objective = Objective(config, module, network, torch.device("cpu"))
    _, sigmas = objective.losses(batch, randomness, 0)
    scale = sigmas[:, None, None, None]
    input_latent = module.codec.encode_scaled(to_signed(batch.colour[:, 0]))
    noisy = (input_latent + scale * randomness.noise[0, :, -1]) / (1 + scale**2).sqrt()
    torch.testing.assert_close(seen[0][0, :, -1, :48], noisy)


def test_dropout_of_embedding_and_latent_is_independent():
    uniforms = (torch.arange(10_000) + 0.5) / 10_000
    embedding, latent = independent_dropout_masks(uniforms, 0.2)
    assert float((1 - embedding).mean()) == pytest.approx(0.2, abs=1e-4)
    assert float((1 - latent).mean()) == pytest.approx(0.2, abs=1e-4)
    both = (1 - embedding) * (1 - latent)
    assert float(both.mean()) == pytest.approx(0.04, abs=1e-4)


def test_weights_grow_with_the_angle_from_the_input_view():
    azimuths = torch.arange(8)[None] * 45.0
    weights = angle_weights(torch.zeros(1, 8), azimuths, 0.5)[0]
    ratios = weights / weights[4]
    torch.testing.assert_close(ratios[:5], torch.tensor([0.5, 0.625, 0.75, 0.875, 1.0]))
    torch.testing.assert_close(weights[1:], weights[1:].flip(0))
    assert float(weights.mean()) == pytest.approx(1.0)
    assert bool((angle_weights(torch.zeros(1, 8), azimuths, 1.0) == 1.0).all())


# initialisation


@pytest.mark.parametrize("family", TRAINED)
def test_networks_from_svd_equal_svd_at_first(family):
    svd, settings = random_unet("svd"), FAMILIES[family]
    unet = unet_from_svd(svd, settings)
    assert unet.config.add_embed_dim == TRAINED[family]
    x = torch.randn(1, 1, 3, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    trajectory = plan_trajectory(settings, 64, 20.0)
    own = added_embeds(settings, trajectory, 0.1)[None, :3]
    as_svd = FAMILIES["v3d"]
    if family != "v3d":
        as_svd = replace(as_svd, fps_id=6, motion_bucket_id=127)
    theirs = added_embeds(as_svd, plan_trajectory(as_svd, 64), 0.1)[None, :3]
    context, noise = torch.ones(1, 1, unet.config.context_dim), torch.zeros(1)
    torch.testing.assert_close(
        unet(x, noise, context, own), svd(x, noise, context, theirs), rtol=1e-4, atol=1e-5
    )


def test_sv3d_p_continues_sv3d_u():
    u = random_unet("sv3d_u")
    p = sv3d_p_from_u(u)
    assert p.config.add_embed_dim == 1280
    x = torch.randn(1, 1, 3, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    embeds = torch.rand(1, 3, 1280)
    context, noise = torch.ones(1, 1, u.config.context_dim), torch.zeros(1)
    torch.testing.assert_close(
        p(x, noise, context, embeds), u(x, noise, context, embeds[..., :256]), rtol=1e-5, atol=1e-6
    )


# runs


@pytest.mark.parametrize("family", ["sv3d_p", "v3d"])
def test_resumes_exactly_exports_and_samples(family, tmp_path):
    config = small(family, optimiser__steps=4)
    whole = train(config, tmp_path / "whole", cpu=True)
    train(config, tmp_path / "parts", cpu=True, progress=cancel_after(2))
    parts = train(config, tmp_path / "parts", cpu=True)
    assert_equal(state(parts), state(whole))
    path = tmp_path / "model.safetensors"
    export_run(tmp_path / "whole", path, "float32")
    model = load_model(path)
    assert (model.family.name, model.family.size_px) == (family, SIZE)
    image = items_of(family)[0]["colour"][0].float() / 255
    found = sample(model, image, config=SampleConfig(steps=2, framing="image"))
    assert found.images.shape == (1, FAMILIES[family].views, SIZE, SIZE, 3)
    with whole.ema.average_parameters():
        direct = sample(
            whole.module.model("", SIZE), image, config=SampleConfig(steps=2, framing="image")
        )
    torch.testing.assert_close(found.images, direct.images, atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sv3d_p", "v3d"])
def test_loss_falls_within_few_steps(family, tmp_path):
    config = small(
        family,
        optimiser__name="muon",
        optimiser__steps=40,
        optimiser__learning_rate=2e-2,
        optimiser__warmup_steps=5,
        network__codec_dct_weights=(1.0,),  # 3 channels, so that the narrow network can learn
        network__codec_std=0.4,
        network__residual_init_scale=0.3,
        noise=(NoiseStage(0.0, 1.5, 1.0),),
        conditioning__dropout=0.0,
    )
    unet = replace(config.network.unet, in_channels=6, out_channels=3)
    run(of(config, network__unet=unet), tmp_path, items_of(family))
    losses = [line["loss"] for line in log_of(tmp_path) if line["event"] == "train"]
    start, end = np.mean(losses[:3]), np.mean(losses[-8:])
    assert 0.7 < start < 1.4  # a network that returns 0 has about 1
    assert end < 0.6 * start, (start, end)


def test_validation_samples_the_cameras_of_held_out_objects(tmp_path):
    config = small(
        "sv3d_p",
        optimiser__steps=1,
        run__validation_steps=1,
        run__validation_objects=1,
        run__sampling_steps=1,
    )
    train(config, tmp_path, cpu=True)
    (found,) = [line for line in log_of(tmp_path) if line["event"] == "validation"]
    assert found["objects"] == 1 and found["psnr"] > 3.0


def test_rejects_latents_with_noise_at_the_wrong_place(tmp_path):
    images = tmp_path / "images"
    image = ImageConfig(size_px=SIZE, family="v3d", supersample=1)
    render_dataset(ProceduralObjects(1), images, DatasetConfig(image=image))
    module = init_train_module(small("v3d").network, FAMILIES["v3d"], 0)
    encoders = Encoders(module.codec, module.encoder, "small")
    for target in ("image", "latent"):
        precompute_latents(
            images, tmp_path / target, encoders, PrecomputeConfig(1, noise_target=target)
        )
        config = small("v3d", data__source="shards", data__shards=(str(tmp_path / target),))
        if target == "image":
            with pytest.raises(InputError, match=r"--precompute\.noise-target latent"):
                make_object_stream(config, 0, 1)
        else:
            item = make_object_stream(of(config, optimiser__batch_size=1), 0, 1).fetch(0)
            assert item["image_latent"].shape == (1, 48, 4, 4)


def test_presets_are_valid_and_their_tiny_networks_match_their_family():
    for name in ("sv3d_u", "sv3d_p", "v3d"):
        config = read_train_config(name)
        assert config.family == name and config.conditioning.independent_dropout
    assert read_train_config("v3d").noise == (NoiseStage(0.0, 1.5, 2.0),)
    for name in ("sv3d_p_mini", "v3d_mini"):
        config = read_train_config(name)
        init_train_module(config.network, FAMILIES[config.family], 0)
