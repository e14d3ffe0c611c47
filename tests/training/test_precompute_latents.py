"""Precomputed latents equal those that training would compute from the images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from nova3d_core.diffusion.families import FAMILIES
from nova3d_core.errors import Cancelled, InputError, StageError
from nova3d_core.progress import Progress
from nova3d_core.training.config import ConditioningConfig
from nova3d_core.training.data import precompute_latents as precompute_module
from nova3d_core.training.data.batches import collate_images, to_signed
from nova3d_core.training.data.conditioning import sample_conditioning
from nova3d_core.training.data.config import DatasetConfig, ImageConfig, PrecomputeConfig
from nova3d_core.training.data.mesh_sources import ProceduralObjects
from nova3d_core.training.data.precompute_latents import Encoders, load_encoders, precompute_latents
from nova3d_core.training.data.render_dataset import render_dataset
from nova3d_core.training.data.shards import ShardDataset
from nova3d_core.training.step_rng import draw_step_randomness

from ..diffusion.models import small_model

COUNT = 7
CONFIG = PrecomputeConfig(variants=3)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Encodes in several chunks."""
    monkeypatch.setattr(precompute_module, "ENCODE_CHUNK_SIZE", 4)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images") / "set"
    image = ImageConfig(size_px=16, views=4, supersample=1)
    render_dataset(
        ProceduralObjects(COUNT), folder, DatasetConfig(image=image, objects_per_shard=3)
    )
    return folder


@pytest.fixture(scope="module", params=["nova3d", "nova3d-mini"])
def encoders(request) -> Encoders:
    model = small_model(request.param)
    return Encoders(model.codec, model.image_encoder, "small")


def test_latents_equal_those_of_training(images, encoders, tmp_path):
    done = precompute_latents(images, tmp_path / "latents", encoders, CONFIG)
    assert (done.shards, done.kept, done.objects) == (3, 0, COUNT)
    read = list(ShardDataset(tmp_path / "latents", epochs=1, shuffle=False))
    sources = list(ShardDataset(images, epochs=1, shuffle=False))
    assert [item["key"] for item in read] == [item["key"] for item in sources]
    codec, number = encoders.codec, 5
    latents, item = read[number], sources[number]
    assert torch.equal(latents["azimuth_deg"], item["azimuth_deg"])
    for name in ("colour", "normal"):
        expected = codec.encode_scaled(to_signed(item[name]))
        assert latents[f"{name}_latent"].shape == expected.shape == (4, codec.latent_channels, 8, 8)
        assert torch.allclose(latents[f"{name}_latent"].float(), expected, atol=2e-3, rtol=1e-3)
    for variant in range(3):
        # the random numbers of a training step of this seed at this index
        randomness = draw_step_randomness(0, number, range(variant, variant + 1), (1,) * 5, 16)
        conditioning = sample_conditioning(
            collate_images([item], 4, 16), randomness, ConditioningConfig(), FAMILIES["nova3d"]
        )
        close = {"atol": 4e-3, "rtol": 2e-3}
        expected = codec.encode(conditioning.noisy_image)[0]
        assert torch.allclose(latents["image_latent"][variant].float(), expected, **close)
        expected = encoders.image_encoder.embed(conditioning.image)[0, 0]
        assert torch.allclose(latents["embedding"][variant].float(), expected, **close)
        strength = torch.exp(-3.0 + 0.5 * randomness.strength)
        assert torch.allclose(latents["strength"][variant], strength[0])


def test_resumed_run_gives_the_same_shards(images, encoders, tmp_path):
    precompute_latents(images, tmp_path / "whole", encoders, CONFIG)
    events: list = []
    stopping = Progress(events.append, lambda: len(events) > 6)
    with pytest.raises(Cancelled):
        precompute_latents(images, tmp_path / "latents", encoders, CONFIG, progress=stopping)
    remaining = sorted(path.name for path in (tmp_path / "latents").iterdir())
    assert remaining == ["dataset.json", "shard-000000.tar"]
    assert precompute_latents(images, tmp_path / "latents", encoders, CONFIG).kept == 1
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "latents" / path.name).read_bytes() == path.read_bytes()
    with pytest.raises(InputError, match="variants was 3, now 2"):
        precompute_latents(images, tmp_path / "latents", encoders, PrecomputeConfig(variants=2))


def test_rejects_latents_that_are_not_finite(images, tmp_path):
    model = small_model("nova3d", seed=3)
    with torch.no_grad():
        next(model.codec.parameters()).fill_(torch.nan)
    encoders = Encoders(model.codec, model.image_encoder, "broken")
    with pytest.raises(StageError, match=r"colour_latent of object procedural-0 is not finite"):
        precompute_latents(images, tmp_path / "latents", encoders)
    assert [path.name for path in (tmp_path / "latents").iterdir()] == ["dataset.json"]


def test_settings_name_model_and_images(images, encoders, tmp_path):
    precompute_latents(images, tmp_path / "latents", encoders, CONFIG)
    settings = json.loads((tmp_path / "latents" / "dataset.json").read_text())
    assert settings["model"] == "small" and settings["images"]["objects"] == COUNT


def test_rejects_a_file_that_is_no_model(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"model\.safetensors"):
        load_encoders(tmp_path / "model.safetensors")
