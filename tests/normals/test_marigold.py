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

from .small_marigold import STEPS, save_small_marigold


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random pipeline, saved as published ones are."""
    path = tmp_path_factory.mktemp("models") / "diffusers" / "marigold-normals-v1-1"
    save_small_marigold(path)
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
