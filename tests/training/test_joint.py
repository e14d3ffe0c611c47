"""Joint training of a multi-view and a reconstruction network (Ouroboros3D)."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from nova3d_core.cameras.cameras import cameras_at
from nova3d_core.cameras.orbits import preset_orbit
from nova3d_core.diffusion.families import FAMILIES
from nova3d_core.diffusion.network.config import UNetConfig
from nova3d_core.diffusion.sampling.config import SampleConfig
from nova3d_core.errors import InputError
from nova3d_core.reconstruction.activations import RawSplats
from nova3d_core.reconstruction.config import LgmConfig
from nova3d_core.reconstruction.network import Lgm
from nova3d_core.reconstruction.save import save_reconstruction
from nova3d_core.recursion.load import load_recursive
from nova3d_core.recursion.sample import sample_recursive
from nova3d_core.training.config import NetworkConfig, NoiseStage
from nova3d_core.training.data.batches import collate_images, collate_latents
from nova3d_core.training.data.config import DatasetConfig, ImageConfig, PrecomputeConfig
from nova3d_core.training.data.mesh_sources import ProceduralObjects
from nova3d_core.training.data.orbits import TRAINING_ORBITS
from nova3d_core.training.data.precompute_latents import Encoders, precompute_latents
from nova3d_core.training.data.render_dataset import render_dataset
from nova3d_core.training.data.shards import ShardDataset
from nova3d_core.training.data.stream import ProceduralDataset
from nova3d_core.training.export import export_run, reconstruction_file
from nova3d_core.training.joint.build import (
    build_joint_module,
    build_reconstruction,
    feedback_unet_from_svd,
    silence_feedback,
)
from nova3d_core.training.joint.cameras import model_poses
from nova3d_core.training.joint.config import JointConfig
from nova3d_core.training.joint.module import denoised, render
from nova3d_core.training.joint.objective import JointObjective
from nova3d_core.training.losses import edm_loss
from nova3d_core.training.presets import read_train_config
from nova3d_core.training.runs import train
from nova3d_core.training.step_rng import draw_step_randomness

from ..weights.models import random_unet
from .parts import SMALL, assert_equal, cancel_after, log_of, of, run, state

SIZE, VIEWS, CHANNELS = 16, 8, 3
CPU = torch.device("cpu")
LGM = LgmConfig(
    down_widths=(8, 16),
    down_attention=(False, True),
    up_widths=(16, 8),
    up_attention=(True, False),
    layers_per_block=1,
    num_heads=2,
    norm_num_groups=4,
    time_channels=8,
)
UNET = UNetConfig(
    in_channels=2 * CHANNELS,
    out_channels=CHANNELS,
    model_channels=16,
    channel_mult=(1, 1),
    num_res_blocks=1,
    attention_levels=(False, True),
    num_head_channels=8,
    context_dim=24,
    add_embed_dim=768,
    norm_num_groups=8,
)
PAIR = of(
    SMALL,
    family="ouroboros3d",
    network=NetworkConfig(UNET, 4, (1.0,), 0.4, encoder_channels=8, residual_init_scale=0.3),
    joint=JointConfig(reconstruction=LGM, reconstruction_size_px=SIZE, lpips_weight=0.0),
)


@pytest.fixture(scope="module")
def items():
    stream = ProceduralDataset(5, SIZE, family="ouroboros3d")
    return [stream.fetch(number) for number in range(2)]


def randomised(config=PAIR, seed=1):
    """A module whose zero layers are random, so that they block no gradient."""
    module = build_joint_module(config)
    generator = torch.Generator().manual_seed(seed)
    for weight in module.parameters():
        weight.data += 0.05 * torch.randn(weight.shape, generator=generator)
    return module


def inputs_of(items, module, config=PAIR, has_feedback=(True, True)):
    randomness = draw_step_randomness(0, 0, range(2), (1, VIEWS, CHANNELS, 4, 4), SIZE)
    objective = JointObjective(config, module, module, CPU)
    inputs = objective.inputs(collate_images(items, VIEWS, SIZE), randomness, 0)
    return replace(inputs, has_feedback=torch.tensor(has_feedback))


def gradient_norm(module: nn.Module, part: str = "") -> float:
    """Largest absolute gradient of the weights whose names contain `part`."""
    found = [
        float(weight.grad.abs().max())
        for name, weight in module.named_parameters()
        if weight.grad is not None and part in name
    ]
    return max(found, default=0.0)


# gradients


@pytest.mark.parametrize(
    ("feedback", "reaches"),
    [("both", True), ("colour", True), ("coordinates", True), ("none", False)],
)
def test_diffusion_loss_reaches_the_reconstruction_through_its_renders(items, feedback, reaches):
    config = of(PAIR, joint__feedback=feedback)
    module = randomised(config)
    module(inputs_of(items, module, config))[0].sum().backward()
    assert gradient_norm(module.unet) > 0.0
    assert (gradient_norm(module.reconstruction) > 0.0) == reaches


def test_coordinate_maps_pass_the_gradient_of_depth(items):
    """With coordinates alone, the position of a splat along a ray matters only through depth."""
    module = randomised()
    poses = inputs_of(items, module).poses
    splats = module.reconstruct(torch.rand(2, VIEWS, 3, SIZE, SIZE), torch.zeros(2), poses)
    renders = render(splats, poses, SIZE)
    gradients = torch.autograd.grad(renders.depths.sum(), splats.positions, retain_graph=True)[0]
    assert float(gradients.abs().max()) > 0.0
    feedback = replace_config(module, feedback="coordinates").feedback(renders, poses, SIZE)
    assert float(feedback.colours.abs().max()) == 0.0
    (gradient,) = torch.autograd.grad(feedback.coordinates.sum(), splats.positions)
    assert float(gradient.abs().max()) > 0.0


def replace_config(module, **changes):
    module.config = replace(module.config, **changes)
    return module


def test_loss_of_the_renders_does_not_reach_the_multi_view_network(items):
    module = randomised()
    module(inputs_of(items, module, has_feedback=(False, True)))[1].sum().backward()
    assert gradient_norm(module.reconstruction) > 0.0
    assert gradient_norm(module.unet) == 0.0
    assert gradient_norm(module.encoder) == 0.0


def test_second_pass_replaces_the_loss_of_the_first(items):
    module = randomised()
    with torch.no_grad():
        mixed, first, second = (
            module(inputs_of(items, module, has_feedback=each))
            for each in ((True, False), (False, False), (True, True))
        )
    torch.testing.assert_close(mixed[0, 0], second[0, 0])
    torch.testing.assert_close(mixed[0, 1], first[0, 1])
    assert float((first[0] - second[0]).abs().min()) > 1e-6
    torch.testing.assert_close(mixed[1], first[1])  # both see the first estimate


def test_gradient_equals_that_of_a_step_with_gradients_everywhere(items):
    """The first pass of objects with a second one runs without gradient, which changes nothing."""
    module = randomised()
    inputs = inputs_of(items, module, has_feedback=(True, False))
    module(inputs).sum().backward()
    fast = [weight.grad.clone() for weight in module.parameters() if weight.grad is not None]
    module.zero_grad()
    predictions = module.predict(inputs, module.feedback(None, inputs.poses, SIZE)).float()
    with torch.no_grad():
        images = module.codec.decode(denoised(predictions, inputs).flatten(0, 2), VIEWS)
    noisy = (images * 0.5 + 0.5).view_as(inputs.views)
    c_noise = 0.25 * inputs.sigmas.log()
    renders = [
        render(module.reconstruct(each, level, inputs.poses), inputs.poses, SIZE)
        for each, level in ((noisy, c_noise), (inputs.views, torch.zeros(2)))
    ]
    error = [(each.colours - inputs.views).abs().mean(dim=(1, 2, 3, 4)) for each in renders]
    second = module.predict(inputs, module.feedback(renders[0], inputs.poses, SIZE))
    losses = [
        edm_loss(each, inputs.clean, inputs.noise, inputs.sigmas)[0]
        for each in (predictions, second)
    ]
    loss = losses[1][0] + losses[0][1] + 0.5 * (error[0] + error[1]).sum()
    loss.backward()
    slow = [weight.grad for weight in module.parameters() if weight.grad is not None]
    assert len(fast) == len(slow)
    one, two = (torch.cat([each.flatten() for each in part]) for part in (fast, slow))
    assert float((one - two).norm() / two.norm()) < 1e-4


def test_feedback_is_drawn_for_half_of_the_objects(items):
    randomness = draw_step_randomness(0, 0, range(2000), (1, 1, 1, 1, 1), 2)
    assert float((randomness.feedback < 0.5).float().mean()) == pytest.approx(0.5, abs=0.03)
    module = build_joint_module(PAIR)
    for probability, expected in ((0.0, False), (1.0, True)):
        config = of(PAIR, joint__feedback_probability=probability)
        objective = JointObjective(config, module, module, CPU)
        draw = draw_step_randomness(0, 0, range(2), (1, VIEWS, CHANNELS, 4, 4), SIZE)
        found = objective.inputs(collate_images(items, VIEWS, SIZE), draw, 0).has_feedback
        assert found.tolist() == [expected] * 2


# cameras


def test_orbits_start_at_a_level_camera_and_keep_their_relative_poses():
    azimuths = torch.tensor([TRAINING_ORBITS["ouroboros3d"].azimuths_deg])
    elevations = torch.full((1, VIEWS), 25.0)
    rig = preset_orbit("ouroboros3d", SIZE, SIZE).rig
    poses = model_poses(elevations, azimuths)[0]
    front = torch.eye(4)
    front[1, 1] = front[2, 2] = -1.0
    front[2, 3] = rig.radius  # at (0, 0, r), looking along -Z
    torch.testing.assert_close(poses[0], front, atol=1e-5, rtol=0)
    own = cameras_at(azimuths[0].tolist(), elevations[0].tolist(), rig).world_to_camera
    relative = [each @ torch.linalg.inv(each[0]) for each in (own, poses)]
    torch.testing.assert_close(relative[0], relative[1], atol=1e-5, rtol=0)
    level = model_poses(torch.zeros(1, VIEWS), azimuths)[0]
    expected = cameras_at(azimuths[0].tolist(), [0.0] * VIEWS, rig).world_to_camera
    torch.testing.assert_close(level, expected, atol=1e-5, rtol=0)
    assert FAMILIES["ouroboros3d"].views == VIEWS


def test_visual_hull_as_splats_renders_as_the_masks():
    """The cameras of the model's world are those that the training images were rendered from."""
    size_px = 32
    item = ProceduralDataset(5, size_px, family="ouroboros3d").fetch(1)
    poses = model_poses(item["elevation_deg"][None], item["azimuth_deg"][None])
    axis = torch.linspace(-0.6, 0.6, 40)
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    focal = preset_orbit("ouroboros3d", size_px, size_px).rig.focal_per_width
    truth, inside = item["mask"] > 63, torch.ones(len(points), dtype=torch.bool)
    for pose, mask in zip(poses[0], truth, strict=True):
        local = points @ pose[:3, :3].T + pose[:3, 3]
        pixels = (local[:, :2] / local[:, 2:] * focal + 0.5) * size_px
        column, row = pixels.floor().long().clamp(0, size_px - 1).T
        inside &= mask[row, column]
    hull = points[inside][None]  # (1, N, 3)
    count = hull.shape[1]
    splats = RawSplats(
        hull,
        torch.full((1, count, 3), 0.015),
        torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(1, count, 4),
        torch.full((1, count), 0.95),
        torch.zeros(1, count, 3),
    )
    found = render(splats, poses, size_px).opacities[0] > 0.3
    overlap = (found & truth).sum(dim=(1, 2)) / (found | truth).sum(dim=(1, 2))
    assert float(overlap.min()) > 0.7, overlap  # limited by the grid and the blur of splats


