"""Ouroboros3D's UNet: names of its public file, SVD where nothing is fed back, rays, maps."""

from __future__ import annotations

import json
import math

import pytest
import torch

from nova3d_core.cameras.cameras import cameras_from_orbit
from nova3d_core.cameras.orbits import preset_orbit
from nova3d_core.diffusion.coordinate_maps import coordinate_maps
from nova3d_core.diffusion.network.config import UNetConfig
from nova3d_core.diffusion.network.feedback_unet import Feedback, FeedbackUNet
from nova3d_core.diffusion.network.ray_embedding import (
    harmonic_embedding,
    transposed_plucker_rays,
)
from nova3d_core.diffusion.network.unet import VideoUNet
from nova3d_core.errors import InputError
from nova3d_core.weights.keymaps.unet import sgm_unet_names

from .conftest import SMALL, inputs_for
from .models import randomised

ADDED = ("cond_encoder.", "down_plucker.", "mid_plucker.", "up_plucker.")
FACTOR = 4


@pytest.fixture(scope="module")
def unet() -> FeedbackUNet:
    config = UNetConfig(**SMALL, add_embed_dim=24, feedback_factor=FACTOR)
    return randomised(FeedbackUNet(config, device="meta"), 3)


def cameras():
    return cameras_from_orbit(preset_orbit("ouroboros3d", 512, 512))


def feedback_for(objects: int, views: int, size_px: int, seed: int = 2) -> Feedback:
    generator = torch.Generator().manual_seed(seed)
    rig = cameras()
    shape = (objects, views, 3, size_px, size_px)
    pose = rig.camera_to_world[:views].expand(objects, views, 4, 4)
    return Feedback(
        torch.rand(shape, generator=generator),
        torch.rand(shape, generator=generator),
        pose,
        torch.full((objects, views), 25 / 18),
    )


def test_names_and_shapes_match_the_public_file(checkpoint_manifests):
    path = checkpoint_manifests / "ouroboros3d_mv_model_unet.json"
    entries = {name: tuple(shape) for name, (shape, _) in json.loads(path.read_text()).items()}
    assert len(entries) == 1572
    own = [name.removeprefix("unet.") for name in entries if name.startswith("unet.")]
    expected = {sgm: entries[f"unet.{name}"] for name, sgm in sgm_unet_names(own).items()}
    expected |= {name: shape for name, shape in entries.items() if name.startswith(ADDED)}
    state = FeedbackUNet(UNetConfig(feedback_factor=8), device="meta").state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == expected
    assert sum(value.numel() for value in state.values()) == 1_765_033_322


def test_without_added_layers_it_is_the_svd_unet(unet):
    plain = VideoUNet(UNetConfig(**SMALL, add_embed_dim=24)).eval()
    zeroed = FeedbackUNet(unet.config).eval()
    state = {name: value.clone() for name, value in unet.state_dict().items()}
    for name, value in state.items():
        if name.startswith(ADDED):
            value.zero_()
    zeroed.load_state_dict(state)
    plain.load_state_dict({n: v for n, v in state.items() if not n.startswith(ADDED)})
    given = inputs_for(plain)
    with torch.no_grad():
        result = zeroed(**given, feedback=feedback_for(2, 5, 16 * FACTOR))
        assert torch.equal(result, plain(**given))


@pytest.mark.parametrize("changed", ["colours", "coordinates", "camera_to_world"])
def test_each_input_matters_to_its_object_only(unet, changed):
    given, feedback = inputs_for(unet), feedback_for(2, 5, 16 * FACTOR)
    values = dict(vars(feedback))
    values[changed] = values[changed].clone()
    values[changed][1, 0] = values[changed][1, 0].flip(-1)
    with torch.no_grad():
        before = unet(**given, feedback=feedback)
        after = unet(**given, feedback=Feedback(**values))
    torch.testing.assert_close(after[:, 0], before[:, 0])
    assert (after[:, 1] - before[:, 1]).abs().amax() > 1e-3


def test_a_new_network_ignores_no_feedback_image():
    # the adapters' blocks are the identity at the start of training, their first layer is not zero
    fresh = FeedbackUNet(UNetConfig(**SMALL, add_embed_dim=24, feedback_factor=FACTOR)).eval()
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        features = fresh.cond_encoder[0](image)
        first = fresh.cond_encoder[0].conv_in(torch.nn.functional.pixel_unshuffle(image, FACTOR))
    assert torch.equal(features[0], first) and first.abs().max() > 0.05
    shapes = [(32, 8, 8), (64, 4, 4), (128, 2, 2), (128, 1, 1)]
    assert [tuple(feature.shape[1:]) for feature in features] == shapes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "needs the UNet's feedback"),
        ({"colours": torch.zeros(2, 5, 3, 32, 64)}, "feedback colours"),
        ({"coordinates": torch.zeros(2, 4, 3, 64, 64)}, "feedback coordinates"),
        ({"camera_to_world": torch.eye(4).expand(2, 4, 4, 4)}, "cameras"),
    ],
)
def test_unusable_feedback_is_an_error(unet, change, message):
    feedback = None
    if change is not None:
        feedback = Feedback(**{**vars(feedback_for(2, 5, 16 * FACTOR)), **change})
    with pytest.raises(InputError, match=message):
        unet(**inputs_for(unet), feedback=feedback)


