"""Runs that start from a file: NOVA3D out of SVD, or a model that goes on learning."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from nova3d_core.cli.main import main
from nova3d_core.diffusion.families import FAMILIES
from nova3d_core.errors import InputError
from nova3d_core.training.data.batches import to_signed
from nova3d_core.training.data.shards import ShardDataset
from nova3d_core.training.export import export_run
from nova3d_core.training.init_from_svd import nova3d_from_svd
from nova3d_core.training.train_module import TrainModule, build_train_module
from nova3d_core.weights.discovery.layouts import identify
from nova3d_core.weights.files.inspect import read_header
from nova3d_core.weights.load import load_model, load_svd
from nova3d_core.weights.save import save_nova3d

from ..weights.models import assert_same, random_model, states
from .parts import SMALL, objects, of, run

SIZE = 64


@pytest.fixture
def svd(tmp_path):
    """A small whole SVD file, without our metadata."""
    model = random_model("svd")
    model.family = FAMILIES["v3d"]
    save_nova3d(model, tmp_path / "ours.safetensors")
    path = tmp_path / "svd_xt.safetensors"
    save_file(load_file(tmp_path / "ours.safetensors"), path)
    return path


@pytest.fixture
def config(svd):
    return of(
        SMALL,
        family="nova3d",
        start=str(svd),
        data__size_px=SIZE,
        optimiser__steps=2,
        optimiser__batch_size=1,
    )


def test_svd_grows_into_nova3d(svd, config):
    trainee = build_train_module(config)
    unet, codec, encoder = load_svd(svd)
    expected = nova3d_from_svd(unet, config.seed)
    assert_same(dict(trainee.unet.state_dict()), dict(expected.state_dict()))
    assert_same(dict(trainee.codec.state_dict()), dict(codec.state_dict()))
    assert_same(dict(trainee.image_encoder.state_dict()), dict(encoder.state_dict()))
    assert trainee.encoder is None  # CLIP is not trained
    assert trainee.family is FAMILIES["nova3d"]


@pytest.mark.slow
def test_a_run_out_of_svd_learns_and_is_exported(svd, config, tmp_path):
    before = build_train_module(config)
    items = objects(2, size=SIZE)
    outcome = run(config, tmp_path / "a", items)
    assert outcome.place.skipped == 0
    changed = [
        name
        for name, value in outcome.trainee.unet.state_dict().items()
        if not torch.equal(value, before.unet.state_dict()[name])
    ]
    trained = [name for name, w in outcome.trainee.unet.named_parameters() if w.requires_grad]
    assert set(changed) <= set(trained)
    assert any("attn_align.to_out" in name for name in changed)
    assert "camera_task_emb.2.weight" in changed
    path = tmp_path / "nova3d.safetensors"
    export_run(tmp_path / "a", path, "float32")
    model = load_model(path)
    assert model.family.name == "nova3d"
    with outcome.ema.average_parameters():
        assert_same(states(model), states(outcome.trainee.model()))


def test_a_model_of_the_family_goes_on_learning_and_its_file_is_left_alone(tmp_path):
    path = tmp_path / "mini.safetensors"
    save_nova3d(random_model("nova3d-mini"), path, note="made of noise")
    before = path.read_bytes()
    size = 2 * FAMILIES["nova3d-mini"].size_px // 8
    config = of(SMALL, start=str(path), data__size_px=size, optimiser__steps=1)
    outcome = run(config, tmp_path / "run", objects(2, size=size))
    assert outcome.trainee.encoder is not None
    assert path.read_bytes() == before
    again = build_train_module(config)
    assert isinstance(again, TrainModule)
    assert_same(
        {name: value.float() for name, value in states(load_model(path)).items()},
        dict(states(again.model())),
    )
    export_run(tmp_path / "run", tmp_path / "further.safetensors")
    (said,) = identify(read_header(tmp_path / "further.safetensors")).notes
    assert said.startswith("Trained for 1 steps on 2 objects, 0 hours, out of mini.safetensors.")
    assert said.endswith("Its note: made of noise")


def test_files_of_other_families_are_refused(svd, tmp_path):
    path = tmp_path / "sv3d_u.safetensors"
    save_nova3d(random_model("sv3d_u"), path)
    with pytest.raises(InputError, match=r"is SV3D u, but the settings train NOVA3D"):
        build_train_module(of(SMALL, family="nova3d", start=str(path)))
    with pytest.raises(InputError, match="base Stable Video Diffusion"):
        build_train_module(of(SMALL, start=str(svd)))  # the mini model does not grow out of it
    with pytest.raises(InputError, match="no base SVD"):
        load_svd(path)
    with pytest.raises(InputError, match=r"size_px is 32, .* takes multiples of 64"):
        run(of(SMALL, family="nova3d", start=str(svd), data__size_px=32), tmp_path / "run")
    with pytest.raises(InputError, match="cannot be trained here"):
        of(SMALL, family="v3d")


def test_latents_of_svd_by_the_command_itself(svd, tmp_path):
    small = ["--image.size-px", "64", "--image.views", "2"]
    made = tmp_path / "set"
    words = ["render-dataset", "--procedural", "2", "-o", str(made), "--precompute-latents", str(svd)]
    assert main([*words, *small]) == 0
    images = list(ShardDataset(made, epochs=1, shuffle=False))
    latents = list(ShardDataset(made / "latents", epochs=1, shuffle=False))
    assert [item["key"] for item in latents] == [item["key"] for item in images]
    _, codec, _ = load_svd(svd)
    want = codec.float().encode_scaled(to_signed(images[0]["colour"]))
    assert torch.allclose(latents[0]["colour_latent"].float(), want, atol=2e-3, rtol=1e-3)


def test_a_file_without_encoders_is_refused_before_anything_is_rendered(tmp_path, capsys):
    other = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(1)}, other)
    made = tmp_path / "set"
    words = ["render-dataset", "--procedural", "2", "-o", str(made), "--precompute-latents", str(other)]
    assert main(words) == 2
    assert "other.safetensors is not a multi-view model" in capsys.readouterr().err
    assert not list(made.rglob("*.tar"))