# initialisation


def test_networks_equal_their_starts_at_first(tmp_path):
    svd = random_unet("svd")
    unet = feedback_unet_from_svd(svd, 8)
    silence_feedback(unet)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, 2, 8, 8, 8, generator=generator)
    arguments = x, torch.zeros(1), torch.ones(1, 1, svd.config.context_dim), torch.rand(1, 2, 768)
    module = build_joint_module(PAIR)
    poses = model_poses(torch.zeros(1, 2), torch.tensor([[0.0, 90.0]]))
    feedback = module.feedback(None, poses, 64)
    torch.testing.assert_close(unet(*arguments, None, feedback), svd(*arguments))

    lgm = Lgm(replace(LGM, time_channels=0))
    path = tmp_path / "lgm.safetensors"
    save_reconstruction(lgm, path)
    network = build_reconstruction(JointConfig(reconstruction_start=str(path)), 0)
    assert network.config.time_channels == 128
    views = torch.randn(1, 4, 9, SIZE, SIZE, generator=generator)
    torch.testing.assert_close(network(views, torch.ones(1)), lgm(views))


def test_splats_of_a_new_network_are_visible(items):
    module = build_joint_module(PAIR)
    inputs = inputs_of(items, module)
    splats = module.reconstruct(inputs.views, torch.zeros(2), inputs.poses)
    renders = render(splats, inputs.poses, SIZE)
    assert float(renders.opacities.detach().mean()) > 0.05
    assert bool((splats.rotations[..., 0] == 1.0).all())