def test_cameras_are_the_released_ones():
    rig = cameras()
    assert rig.azimuth_deg.remainder(360.0).tolist() == pytest.approx(
        [0, 45, 90, 135, 180, 225, 270, 337.5], abs=1e-3
    )
    assert rig.positions.norm(dim=1).tolist() == pytest.approx([1.741697] * 8)
    assert float(rig.intrinsics[0, 0, 0]) / 512 == pytest.approx(1.388889, abs=1e-6)
    # entries of hyper/c2w.npy
    poses = rig.camera_to_world
    assert poses[0, :3].flatten().tolist() == pytest.approx(
        [1, 0, 0, 0, 0, -1, 0, 0, 0, 0, -1, 1.741697], abs=1e-6
    )
    assert poses[7, :3, 3].tolist() == pytest.approx([-0.666519, 0, 1.609118], abs=1e-5)
    assert poses[7, :3, 0].tolist() == pytest.approx([0.92388, 0, 0.382683], abs=1e-5)


def test_rays_are_transposed_in_image_and_rotation():
    pose, focal, size = cameras().camera_to_world[1:2], torch.tensor([25 / 18]), 8
    rays = transposed_plucker_rays(pose, focal, size)[0]
    row, column = 2, 5
    p = torch.tensor([(row + 0.5) / size - 0.5, (column + 0.5) / size - 0.5, 25 / 18]) * 18 / 25
    t = pose[0, :3, 3]
    d = pose[0, :3, :3].T @ p - t
    d = d / d.norm()
    expected = torch.cat([torch.linalg.cross(t, d), d])
    torch.testing.assert_close(rays[row, column], expected)


def test_harmonic_embedding_is_in_the_released_order():
    x = torch.tensor([0.3, -0.7])
    expected = [math.sin(v * 2**k) for v in x.tolist() for k in range(6)]
    expected += [math.cos(v * 2**k) for v in x.tolist() for k in range(6)]
    assert harmonic_embedding(x).tolist() == pytest.approx(expected + x.tolist(), abs=1e-6)


def test_released_maps_are_ramps_of_pixel_coordinates():
    rig, depth_value, size = cameras(), 1.741697, 512
    depth = torch.full((8, size, size), depth_value)
    focal = torch.full((8,), 25 / 18)
    maps = coordinate_maps(depth, torch.ones_like(depth), rig.camera_to_world, focal)
    ramp = 0.5 + 0.001 * depth_value * (torch.arange(size) - 0.5) / (25 / 18)
    up = (1.0 - ramp).clamp(0.0, 1.0)  # image y points down, world y up
    front, side = maps[0], maps[2]
    torch.testing.assert_close(front[0], ramp.clamp(max=1.0).expand(size, size), atol=2e-6, rtol=0)
    torch.testing.assert_close(front[1], up[:, None].expand(size, size), atol=2e-6, rtol=0)
    assert (front[2] - 0.5).abs().max() < 1e-5 and (side[0] - 0.5).abs().max() < 1e-5
    torch.testing.assert_close(side[2], up.expand(size, size), atol=2e-6, rtol=0)
    empty = coordinate_maps(depth * 0, depth * 0, rig.camera_to_world, focal)
    assert torch.equal(empty, torch.full_like(empty, 0.5))


def test_true_maps_are_points_of_the_world():
    rig = cameras()
    small = rig.resized(32, 32)
    point_plane = 0.2  # the plane z = 0.2, seen from the front
    depth = torch.full((1, 32, 32), 1.741697 - point_plane)
    focal = torch.full((1,), 25 / 18)
    maps = coordinate_maps(depth, torch.ones_like(depth), rig.camera_to_world[:1], focal, "true")
    points = (maps[0].movedim(0, -1) - 0.5).flatten(0, 1)
    pixels, _ = small[:1].project(points)
    inside = (points.abs() < 0.499).all(dim=1)
    assert inside.float().mean() > 0.7
    grid = torch.stack(
        torch.meshgrid(torch.arange(32) + 0.5, torch.arange(32) + 0.5, indexing="xy"), dim=-1
    ).flatten(0, 1)
    torch.testing.assert_close(pixels[0][inside], grid[inside], atol=1e-3, rtol=0)
    assert (points[:, 2] - point_plane).abs().max() < 1e-5
    # half coverage halves the offset from 0.5: accumulated depth is not divided by alpha
    half = coordinate_maps(
        depth / 2, torch.full_like(depth, 0.5), rig.camera_to_world[:1], focal, "true"
    )
    torch.testing.assert_close(
        (half[0] - 0.5)[:, 12:20, 12:20] * 2, (maps[0] - 0.5)[:, 12:20, 12:20]
    )
