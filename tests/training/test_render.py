"""Training images: the quick rasteriser against the ray caster, light, frames, textures."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.mesh import Mesh
from nova3d_core.training.data.config import ImageConfig, LightConfig
from nova3d_core.training.data.render import downsample_texture, is_closed, ray_cast, render_object
from nova3d_core.training.procedural import procedural_object

FLAT = LightConfig(ambient=1.0, key=0.0)


def cast(mesh: Mesh, config: ImageConfig) -> dict[str, torch.Tensor]:
    rig = RigConfig(count=config.views, width_px=config.size_px, height_px=config.size_px)
    return ray_cast(mesh, orbit_cameras(rig), config)


def share_off(one: torch.Tensor, other: torch.Tensor, levels: int) -> float:
    return float(((one.int() - other.int()).abs() > levels).float().mean())


@pytest.mark.parametrize("seed", [1, 4])
def test_the_rasteriser_equals_the_ray_caster(seed):
    mesh = procedural_object(seed)
    config = ImageConfig(views=4, light=FLAT)
    quick, plain = render_object(mesh, config=config), cast(mesh, config)
    # both put samples at the same places; a ray may meet the neighbour of a face seen edge-on
    assert share_off(quick["mask"], plain["mask"], 1) < 0.001
    assert share_off(quick["colour"], plain["colour"], 3) < 0.002
    assert share_off(quick["normal"], plain["normal"], 4) < 0.005


def test_a_textured_open_flat_shaded_mesh_equals_the_ray_caster_too(l_solid):
    corners = torch.tensor([[-0.5, -0.4, 0.0], [0.5, -0.4, 0.1], [0.5, 0.4, 0.0], [-0.5, 0.4, 0.1]])
    uv = torch.tensor([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    texture = torch.rand(8, 8, 3, generator=torch.Generator().manual_seed(0))
    sheet = Mesh(corners, torch.tensor([[0, 1, 2], [0, 2, 3]]), uv, texture)
    config = ImageConfig(views=3, light=FLAT)
    for mesh in (sheet, l_solid):
        quick, plain = render_object(mesh, config=config), cast(mesh, config)
        assert quick["mask"].any(dim=(1, 2)).all()  # from behind too
        assert share_off(quick["mask"], plain["mask"], 1) < 0.002
        assert share_off(quick["colour"], plain["colour"], 4) < 0.005
        assert share_off(quick["normal"], plain["normal"], 4) < 0.005
    assert not is_closed(sheet)


def test_the_inside_of_an_open_smooth_shell_is_seen_as_the_ray_caster_sees_it(make_sphere):
    ball = make_sphere(0.5)
    front = ball.vertices[ball.faces][:, :, 2].mean(dim=1) < 0.1
    bowl = replace(ball, faces=ball.faces[front])
    config = ImageConfig(views=4, light=LightConfig(azimuth_deg=30.0))
    quick, plain = render_object(bowl, config=config), cast(bowl, config)
    for name in ("mask", "colour", "normal"):
        assert share_off(quick[name], plain[name], 6) < 0.004, name
    normal = quick["normal"].float() / 255 * 2 - 1
    assert float(normal[0, 32, 32, 2]) > 0.95 and float(normal[2, 32, 32, 2]) < -0.95


def test_shapes_angles_and_repeatability():
    mesh = procedural_object(2)
    taken, again = render_object(mesh, 32, 5), render_object(mesh, 32, 5)
    assert taken["colour"].shape == taken["normal"].shape == (5, 32, 32, 3)
    assert taken["mask"].shape == (5, 32, 32)
    assert taken["colour"].dtype == taken["mask"].dtype == torch.uint8
    assert torch.allclose(taken["azimuth_deg"], torch.arange(5) * 72.0, atol=1e-3)
    assert torch.allclose(taken["elevation_deg"], torch.zeros(5), atol=1e-4)
    assert all(torch.equal(taken[name], again[name]) for name in taken)


def test_off_the_object_all_is_white_and_edges_are_mixed_by_the_mask():
    taken = render_object(procedural_object(3), 48)
    empty = taken["mask"] == 0
    assert bool((taken["colour"][empty] == 255).all()) and bool(
        (taken["normal"][empty] == 255).all()
    )
    share = taken["mask"].float()[..., None] / 255
    pure = (taken["normal"].float() / 255 - (1 - share)) / share.clamp_min(0.2) * 2 - 1
    on = taken["mask"] > 60
    assert float((pure[on].norm(dim=-1) - 1).abs().max()) < 0.1


def test_normals_are_in_the_frame_of_the_front_view(make_sphere):
    taken = render_object(make_sphere(0.5), 64)
    normal = taken["normal"].float() / 255 * 2 - 1
    # the middle of each image faces its camera: (sin az, 0, cos az) seen from the front
    for view in range(16):
        azimuth = math.radians(22.5 * view)
        want = torch.tensor([math.sin(azimuth), 0.0, math.cos(azimuth)])
        assert torch.allclose(normal[view, 31:33, 31:33].mean(dim=(0, 1)), want, atol=0.04)
    assert float(normal[0, 20, 32, 1]) > 0.3  # up is green


def test_the_light_is_fixed_to_the_world(make_sphere):
    ball = make_sphere(0.5)
    white = replace(ball, vertex_colours=torch.full_like(ball.vertices, 0.5))
    flat = render_object(white, config=ImageConfig(light=FLAT))
    assert bool((flat["colour"][flat["mask"] == 255].int() - 128).abs().max() <= 1)
    light = LightConfig(ambient=0.5, key=0.5, azimuth_deg=90.0, elevation_deg=0.0)
    lit = render_object(white, config=ImageConfig(light=light))["colour"].float()
    middle = lit[:, 32, 32, 0]
    assert int(middle.argmax()) == 4 and int(middle.argmin()) == 12  # from the right: azimuth 90
    want = 255 * 0.5 * (0.5 + 0.5 * 0.5)  # at right angles to the light
    assert float(middle[0]) == pytest.approx(want, abs=3)


def test_closed_is_told_from_open_and_from_faces_turned_around(make_sphere, l_solid):
    ball = make_sphere(0.4, 2)
    assert is_closed(ball)
    assert not is_closed(replace(ball, faces=ball.faces[1:]))
    turned = ball.faces.clone()
    turned[0] = turned[0].flip(0)
    assert not is_closed(replace(ball, faces=turned))


def test_large_textures_are_averaged_down():
    texture = torch.rand(100, 37, 3)
    small = downsample_texture(texture, 40)
    assert small.shape == (34, 13, 3)
    assert torch.allclose(small[0, 0], texture[:3, :3].mean(dim=(0, 1)), atol=1e-6)
    assert torch.equal(downsample_texture(texture, 100), texture)