def test_rejects_a_reconstruction_without_time():
    with pytest.raises(InputError, match="no time embedding"):
        build_reconstruction(JointConfig(reconstruction=replace(LGM, time_channels=0)), 0)
    with pytest.raises(InputError, match="joint feedback"):
        JointConfig(feedback="depth")


# runs


def test_resumes_exactly_exports_a_pair_and_samples(items, tmp_path):
    config = of(PAIR, optimiser__steps=4, run__validation_steps=4, run__validation_objects=1,
                run__sampling_steps=2)  # fmt: skip
    whole = run(config, tmp_path / "whole", items)
    run(config, tmp_path / "parts", items, progress=cancel_after(2))
    assert_equal(state(run(config, tmp_path / "parts", items)), state(whole))
    lines = log_of(tmp_path / "whole")
    losses = [line for line in lines if line["event"] == "train"]
    assert all(
        line["loss"] == pytest.approx(line["loss_diffusion"] + line["loss_reconstruction"])
        for line in losses
    )
    (validation,) = [line for line in lines if line["event"] == "validation"]
    assert {"psnr", "render_psnr", "agreement_psnr"} <= set(validation)
    path = tmp_path / "pair.safetensors"
    export_run(tmp_path / "whole", path, "float32")
    pair = load_recursive(path, reconstruction_file(path))
    assert pair.coordinates == "true"
    assert (pair.family.size_px, pair.reconstruction.family.size_px) == (SIZE, SIZE)
    image = items[0]["colour"][0].float() / 255
    settings = SampleConfig(steps=2, framing="image")
    with whole.ema.average_parameters():
        direct = sample_recursive(whole.module.model(size_px=SIZE), image, config=settings)
    found = sample_recursive(pair, image, config=settings)
    torch.testing.assert_close(found.images, direct.images, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.splats.positions, direct.splats.positions, atol=1e-4, rtol=0)
    with pytest.raises(InputError, match="exists"):
        export_run(tmp_path / "whole", path)


