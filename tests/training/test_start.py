"""Runs that start from a file: NOVA3D from SVD, or fine-tuning a model."""

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


@pytest.fixture(scope="module")
def svd(tmp_path_factory):
    """A small complete SVD file, without our metadata."""
    model = random_model("svd")
    model.family = FAMILIES["v3d"]
    folder = tmp_path_factory.mktemp("svd")
    save_nova3d(model, folder / "ours.safetensors")
    path = folder / "svd_xt.safetensors"
    save_file(load_file(folder / "ours.safetensors"), path)
    return path


@pytest.fixture(scope="module")
def config(svd):
    return of(
        SMALL,
        family="nova3d",
        start=str(svd),
        data__size_px=SIZE,
        optimiser__steps=2,
        optimiser__batch_size=1,
    )


def test_initialises_nova3d_from_svd(svd, config):
    module = build_train_module(config)
    unet, codec, encoder = load_svd(svd)
    expected = nova3d_from_svd(unet, config.seed)
    assert_same(dict(module.unet.state_dict()), dict(expected.state_dict()))
    assert_same(dict(module.codec.state_dict()), dict(codec.state_dict()))
    assert_same(dict(module.image_encoder.state_dict()), dict(encoder.state_dict()))
    assert module.encoder is None  # CLIP is not trained
    assert module.family is FAMILIES["nova3d"]


@pytest.mark.slow
def test_run_from_svd_trains_and_exports(svd, config, tmp_path):
    before = build_train_module(config)
    items = objects(2, size=SIZE)
    result = run(config, tmp_path / "a", items)
    assert result.progress.skipped == 0
    changed = [
        name
        for name, value in result.module.unet.state_dict().items()
        if not torch.equal(value, before.unet.state_dict()[name])
    ]
    trained = [name for name, w in result.module.unet.named_parameters() if w.requires_grad]
    assert set(changed) <= set(trained)
    assert any("attn_align.to_out" in name for name in changed)
    assert "camera_task_emb.2.weight" in changed
    path = tmp_path / "nova3d.safetensors"
    export_run(tmp_path / "a", path, "float32")
    model = load_model(path)
    assert model.family.name == "nova3d"
    with result.ema.average_parameters():
        assert_same(states(model), states(result.module.model()))


def test_fine_tunes_a_model_without_touching_its_file(tmp_path):
    path = tmp_path / "mini.safetensors"
    save_nova3d(random_model("nova3d-mini"), path, note="made of noise")
    before = path.read_bytes()
    size = 2 * FAMILIES["nova3d-mini"].size_px // 8
    config = of(SMALL, start=str(path), data__size_px=size, optimiser__steps=1)
    result = run(config, tmp_path / "run", objects(2, size=size))
    assert result.module.encoder is not None
    assert path.read_bytes() == before
    again = build_train_module(config)
    assert isinstance(again, TrainModule)
    assert_same(
        {name: value.float() for name, value in states(load_model(path)).items()},
        dict(states(again.model())),
    )
    export_run(tmp_path / "run", tmp_path / "further.safetensors")
    (note,) = identify(read_header(tmp_path / "further.safetensors")).notes
    assert note.startswith(
        "Trained for 1 steps on 2 objects, 0 hours, starting from mini.safetensors."
    )
    assert note.endswith("Its note: made of noise")


def test_rejects_files_of_other_families(svd, tmp_path):
    path = tmp_path / "sv3d_u.safetensors"
    save_nova3d(random_model("sv3d_u"), path)
    with pytest.raises(InputError, match=r"is SV3D u, but the settings train NOVA3D"):
        build_train_module(of(SMALL, family="nova3d", start=str(path)))
    with pytest.raises(InputError, match="base Stable Video Diffusion"):
        build_train_module(of(SMALL, start=str(svd)))  # the mini model cannot start from it
    with pytest.raises(InputError, match="is not a base SVD model"):
        load_svd(path)
    with pytest.raises(InputError, match=r"size_px is 32, .* needs multiples of 64"):
        run(of(SMALL, family="nova3d", start=str(svd), data__size_px=32), tmp_path / "run")
    with pytest.raises(InputError, match="cannot be trained here"):
        of(SMALL, family="wonder3d")


def test_command_precomputes_latents_of_svd(svd, tmp_path):
    small = ["--image.size-px", "64", "--image.views", "2"]
    folder = tmp_path / "set"
    words = [
        "render-dataset",
        "--procedural",
        "2",
        "-o",
        str(folder),
        "--precompute-latents",
        str(svd),
    ]
    assert main([*words, *small]) == 0
    images = list(ShardDataset(folder, epochs=1, shuffle=False))
    latents = list(ShardDataset(folder / "latents", epochs=1, shuffle=False))
    assert [item["key"] for item in latents] == [item["key"] for item in images]
    _, codec, _ = load_svd(svd)
    expected = codec.float().encode_scaled(to_signed(images[0]["colour"]))
    assert torch.allclose(latents[0]["colour_latent"].float(), expected, atol=2e-3, rtol=1e-3)


def test_rejects_a_file_without_encoders_before_rendering(tmp_path, capsys):
    other = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(1)}, other)
    folder = tmp_path / "set"
    words = [
        "render-dataset",
        "--procedural",
        "2",
        "-o",
        str(folder),
        "--precompute-latents",
        str(other),
    ]
    assert main(words) == 2
    assert "other.safetensors is not a multi-view model" in capsys.readouterr().err
    assert not list(folder.rglob("*.tar"))
