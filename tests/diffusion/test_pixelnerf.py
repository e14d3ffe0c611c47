"""The PixelNeRF conditioner: projections with known answers, invariances, chunks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from nova3d_core.compute.devices import seeded
from nova3d_core.diffusion.network.pixelnerf import (
    PixelNerf,
    ViewPoses,
    encode_positions,
    project_points,
    ray_intervals,
    sample_depths,
    sample_features,
    target_rays,
)
from nova3d_core.diffusion.network.pixelnerf_config import PixelNerfConfig
from nova3d_core.diffusion.network.resunet import ResUNet
from nova3d_core.diffusion.scenes.poses import scene_frame
from nova3d_core.errors import InputError

from .scene_models import CONDITIONER, room

SIDE = 8


@pytest.fixture
def poses() -> ViewPoses:
    """(1, 5) cameras of a room."""
    cameras = room().cameras
    return scene_frame([cameras]).poses(cameras)


@pytest.fixture
def nerf() -> PixelNerf:
    with seeded(0):
        return PixelNerf(CONDITIONER).requires_grad_(False)


def images(count: int = 5) -> torch.Tensor:
    return torch.rand((1, count, 3, 32, 32), generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("depths", ["cube", "disparity"])
def test_a_target_equal_to_a_source_projects_to_its_own_pixels(poses, depths):
    config = replace(CONDITIONER, depths=depths)
    origins, directions = target_rays(poses, SIDE, SIDE)
    interval = ray_intervals(origins, directions, config)
    depth = sample_depths(*interval, torch.tensor(0.5), config)
    points = origins[..., None, :] + directions[..., None, :] * depth[..., None]
    for view in range(5):
        own = project_points(points[:, view : view + 1], poses[:, view : view + 1])[0, 0, 0]
        rows, columns = torch.meshgrid(*2 * [(torch.arange(SIDE) + 0.5) / SIDE], indexing="ij")
        expected = torch.stack([columns, rows], dim=-1).reshape(-1, 1, 2).expand_as(own)
        torch.testing.assert_close(own, expected, atol=2e-5, rtol=0)


def test_features_of_a_target_equal_to_its_source_are_those_of_its_pixels(poses):
    with seeded(0):
        nerf = PixelNerf(replace(CONDITIONER, use_std=False, use_position=False))
    maps = torch.randn((1, 1, 8, 2 * SIDE, 2 * SIDE), generator=torch.Generator().manual_seed(2))
    own = poses[:, :1]
    rgb, features = nerf.render(maps, own, own, SIDE, SIDE)
    # a latent's centre is the corner of four pixels of the map, whatever the depth: the weights
    # along the ray do not matter
    pooled = functional.avg_pool2d(maps[0], 2).flatten(2).movedim(1, -1)  # (1, n, C)
    expected = nerf.ray_mlp(nerf.point_mlp(pooled)[..., :-1])[0].T.unflatten(1, (SIDE, SIDE))
    torch.testing.assert_close(rgb[0, 0], expected[:3].sigmoid(), atol=1e-5, rtol=0)
    torch.testing.assert_close(features[0, 0], expected[3:], atol=1e-4, rtol=0)


def test_the_order_of_the_sources_does_not_matter(nerf, poses):
    order = [2, 0, 1]
    sources, targets = images(3), poses[:, 3:]
    expected = nerf(sources, poses[:, :3], targets, SIDE, SIDE)
    found = nerf(sources[:, order], poses[:, :3][:, order], targets, SIDE, SIDE)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_a_repeated_source_changes_no_mean(poses):
    with seeded(0):
        nerf = PixelNerf(replace(CONDITIONER, use_std=False))
    once = nerf(images(1), poses[:, :1], poses[:, 1:], SIDE, SIDE)
    twice = nerf(images(1).repeat(1, 3, 1, 1, 1), poses[:, [0, 0, 0]], poses[:, 1:], SIDE, SIDE)
    torch.testing.assert_close(once, twice, atol=1e-5, rtol=1e-5)


def test_poses_of_sources_matter(nerf, poses):
    maps = nerf.encode(images(3))
    true, _ = nerf.render(maps, poses[:, :3], poses[:, 3:], SIDE, SIDE)
    shuffled, _ = nerf.render(maps, poses[:, [1, 2, 0]], poses[:, 3:], SIDE, SIDE)
    assert float((true - shuffled).abs().max()) > 1e-3


def test_chunks_of_rays_change_nothing(nerf, poses):
    maps, calls = nerf.encode(images(2)), []
    whole = nerf.render(maps, poses[:, :2], poses[:, 2:], SIDE, SIDE)
    parts = nerf.render(
        maps,
        poses[:, :2],
        poses[:, 2:],
        SIDE,
        SIDE,
        max_rays=30,
        before_chunk=lambda: calls.append(1),
    )
    torch.testing.assert_close(whole, parts, atol=1e-5, rtol=1e-5)
    assert len(calls) == 3 * 3


def test_gradient_checkpointing_changes_no_gradient(poses):
    gradients = []
    for checkpointing in (False, True):
        with seeded(0):
            nerf = PixelNerf(CONDITIONER)
        nerf.gradient_checkpointing = checkpointing
        jitter = [torch.Generator().manual_seed(3)]
        rgb, features = nerf(images(2), poses[:, :2], poses[:, 2:], SIDE, SIDE, jitter)
        (rgb.sum() + features.square().sum()).backward()
        gradients.append(torch.cat([weight.grad.flatten() for weight in nerf.parameters()]))
    assert float(gradients[0].abs().max()) > 0
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-3)


def test_equal_sources_have_a_finite_gradient(poses):
    with seeded(0):
        nerf = PixelNerf(CONDITIONER)
    same = images(1).repeat(1, 2, 1, 1, 1)
    rgb, _ = nerf(same, poses[:, [0, 0]], poses[:, 1:2], SIDE, SIDE)
    rgb.sum().backward()
    assert all(bool(torch.isfinite(weight.grad).all()) for weight in nerf.encoder.parameters())


def test_rays_are_sampled_between_entry_and_exit_of_the_cube():
    config = PixelNerfConfig()
    origins = torch.tensor([[0.0, 0.0, -3.0], [0.2, 0.0, 0.0], [5.0, 0.0, -4.0]])
    directions = torch.tensor([[0.0, 0.0, 1.0]]).expand(3, 3)
    start, end = ray_intervals(origins, directions, config)
    torch.testing.assert_close(start[:, 0], torch.tensor([2.0, 0.0, 3.0]))
    torch.testing.assert_close(end[:, 0], torch.tensor([4.0, 1.0, 5.0]))


def test_disparity_samples_are_even_in_inverse_depth():
    config = PixelNerfConfig(depths="disparity", near=0.5, far=100.0, samples_per_ray=16)
    start, end = torch.full((1, 1), 0.5), torch.full((1, 1), 100.0)
    inverse = 1.0 / sample_depths(start, end, torch.full((16,), 0.5), config)[0]
    step = (2.0 - 0.01) / 16
    torch.testing.assert_close(inverse, 2.0 - step * (torch.arange(16) + 0.5))


def test_points_behind_a_source_are_outside_its_image():
    lens = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
    pose = ViewPoses(torch.eye(4)[None, None], lens[None, None])
    points = torch.tensor([[0.3, 0.2, -2.0]]).reshape(1, 1, 1, 1, 3)
    position = project_points(points, pose)
    assert bool(torch.isfinite(position).all()) and bool((position > 1).all())
    corner = sample_features(torch.arange(4.0).reshape(1, 1, 1, 2, 2), position)
    assert float(corner) == 3.0


def test_positional_encoding_has_six_octaves():
    encoded = encode_positions(torch.tensor([[0.5, -1.0, 0.25]]))
    assert encoded.shape == (1, 39)
    expected = torch.tensor([1.0, 0.0, 0.5**0.5])  # sin of pi times the position
    torch.testing.assert_close(encoded[0, 3:6], expected, atol=1e-6, rtol=0)


def test_the_encoder_has_a_quarter_of_the_size_and_sees_each_image_alone():
    with seeded(0):
        encoder = ResUNet(8, (1, 2, 1))
    batch = images(3)[0]
    features = encoder(batch)
    assert features.shape == (3, 8, 8, 8)
    torch.testing.assert_close(encoder(batch[:1]), features[:1], atol=1e-5, rtol=1e-5)


def test_full_size_has_the_blocks_of_resnet34():
    with torch.device("meta"):
        nerf = PixelNerf()
    assert [len(level) for level in nerf.encoder.levels] == [3, 4, 6]
    assert nerf.point_mlp[-1].out_features == 129 and nerf.ray_mlp[-1].out_features == 131


@pytest.mark.parametrize("size", [(16, 16), (34, 32)])
def test_unusable_image_sizes(nerf, size):
    with pytest.raises(InputError, match="multiples of 4"):
        nerf.encode(torch.zeros(1, 1, 3, *size))


@pytest.mark.parametrize(
    "setting", [{"near": 2.0, "far": 1.0}, {"encoder_blocks": (1, 1)}, {"depths": "linear"}]
)
def test_unusable_settings(setting):
    with pytest.raises(InputError):
        PixelNerfConfig(**setting)