def test_latents_need_their_images(tmp_path, items):
    images, module = tmp_path / "images", build_joint_module(PAIR)
    image = ImageConfig(size_px=SIZE, family="ouroboros3d", supersample=1)
    render_dataset(ProceduralObjects(2), images, DatasetConfig(image=image))
    encoders = Encoders(module.codec, module.image_encoder, "small")
    objective = JointObjective(PAIR, module, module, CPU)
    module.encoder = None  # as CLIP, frozen
    draw = draw_step_randomness(0, 0, range(2), (1, VIEWS, CHANNELS, 4, 4), SIZE)
    for keep in (False, True):
        folder = tmp_path / f"latents{keep}"
        precompute_latents(images, folder, encoders, PrecomputeConfig(1, keep_images=keep))
        read = list(ShardDataset(folder, epochs=1, shuffle=False))
        batch = collate_latents(read, (1, VIEWS, CHANNELS, 4, 4))
        if not keep:
            with pytest.raises(InputError, match="keep-images"):
                objective.inputs(batch, draw, 0)
            continue
        found = objective.inputs(batch, draw, 0)
        sources = list(ShardDataset(images, epochs=1, shuffle=False))
        expected = objective.inputs(collate_images(sources, VIEWS, SIZE), draw, 0)
        assert torch.equal(found.views, expected.views)
        torch.testing.assert_close(found.clean, expected.clean, atol=2e-3, rtol=1e-3)


