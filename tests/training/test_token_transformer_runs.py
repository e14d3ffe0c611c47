"""Training of a token transformer: subsets of views, exact resumption, exported files."""

from __future__ import annotations

import pytest
import torch

from nova3d_core.diffusion.families import FAMILIES
from nova3d_core.diffusion.model import OneDevice
from nova3d_core.diffusion.network.token_transformer import TokenTransformer
from nova3d_core.diffusion.network.token_transformer_config import TokenTransformerConfig
from nova3d_core.errors import InputError
from nova3d_core.training.data.batches import collate_images
from nova3d_core.training.export import export_run
from nova3d_core.training.objective import Objective
from nova3d_core.training.presets import read_train_config
from nova3d_core.training.step_rng import draw_step_randomness, draw_views
from nova3d_core.training.train_module import init_train_module
from nova3d_core.training.validation import generate_views
from nova3d_core.weights.discovery.layouts import identify, read_header
from nova3d_core.weights.load import load_model

from .parts import SIZE, SMALL, VIEWS, assert_equal, cancel_after, log_of, objects, of, run, state

NETWORK = TokenTransformerConfig(
    in_channels=SMALL.network.unet.in_channels,
    out_channels=SMALL.network.unet.out_channels,
    channels=16,
    depth=3,
    num_head_channels=8,
    spans=("view", "row", "full"),
    context_dim=24,
)
TOKENS = of(SMALL, network__transformer=NETWORK, optimiser__name="muon", data__views_per_step=5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_resumed_equals_uninterrupted(tmp_path, precision):
    config = of(TOKENS, precision=precision)
    uninterrupted = run(config, tmp_path / "uninterrupted")
    assert uninterrupted.reason == "finished"
    assert run(config, tmp_path / "resumed", progress=cancel_after(3)).reason == "cancelled"
    resumed = run(config, tmp_path / "resumed")
    assert resumed.reason == "finished"
    assert_equal(state(resumed), state(uninterrupted))


@pytest.mark.parametrize("joint", [True, False])
def test_exported_file_samples_as_the_trained_network(tmp_path, joint):
    result = run(of(TOKENS, network__transformer__joint_domains=joint), tmp_path / "run")
    path = tmp_path / "tokens.safetensors"
    export_run(tmp_path / "run", path)
    identity = identify(read_header(path))
    assert identity.family == "nova3d-mini"
    assert identity.parts == ("unet", "pixel_codec", "small_encoder")
    assert all(note.startswith("Trained for ") for note in identity.notes)
    loaded = load_model(path)
    assert isinstance(loaded.unet, TokenTransformer)
    assert loaded.unet.config == result.module.unet.config
    image = objects(1, seed=3)[0]["colour"][0].float() / 255
    with result.ema.average_parameters():
        model = result.module.model(size_px=SIZE)
        expected = generate_views(model, image, OneDevice(model, torch.device("cpu")), 1, 3)
    found = generate_views(loaded, image, OneDevice(loaded, torch.device("cpu")), 1, 3)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_damaged_metadata_are_an_error(tmp_path):
    run(TOKENS, tmp_path / "run")
    path = tmp_path / "tokens.safetensors"
    export_run(tmp_path / "run", path)
    data = path.read_bytes()
    path.write_bytes(data.replace(b'\\"spans\\": [\\"view\\"', b'\\"spans\\": [\\"vieu\\"'))
    with pytest.raises(InputError, match=r"tokens.safetensors is damaged.*span"):
        load_model(path)


def test_loss_falls(tmp_path):
    config = of(TOKENS, optimiser__steps=60, optimiser__learning_rate=1e-2)
    run(config, tmp_path, objects(4))
    losses = [event["loss"] for event in log_of(tmp_path) if event["event"] == "train"]
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])


def test_views_of_a_step():
    drawn = [draw_views(7, step, VIEWS, 5) for step in range(200)]
    assert all(views[0] == 0 and (views.diff() > 0).all() and len(views) == 5 for views in drawn)
    counts = torch.cat(drawn).bincount(minlength=VIEWS)[1:]
    assert counts.min() > 25 and counts.max() < 85  # 200 x 4 / 15 = 53 each
    assert torch.equal(drawn[3], draw_views(7, 3, VIEWS, 5))
    assert torch.equal(draw_views(7, 3, VIEWS, VIEWS), torch.arange(VIEWS))


def test_loss_of_a_step_is_that_of_its_views():
    config = of(TOKENS, network__residual_init_scale=1.0)
    module = init_train_module(config.network, FAMILIES[config.family], 0)
    batch = collate_images(objects(2), VIEWS, SIZE)
    shape = (2, VIEWS, NETWORK.out_channels, SIZE // 4, SIZE // 4)
    randomness = draw_step_randomness(0, 1, range(2), shape, SIZE)
    views = draw_views(config.seed, 1, VIEWS, 5)
    found, sigmas = Objective(config, module, module, torch.device("cpu")).losses(
        batch, randomness, 1
    )
    whole = Objective(of(config, data__views_per_step=0), module, module, torch.device("cpu"))
    expected, expected_sigmas = whole.losses(
        batch.select_views(views), randomness.select_views(views), 1
    )
    assert torch.equal(found, expected) and torch.equal(sigmas, expected_sigmas)
    assert not torch.equal(found, whole.losses(batch, randomness, 1)[0])


def test_unet_needs_all_views(tmp_path):
    with pytest.raises(InputError, match="views_per_step is 5, but a UNet"):
        run(of(SMALL, data__views_per_step=5), tmp_path)


def test_preset_is_small_enough():
    config = read_train_config("mini_tokens")
    module = init_train_module(config.network, FAMILIES[config.family], config.seed)
    assert sum(weight.numel() for weight in module.parameters()) * 2 < 16e6
