"""Training of models for scenes: clips, sources, objective, start files and runs."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch

from nova3d_core.diffusion.sampling.config import SampleConfig
from nova3d_core.diffusion.scenes.sample import sample_path
from nova3d_core.errors import InputError
from nova3d_core.io.images.images import write_image
from nova3d_core.io.views.transforms_json import write_views
from nova3d_core.training.config import TrainConfig
from nova3d_core.training.dispatch import build_module, make_objective
from nova3d_core.training.export import export_run
from nova3d_core.training.launch import make_accelerator
from nova3d_core.training.presets import read_train_config
from nova3d_core.training.runs import prepare, train
from nova3d_core.training.scenes.data import (
    ProceduralScenes,
    SceneFolders,
    collate_scenes,
    find_scene_folders,
    room_views,
)
from nova3d_core.training.scenes.module import SceneTrainModule
from nova3d_core.training.scenes.validation import held_out_clips, source_indices
from nova3d_core.training.step_rng import draw_step_randomness
from nova3d_core.weights.load import load_model
from nova3d_core.weights.save import save_nova3d

from ..weights.models import random_model

SIZE, VIEWS = 32, 4


def tiny_config(**scene: object) -> TrainConfig:
    """The small preset, even smaller."""
    config = read_train_config("v3d_scenes_mini")
    conditioner = replace(
        config.scene.conditioner,
        encoder_channels=8,
        hidden_channels=16,
        feature_channels=8,
        samples_per_ray=6,
    )
    return replace(
        config,
        data=replace(config.data, size_px=SIZE),
        scene=replace(config.scene, conditioner=conditioner, rooms=4, **scene),
        optimiser=replace(config.optimiser, steps=2, batch_size=2, micro_batch_size=1),
        run=replace(config.run, log_steps=1, checkpoint_steps=1),
    )


def batch_of(config: TrainConfig, step: int = 0, count: int = 2):
    """A batch of rooms and its random numbers."""
    stream = ProceduralScenes(0, SIZE, VIEWS, rank=0, world_size=1, batch_size=count)
    clips = [stream.fetch(number) for number in range(count)]
    side = SIZE // config.network.codec_factor
    shape = (1, VIEWS, config.network.unet.out_channels, side, side)
    batch = collate_scenes(clips, range(count), 0, step, config.scene.max_sources)
    return batch, draw_step_randomness(0, step, range(count), shape, SIZE)


@pytest.fixture
def folders(tmp_path):
    """Three folders of posed images, of different sizes."""
    for index, size in enumerate((32, 48, 40)):
        write_views(room_views(index, 6, size), tmp_path / "data" / f"room{index}")
    return tmp_path / "data"


def test_the_first_source_is_view_zero_and_a_step_has_one_number_of_sources():
    config, counts = tiny_config(), set()
    for step in range(12):
        batch, _ = batch_of(config, step)
        counts.add(batch.source_index.shape[1])
        assert batch.source_index[:, 0].tolist() == [0, 0]
        for row in batch.source_index.tolist():
            assert len(set(row)) == len(row) and max(row) < VIEWS
    assert counts == {1, 2, 3}


def test_clips_depend_on_seed_step_and_index_only():
    config = tiny_config()
    first, second = batch_of(config, 5)[0], batch_of(config, 5)[0]
    assert torch.equal(first.source_index, second.source_index)
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.jitter_seed, second.jitter_seed)


def test_micro_batches_have_the_losses_of_the_batch():
    config = tiny_config()
    module = build_module(config)
    objective = make_objective(config, module, module, torch.device("cpu"))
    batch, randomness = batch_of(config, 3)
    whole, sigmas = objective.losses(batch, randomness, 0)
    parts = [
        objective.losses(batch.slice(i, i + 1), randomness.slice(i, i + 1), 0)[0] for i in (0, 1)
    ]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-4)
    assert whole.shape == (2, 2) and sigmas.shape == (2,)
    expected = whole[0] + config.scene.colour_weight * whole[1]
    torch.testing.assert_close(objective.total(whole), expected)


@pytest.mark.parametrize("count", [1, 3])
def test_every_weight_gets_a_gradient(count):
    config = tiny_config(max_sources=count, dropout=0.0)
    module = build_module(config)
    with torch.no_grad():  # features have no effect at first, the output layer is zero
        module.unet.input_blocks[0][0].weight[:, -8:].normal_()
        module.unet.out[-1].weight.normal_()
    objective = make_objective(config, module, module, torch.device("cpu"))
    step = next(s for s in range(20) if batch_of(config, s)[0].source_index.shape[1] == count)
    losses, _ = objective.losses(*batch_of(config, step), 0)
    objective.total(losses).sum().backward()
    missing = [name for name, weight in module.named_parameters() if weight.grad is None]
    assert missing == []
    assert float(module.conditioner.encoder.stem.weight.grad.abs().max()) > 0


def test_the_diffusion_loss_reaches_the_conditioner_and_dropout_cuts_it():
    for dropout, expected in ((0.0, True), (1.0, False)):
        config = tiny_config(dropout=dropout)
        module = build_module(config)
        with torch.no_grad():
            module.unet.input_blocks[0][0].weight[:, -8:].normal_()
            module.unet.out[-1].weight.normal_()
        objective = make_objective(config, module, module, torch.device("cpu"))
        losses, _ = objective.losses(*batch_of(config), 0)
        losses[0].sum().backward()
        gradient = module.conditioner.ray_mlp[-1].weight.grad[3:]
        assert bool(gradient.abs().max() > 0) is expected


def test_new_features_have_no_effect_at_the_start():
    module = build_module(tiny_config())
    channels = module.conditioner.config.feature_channels
    assert not bool(module.unet.input_blocks[0][0].weight[:, -channels:].any())


def test_gradient_checkpointing_of_a_run_includes_the_conditioner():
    config = replace(tiny_config(), gradient_checkpointing=True)
    module = build_module(config)
    prepare(module, config, make_accelerator(cpu=True))
    assert module.unet.gradient_checkpointing and module.conditioner.gradient_checkpointing


def test_a_run_resumes_exports_and_samples(tmp_path):
    config = tiny_config()
    config = replace(
        config, run=replace(config.run, validation_steps=2, validation_objects=1, sampling_steps=1)
    )
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    straight = train(config, whole, cpu=True)
    shutil.copytree(whole, halves)
    for later in (halves / "checkpoints").glob("*00000002"):
        shutil.rmtree(later)
    resumed = train(config, halves, cpu=True)
    assert straight.reason == resumed.reason == "finished"
    for (name, one), other in zip(
        straight.module.state_dict().items(), resumed.module.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name
    assert '"psnr"' in (whole / "log.jsonl").read_text()
    file = tmp_path / "scenes.safetensors"
    export_run(whole, file, "float32")
    model, views = load_model(file), room_views(9, 4, SIZE)
    assert (model.family.views, model.family.size_px) == (VIEWS, SIZE)
    result = sample_path(model, views[[0, 3]], views.cameras[1:3], SampleConfig(steps=1))
    assert bool(torch.isfinite(result.views.colour).all())


def test_v3d_starts_a_model_for_scenes_whose_output_is_v3ds(tmp_path):
    v3d = random_model("v3d")
    save_nova3d(v3d, tmp_path / "v3d.safetensors")
    config = replace(tiny_config(), start=str(tmp_path / "v3d.safetensors"))
    module = build_module(config)
    assert isinstance(module, SceneTrainModule)
    assert module.unet.config.in_channels == v3d.unet.config.in_channels + 8
    generator = torch.Generator().manual_seed(0)
    channels, context = v3d.unet.config.in_channels, v3d.unet.config.context_dim
    x = torch.randn((1, 1, 2, channels, 8, 8), generator=generator)
    rest = torch.zeros(1), torch.randn((1, 1, context), generator=generator), torch.zeros(1, 2, 768)
    features = torch.randn((1, 1, 2, 8, 8, 8), generator=generator)
    with torch.no_grad():
        found = module.unet(torch.cat([x, features], dim=3), *rest)
        torch.testing.assert_close(found, v3d.unet.float()(x, *rest), atol=1e-5, rtol=1e-5)


def test_other_models_do_not_start_one(tmp_path):
    save_nova3d(random_model("sv3d_u"), tmp_path / "sv3d.safetensors")
    with pytest.raises(InputError, match="starts from SVD, V3D or another model for scenes"):
        build_module(replace(tiny_config(), start=str(tmp_path / "sv3d.safetensors")))


def test_networks_that_do_not_fit_the_codec():
    config = tiny_config()
    unet = replace(config.network.unet, in_channels=30)
    with pytest.raises(InputError, match="in_channels = 38"):
        build_module(replace(config, network=replace(config.network, unet=unet)))


def test_folders_become_clips_of_one_size(folders):
    stream = SceneFolders([str(folders)], 0, SIZE, VIEWS, batch_size=1)
    clips = [stream.fetch(number) for number in range(6)]
    assert len({clip["key"] for clip in clips[:3]}) == 3
    for clip in clips:
        assert clip["images"].shape == (VIEWS, SIZE, SIZE, 3)
        pose = clip["world_to_camera"]
        positions = -(pose[:, :3, :3].transpose(1, 2) @ pose[:, :3, 3:])[..., 0]
        torch.testing.assert_close(positions.mean(dim=0), torch.zeros(3), atol=1e-5, rtol=0)
        assert float(positions.norm(dim=1).max()) == pytest.approx(1.5, abs=1e-4)
    assert torch.equal(stream.fetch(4)["images"], clips[4]["images"])


def test_clips_are_consecutive_and_short_folders_are_followed_back(folders):
    stream = SceneFolders([str(folders / "room0")], 0, SIZE, 9, batch_size=1)
    images = stream.fetch(0)["images"]
    assert torch.equal(images[5 + 1], images[4]) and torch.equal(images[8], images[2])
    truth = (room_views(0, 6, 32).colour * 255).round()
    assert float((images[:6].float() - truth).abs().max()) <= 1.0


def test_images_without_poses(tmp_path):
    for index in range(3):
        write_image(tmp_path / f"{index}.png", torch.rand(32, 32, 3))
    with pytest.raises(InputError, match="no posed images"):
        find_scene_folders([str(tmp_path)])
    with pytest.raises(InputError, match="does not exist"):
        find_scene_folders([str(tmp_path / "missing")])


def test_a_damaged_folder_is_replaced_and_reported(folders):
    (folders / "room1" / "transforms.json").write_text("{")
    stream = SceneFolders([str(folders)], 0, SIZE, VIEWS, batch_size=1)
    keys = {stream.fetch(number)["key"] for number in range(6)}
    assert keys == {str(folders / "room0"), str(folders / "room2")}
    assert list(stream.unreadable) == [str(folders / "room1")]


def test_only_damaged_folders_are_an_error(folders):
    for folder in folders.iterdir():
        (folder / "transforms.json").write_text("{")
    stream = SceneFolders([str(folders)], 0, SIZE, VIEWS, batch_size=1)
    with pytest.raises(InputError, match="no folder of the training data can be read"):
        stream.fetch(0)


def test_held_out_clips_are_fixed_and_their_sources_are_spread(folders):
    config = tiny_config()
    first, second = held_out_clips(config, 2), held_out_clips(config, 2)
    assert torch.equal(first[1].colour, second[1].colour)
    assert [source_indices(count) for count in (2, 3, 4, 9)] == [[0], [0, 2], [0, 2, 3], [0, 4, 8]]
    config = replace(config, data=replace(config.data, held_out=(str(folders),)))
    assert len(held_out_clips(config, 2)) == 2


def test_presets_are_valid_and_the_full_one_is_v3ds():
    full = read_train_config("v3d_scenes")
    assert full.scene.conditioner == type(full.scene.conditioner)()
    assert (full.scene.views, full.scene.max_sources, full.scene.dropout) == (24, 4, 0.2)