def test_settings_survive_json_and_presets_are_valid(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(asdict(PAIR)))
    assert read_train_config(str(path)) == PAIR
    full = read_train_config("ouroboros3d")
    assert full.joint.feedback_probability == 0.5 and full.noise == (NoiseStage(0.0, 1.0, 1.6),)
    assert full.optimiser.batch_size == 32 and full.optimiser.ema_decay == 0.0
    build_joint_module(read_train_config("ouroboros3d_mini"))


@pytest.mark.slow
def test_losses_of_one_object_fall(items, tmp_path):
    """One object, one camera orbit: both networks learn it by heart."""
    config = of(
        PAIR,
        optimiser__name="muon",
        optimiser__steps=250,
        optimiser__batch_size=1,
        optimiser__learning_rate=2e-2,
        optimiser__warmup_steps=10,
        optimiser__lr_schedule="cosine",
        noise=(NoiseStage(0.0, 2.5, 0.5),),
        conditioning__dropout=0.0,
        conditioning__augmentation__random_background_fraction=0.0,
    )
    run(config, tmp_path, items[:1])
    lines = [line for line in log_of(tmp_path) if line["event"] == "train"]

    def mean(name, part):
        return sum(line[name] for line in part) / len(part)

    for name in ("loss_diffusion", "loss_reconstruction"):
        start, end = mean(name, lines[:5]), mean(name, lines[-20:])
        assert end < 0.1 * start, (name, start, end)


def test_trains_on_procedural_objects(tmp_path):
    result = train(of(PAIR, optimiser__steps=1), tmp_path, cpu=True)
    assert result.reason == "finished" and result.progress.skipped == 0


@pytest.mark.parametrize(("kind", "count"), [("true", 0), ("released", 1)])
def test_warns_if_a_pair_is_continued_with_other_coordinates(kind, count, items, tmp_path, caplog):
    run(of(PAIR, optimiser__steps=1), tmp_path / "run", items)
    path = tmp_path / "pair.safetensors"
    export_run(tmp_path / "run", path, "float32")
    caplog.clear()
    build_joint_module(of(PAIR, start=str(path), joint__coordinates=kind))
    assert caplog.text.count("was trained with joint.coordinates = true") == count


def test_continues_a_pair_and_rejects_swapped_files(items, tmp_path):
    run(of(PAIR, optimiser__steps=1), tmp_path / "run", items)
    path = tmp_path / "pair.safetensors"
    exported = export_run(tmp_path / "run", path, "float32").module
    other = reconstruction_file(path)

    def build(start, reconstruction):
        config = of(PAIR, start=str(start), joint__reconstruction_start=str(reconstruction))
        return build_joint_module(config)

    assert_equal(dict(build(path, other).state_dict()), dict(exported.state_dict()))
    assert_equal(dict(build(path, "").state_dict()), dict(exported.state_dict()))  # next to it
    lgm = tmp_path / "lgm.safetensors"
    save_reconstruction(Lgm(replace(LGM, time_channels=0)), lgm)
    with pytest.raises(InputError, match=r"continues the pair of .*, but .* is LGM"):
        build(path, lgm)
    with pytest.raises(InputError, match=r"is no reconstruction model|not the reconstruction"):
        build(path, path)
    with pytest.raises(InputError, match=r"reconstruction\.safetensors"):
        build(other, other)
