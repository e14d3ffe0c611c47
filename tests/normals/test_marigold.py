"""Marigold through diffusers: offline, one start noise for all views, cancelled between steps."""

from __future__ import annotations

import json
import socket

import pytest
import torch

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import Cancelled, InputError
from nova3d_core.normals import marigold
from nova3d_core.normals.config import EstimateConfig
from nova3d_core.normals.estimate import estimate_normals
from nova3d_core.normals.marigold import MarigoldEstimator, load_marigold
from nova3d_core.progress import SILENT, Progress
from nova3d_core.rendering.config import RenderConfig
from nova3d_core.rendering.views import render_views
from nova3d_core.weights.discovery.estimators import find_estimator_folder

from ..diffusion.models import randomised

TEXT_DIM = 16
STEPS = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random pipeline, saved as published ones are."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        MarigoldNormalsPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    path = tmp_path_factory.mktemp("models") / "diffusers" / "marigold-normals-v1-1"
    words = tmp_path_factory.mktemp("words")
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}
    (words / "vocab.json").write_text(json.dumps(vocabulary))
    (words / "merges.txt").write_text("#version: 0.2\n")
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=8, out_channels=4, layers_per_block=1,
        block_out_channels=(16, 32), norm_num_groups=8, cross_attention_dim=TEXT_DIM,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), norm_num_groups=4, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=3, hidden_size=TEXT_DIM, intermediate_size=32, num_hidden_layers=1,
            num_attention_heads=2, max_position_embeddings=77, bos_token_id=0, eos_token_id=1,
        )
    )  # fmt: skip
    scheduler = DDIMScheduler(
        prediction_type="v_prediction", beta_schedule="scaled_linear", beta_start=0.00085,
        beta_end=0.012, timestep_spacing="trailing", clip_sample=False,
    )  # fmt: skip
    pipeline = MarigoldNormalsPipeline(
        randomised(unet, 0), randomised(vae, 1), scheduler, randomised(text, 2),
        CLIPTokenizer(
            str(words / "vocab.json"), str(words / "merges.txt"), model_max_length=77
        ),
        prediction_type="normals", use_full_z_range=True,
        default_denoising_steps=STEPS, default_processing_resolution=64,
    )  # fmt: skip
    pipeline.save_pretrained(path)
    return path


@pytest.fixture
def no_network(monkeypatch):
    """Any connection fails the test."""

    def refuse(*_arguments):
        raise AssertionError("network access")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def estimator(folder, no_network) -> MarigoldEstimator:
    return MarigoldEstimator(load_marigold(folder), EstimateConfig(steps=STEPS, chunk_size=2))


def test_unit_normals_of_all_views_from_one_noise(estimator):
    """Equal images give equal normals, whatever their chunk; another seed gives others."""
    image = torch.rand(1, 48, 64, 3, generator=torch.Generator().manual_seed(0))
    images = torch.cat([image, image.flip(2), image])
    maps = estimator.estimate(images, SILENT)
    assert maps.shape == images.shape and maps.dtype == torch.float32
    length = (maps * 2.0 - 1.0).norm(dim=-1)
    torch.testing.assert_close(length, torch.ones_like(length), atol=1e-3, rtol=0.0)
    torch.testing.assert_close(maps[0], maps[2], atol=1e-4, rtol=0.0)
    assert float((maps[0] - maps[1]).abs().mean()) > 1e-3
    other = MarigoldEstimator(estimator.pipeline, EstimateConfig(seed=1, steps=STEPS))
    assert float((other.estimate(images[:1], SILENT) - maps[:1]).abs().mean()) > 1e-3


def test_result_is_that_of_the_pipeline(estimator):
    images = torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    expected = estimator.pipeline(
        images.movedim(-1, 1), num_inference_steps=STEPS, output_type="pt",
        latents=estimator.start_noise(64, 64).repeat(2, 1, 1, 1),
    ).prediction  # fmt: skip
    maps = estimator.estimate(images, SILENT) * 2.0 - 1.0
    torch.testing.assert_close(maps.movedim(-1, 1), expected, atol=1e-4, rtol=0.0)


def test_views_get_camera_frame_normals(estimator, make_sphere, monkeypatch):
    """Random normals fit nothing, so the network is replaced by the truth at its output."""
    rig = RigConfig(count=5, width_px=64, height_px=64, elevation_deg=10.0)
    views = render_views(make_sphere(0.4), orbit_cameras(rig), RenderConfig(2)).views
    true = views.with_normals_in("camera").normals
    facing = torch.where(true.norm(dim=-1, keepdim=True) > 0.5, true, torch.tensor([0.0, 0.0, 1.0]))
    chunks = iter(facing.movedim(-1, 1).split(2))
    monkeypatch.setattr(estimator, "_estimate_chunk", lambda images, noise: next(chunks))
    estimated = estimate_normals(views.without_normals(), estimator)
    assert estimated.normal_frame == "camera"
    assert float(((estimated.normals - true) * (views.masks > 0)[..., None]).abs().max()) < 1e-5
    with pytest.raises(InputError, match="no masks"):
        estimate_normals(type(views)(views.cameras, views.colour), estimator)


def test_cancel_takes_effect_at_the_next_step(estimator):
    steps = []
    progress = Progress(lambda event: steps.append(event.step), lambda: len(steps) >= 3)
    with pytest.raises(Cancelled):
        estimator.estimate(torch.rand(4, 64, 64, 3), progress)
    assert steps == [0, 1, 2]
    assert not estimator.pipeline.unet._forward_pre_hooks


def test_folder_is_found_and_incomplete_ones_are_refused(folder, tmp_path, no_network):
    assert find_estimator_folder("marigold", (folder.parents[1],)) == folder
    assert find_estimator_folder("marigold", (folder,)) == folder
    with pytest.raises(InputError, match="prs-eth/marigold-normals-v1-1"):
        find_estimator_folder("marigold", (tmp_path,))
    (tmp_path / "model_index.json").write_text(
        json.dumps({"_class_name": marigold.PIPELINE_CLASS, "unet": ["diffusers", "UNet2D"]})
    )
    with pytest.raises(InputError, match="no complete folder"):
        load_marigold(tmp_path)
