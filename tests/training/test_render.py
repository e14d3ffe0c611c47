"""Training images: the rasteriser against ray casting, light, frames, textures."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.mesh import Mesh
from nova3d_core.training.data.config import ImageConfig, LightConfig
from nova3d_core.training.data.render import (
    downsample_texture,
    is_closed,
    render_by_ray_casting,
    render_object,
)
from nova3d_core.training.procedural import procedural_object

FLAT = LightConfig(ambient=1.0, key=0.0)


def ray_cast(mesh: Mesh, config: ImageConfig) -> dict[str, torch.Tensor]:
    rig = RigConfig(count=config.views, width_px=config.size_px, height_px=config.size_px)
    return render_by_ray_casting(mesh, orbit_cameras(rig), config)


def fraction_off(one: torch.Tensor, other: torch.Tensor, levels: int) -> float:
    return float(((one.int() - other.int()).abs() > levels).float().mean())


@pytest.mark.parametrize("seed", [1, 4])
def test_rasteriser_equals_ray_casting(seed):
    mesh = procedural_object(seed)
    config = ImageConfig(views=4, light=FLAT)
    rasterised, reference = render_object(mesh, config=config), ray_cast(mesh, config)
    # sample positions are equal; a ray may hit the neighbour of a face seen edge-on
    assert fraction_off(rasterised["mask"], reference["mask"], 1) < 0.001
    assert fraction_off(rasterised["colour"], reference["colour"], 3) < 0.002
    assert fraction_off(rasterised["normal"], reference["normal"], 4) < 0.005


def test_textured_open_flat_mesh_equals_ray_casting(l_solid):
    corners = torch.tensor([[-0.5, -0.4, 0.0], [0.5, -0.4, 0.1], [0.5, 0.4, 0.0], [-0.5, 0.4, 0.1]])
    uv = torch.tensor([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    texture = torch.rand(8, 8, 3, generator=torch.Generator().manual_seed(0))
    quad = Mesh(corners, torch.tensor([[0, 1, 2], [0, 2, 3]]), uv, texture)
    config = ImageConfig(views=3, light=FLAT)
    for mesh in (quad, l_solid):
        rasterised, reference = render_object(mesh, config=config), ray_cast(mesh, config)
        assert rasterised["mask"].any(dim=(1, 2)).all()  # from behind as well
        assert fraction_off(rasterised["mask"], reference["mask"], 1) < 0.002
        assert fraction_off(rasterised["colour"], reference["colour"], 4) < 0.005
        assert fraction_off(rasterised["normal"], reference["normal"], 4) < 0.005
    assert not is_closed(quad)


def test_inside_of_an_open_smooth_shell_equals_ray_casting(make_sphere):
    ball = make_sphere(0.5)
    front = ball.vertices[ball.faces][:, :, 2].mean(dim=1) < 0.1
    bowl = replace(ball, faces=ball.faces[front])
    config = ImageConfig(views=4, light=LightConfig(azimuth_deg=30.0))
    rasterised, reference = render_object(bowl, config=config), ray_cast(bowl, config)
    for name in ("mask", "colour", "normal"):
        assert fraction_off(rasterised[name], reference[name], 6) < 0.004, name
    normal = rasterised["normal"].float() / 255 * 2 - 1
    assert float(normal[0, 32, 32, 2]) > 0.95 and float(normal[2, 32, 32, 2]) < -0.95


def test_shapes_angles_and_repeatability():
    mesh = procedural_object(2)
    images, again = render_object(mesh, 32, 5), render_object(mesh, 32, 5)
    assert images["colour"].shape == images["normal"].shape == (5, 32, 32, 3)
    assert images["mask"].shape == (5, 32, 32)
    assert images["colour"].dtype == images["mask"].dtype == torch.uint8
    assert torch.allclose(images["azimuth_deg"], torch.arange(5) * 72.0, atol=1e-3)
    assert torch.allclose(images["elevation_deg"], torch.zeros(5), atol=1e-4)
    assert all(torch.equal(images[name], again[name]) for name in images)


def test_background_is_white_and_edges_are_blended_by_the_mask():
    images = render_object(procedural_object(3), 48)
    empty = images["mask"] == 0
    assert bool((images["colour"][empty] == 255).all()) and bool(
        (images["normal"][empty] == 255).all()
    )
    coverage = images["mask"].float()[..., None] / 255
    pure = (images["normal"].float() / 255 - (1 - coverage)) / coverage.clamp_min(0.2) * 2 - 1
    on = images["mask"] > 60
    assert float((pure[on].norm(dim=-1) - 1).abs().max()) < 0.1


def test_normals_are_in_the_front_view_frame(make_sphere):
    images = render_object(make_sphere(0.5), 64)
    normal = images["normal"].float() / 255 * 2 - 1
    # the centre of each image faces its camera: (sin az, 0, cos az) in the front view
    for view in range(16):
        azimuth = math.radians(22.5 * view)
        expected = torch.tensor([math.sin(azimuth), 0.0, math.cos(azimuth)])
        assert torch.allclose(normal[view, 31:33, 31:33].mean(dim=(0, 1)), expected, atol=0.04)
    assert float(normal[0, 20, 32, 1]) > 0.3  # up is green


def test_light_is_fixed_in_the_world(make_sphere):
    ball = make_sphere(0.5)
    white = replace(ball, vertex_colours=torch.full_like(ball.vertices, 0.5))
    flat = render_object(white, config=ImageConfig(light=FLAT))
    assert bool((flat["colour"][flat["mask"] == 255].int() - 128).abs().max() <= 1)
    light = LightConfig(ambient=0.5, key=0.5, azimuth_deg=90.0, elevation_deg=0.0)
    lit = render_object(white, config=ImageConfig(light=light))["colour"].float()
    centre = lit[:, 32, 32, 0]
    assert int(centre.argmax()) == 4 and int(centre.argmin()) == 12  # from the right: azimuth 90
    expected = 255 * 0.5 * (0.5 + 0.5 * 0.5)  # at right angles to the light
    assert float(centre[0]) == pytest.approx(expected, abs=3)


def test_is_closed_rejects_open_and_inconsistently_oriented_meshes(make_sphere, l_solid):
    ball = make_sphere(0.4, 2)
    assert is_closed(ball)
    assert not is_closed(replace(ball, faces=ball.faces[1:]))
    flipped = ball.faces.clone()
    flipped[0] = flipped[0].flip(0)
    assert not is_closed(replace(ball, faces=flipped))


def test_downsamples_large_textures():
    texture = torch.rand(100, 37, 3)
    small = downsample_texture(texture, 40)
    assert small.shape == (34, 13, 3)
    assert torch.allclose(small[0, 0], texture[:3, :3].mean(dim=(0, 1)), atol=1e-6)
    assert torch.equal(downsample_texture(texture, 100), texture)
