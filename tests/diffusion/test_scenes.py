"""Views along a camera path: windows, frames, invariances and bad input."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from nova3d_core.cameras.cameras import cameras_from_orbit
from nova3d_core.cameras.orbits import preset_orbit
from nova3d_core.diffusion.model import OneDevice
from nova3d_core.diffusion.network.unet import VideoUNet
from nova3d_core.diffusion.sampling.config import SampleConfig
from nova3d_core.diffusion.sampling.pipeline import sample
from nova3d_core.diffusion.scenes import sample as scene_sampling
from nova3d_core.diffusion.scenes.conditioning import encode_sources, render_features
from nova3d_core.diffusion.scenes.model import widen_input
from nova3d_core.diffusion.scenes.poses import (
    scene_frame,
    square_cameras,
    square_images,
    square_views,
)
from nova3d_core.diffusion.scenes.sample import plan_windows, sample_path
from nova3d_core.errors import Cancelled, InputError
from nova3d_core.progress import Progress
from nova3d_core.training.procedural.rooms import random_room, render_room, room_cameras
from nova3d_core.views import Views
from nova3d_core.weights.load import load_model
from nova3d_core.weights.save import save_nova3d

from .scene_models import SIZE, UNET, moved, room, scene_model

CONFIG = SampleConfig(seed=3, steps=2)


def test_one_view_per_camera_of_the_path_in_its_order():
    views = room(views=9)
    result = sample_path(scene_model(views=4), views[[0, 4]], views.cameras[1:8], CONFIG)
    assert result.views.colour.shape == (7, SIZE, SIZE, 3)
    torch.testing.assert_close(
        result.views.cameras.world_to_camera, views.cameras[1:8].world_to_camera
    )
    assert result.coarse.shape == (7, SIZE // 4, SIZE // 4, 3)


def test_the_order_of_the_sources_does_not_matter():
    views, model = room(views=6), scene_model()
    first = sample_path(model, views[[0, 2, 5]], views.cameras[3:5], CONFIG)
    second = sample_path(model, views[[5, 0, 2]], views.cameras[3:5], CONFIG)
    torch.testing.assert_close(first.views.colour, second.views.colour, atol=1e-3, rtol=0)


def test_scale_and_origin_of_the_world_do_not_matter():
    views, model = room(views=5), scene_model()
    first = sample_path(model, views[[0, 4]], views.cameras[1:3], CONFIG)
    cameras = moved(views.cameras, 7.0, torch.tensor([3.0, -2.0, 11.0], dtype=torch.float64))
    other = Views(cameras, views.colour)
    second = sample_path(model, other[[0, 4]], other.cameras[1:3], CONFIG)
    torch.testing.assert_close(first.views.colour, second.views.colour, atol=5e-3, rtol=0)


def test_the_frame_is_centred_and_the_farthest_camera_is_at_one_and_a_half():
    cameras = moved(room().cameras, 3.0, torch.tensor([5.0, 6.0, 7.0], dtype=torch.float64))
    poses = scene_frame([cameras]).poses(cameras).world_to_camera[0]
    positions = -(poses[:, :3, :3].transpose(1, 2) @ poses[:, :3, 3:])[..., 0]
    torch.testing.assert_close(positions.mean(dim=0), torch.zeros(3), atol=1e-5, rtol=0)
    assert float(positions.norm(dim=1).max()) == pytest.approx(1.5, abs=1e-5)


def test_new_input_channels_are_zero_and_the_output_is_that_of_the_base():
    unet = VideoUNet(replace(UNET, in_channels=96))
    unet.requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((1, 1, 3, 96, 8, 8), generator=generator)
    rest = torch.tensor([0.3]), torch.randn((1, 1, 16), generator=generator), torch.zeros(1, 3, 768)
    expected = unet(x, *rest)
    widen_input(unet, 128)
    assert unet.config.in_channels == 224
    features = torch.randn((1, 1, 3, 128, 8, 8), generator=generator)
    assert torch.equal(unet(torch.cat([x, features], dim=3), *rest), expected)


def test_windows_cover_the_path_once_and_start_at_the_nearest_source():
    cameras = room_cameras(0, 12, SIZE)
    sources, path = cameras[[0, 11]], cameras[1:11]
    windows = plan_windows(sources, path, 5, scene_frame([cameras]))
    kept = [index for window in windows for index in window.path[: window.kept]]
    assert kept == list(range(10))
    assert [len(window.path) for window in windows] == [4, 4, 4]
    assert [window.anchor for window in windows] == [0, 0, 1]


def test_short_paths_are_padded_by_going_back():
    cameras = room_cameras(0, 4, SIZE)
    (window,) = plan_windows(cameras[:1], cameras[1:], 7, scene_frame([cameras]))
    assert window.path == (0, 1, 2, 1, 0, 1) and window.kept == 3


def test_saved_models_give_the_same_views(tmp_path):
    views, model = room(), scene_model()
    path = tmp_path / "model.safetensors"
    save_nova3d(model, path)
    loaded = load_model(path)
    assert (loaded.family.name, loaded.family.views, loaded.family.size_px) == ("v3d_scenes", 4, 32)
    for part in model.parts:
        found, expected = (each.part(part).state_dict() for each in (loaded, model))
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    steps = replace(CONFIG, steps=1)
    first, second = (
        sample_path(each, views[[0, 2]], views.cameras[1:2], steps) for each in (model, loaded)
    )
    torch.testing.assert_close(first.views.colour, second.views.colour, atol=1e-3, rtol=0)


def test_one_source_is_enough():
    views = room()
    result = sample_path(scene_model(), views[:1], views.cameras[1:3], CONFIG)
    assert bool(torch.isfinite(result.views.colour).all())


@pytest.mark.parametrize("size", [(64, 48), (45, 64), (48, 64)])
def test_other_image_sizes_are_cropped_with_their_cameras(size):
    width, height = size
    cameras = room_cameras(1, 2, 64)
    intrinsics = cameras.intrinsics.clone()
    intrinsics[:, 0, 2], intrinsics[:, 1, 2] = width / 2, height / 2
    wide = replace(cameras, intrinsics=intrinsics, width=width, height=height)
    target = 24
    cropped = square_images(render_room(random_room(1), wide).clamp(0, 1), target)
    expected = render_room(random_room(1), square_cameras(wide, target))
    assert float((cropped - expected).abs().mean()) < 0.01
    # half a pixel of displacement would be visible
    displaced = replace(square_cameras(wide, target))
    displaced.intrinsics[:, :2, 2] += 1.0
    assert float((cropped - render_room(random_room(1), displaced)).abs().mean()) > 0.015


def test_sources_of_another_size_than_the_path_are_usable():
    views, large = room(), room(size_px=48)
    model = scene_model()
    result = sample_path(model, large[[0, 4]], views.cameras[1:2], CONFIG)
    expected = sample_path(model, square_views(large[[0, 4]], SIZE), views.cameras[1:2], CONFIG)
    torch.testing.assert_close(result.views.colour, expected.views.colour, atol=1e-3, rtol=0)


def test_sources_without_poses_of_their_own():
    views = room()
    same = replace(views.cameras, world_to_camera=views.cameras.world_to_camera[:1].repeat(5, 1, 1))
    unposed = Views(same, views.colour)
    with pytest.raises(InputError, match="sources 0 and 1 are different images with the same"):
        sample_path(scene_model(), unposed, views.cameras[1:2], CONFIG)


@pytest.mark.parametrize("distance", [0.0, 1000.0])
def test_a_stereo_pair_has_two_poses_also_far_from_the_origin(distance):
    views = room(views=2)
    pose = views.cameras.world_to_camera[:1].repeat(2, 1, 1)
    pose[1, 0, 3] -= 0.06
    cameras = replace(views.cameras, world_to_camera=pose)
    pair = Views(moved(cameras, 1.0, torch.tensor([distance, 0.0, 0.0])), views.colour)
    result = sample_path(scene_model(), pair, pair.cameras[:1], SampleConfig(steps=1))
    assert len(result.views) == 1


def test_the_memory_budget_of_the_settings_limits_the_rays_rendered_together():
    views, model = room(views=3), scene_model(samples_per_ray=4096)
    frame, placement = scene_frame([views.cameras]), OneDevice(model, torch.device("cpu"))

    class Recording(Progress):
        chunks = 0

        def check(self, name: str) -> None:
            self.chunks += 1

    with torch.no_grad():
        encoded = encode_sources(model, views[:2], frame, placement, Progress())
        targets, found = frame.poses(views.cameras[2:]), {}
        for memory_gib in (0.1, 8.0):
            settings, progress = SampleConfig(memory_gib=memory_gib), Recording()
            _, features = render_features(model, encoded, targets, settings, placement, progress)
            found[memory_gib] = progress.chunks, features
    per_ray = model.conditioner.bytes_per_ray(2)
    expected = math.ceil((SIZE // 4) ** 2 / (0.1 * 2**30 // per_ray))
    assert found[8.0][0] == 1 < expected == found[0.1][0]
    torch.testing.assert_close(found[0.1][1], found[8.0][1], atol=1e-5, rtol=0)


def test_a_path_without_cameras():
    views = room()
    with pytest.raises(InputError, match="no cameras"):
        sample_path(scene_model(), views, views.cameras[:0], CONFIG)


def test_orthographic_cameras():
    views, model = room(), scene_model()
    orthographic = cameras_from_orbit(preset_orbit("wonder3d", SIZE, SIZE))
    with pytest.raises(InputError, match="the path has orthographic cameras"):
        sample_path(model, views, orthographic, CONFIG)


def test_more_views_than_fit_into_memory(monkeypatch):
    views = room()
    monkeypatch.setattr(scene_sampling, "available_bytes", lambda: 10_000)
    with pytest.raises(InputError, match="a path of 3 views of 32 px needs"):
        sample_path(scene_model(), views[:2], views.cameras[2:5], CONFIG)


def test_a_size_that_the_codec_cannot_encode():
    views = room()
    with pytest.raises(InputError, match="expected a multiple of 4"):
        sample_path(scene_model(), views[:2], views.cameras[2:3], SampleConfig(size_px=66))


@pytest.mark.parametrize("stage", ["conditioning", "sampling", "decoding"])
def test_a_cancel_takes_effect_in_every_stage(stage):
    views, seen = room(), []

    class Recording(Progress):
        def check(self, name: str) -> None:
            seen.append(name)
            if name == stage:
                raise Cancelled(name)

    with pytest.raises(Cancelled):
        sample_path(scene_model(), views[:2], views.cameras[2:3], CONFIG, progress=Recording())
    assert seen[-1] == stage


def test_a_cancel_between_windows():
    views, checks = room(views=9), []

    def is_cancelled() -> bool:
        checks.append(1)
        return len(checks) > 120

    with pytest.raises(Cancelled):
        sample_path(
            scene_model(views=3),
            views[:2],
            views.cameras[1:],
            CONFIG,
            progress=Progress(None, is_cancelled),
        )


def test_a_scene_model_generates_no_orbit():
    with pytest.raises(InputError, match="along a camera path"):
        sample(scene_model(), torch.rand(32, 32, 3))
