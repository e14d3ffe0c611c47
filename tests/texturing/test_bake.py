"""Baking of images with known colours onto known shapes, and filling of unobserved texels."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nova3d_core.cameras.cameras import cameras_at, orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import Cancelled, InputError, StageError
from nova3d_core.imaging.sampling import sample_image, sample_texture
from nova3d_core.io.mesh.read import read_mesh
from nova3d_core.mesh import Mesh
from nova3d_core.progress import Progress
from nova3d_core.rendering.config import RenderConfig
from nova3d_core.rendering.views import render_views
from nova3d_core.texturing.bake import BakeResult, bake_texture
from nova3d_core.texturing.config import BakeConfig
from nova3d_core.texturing.fill import fill_unobserved
from nova3d_core.texturing.texels import rasterise_texels
from nova3d_core.views import Views

CONFIG = BakeConfig(texture_px=256)
KNIGHT = Path(__file__).parents[2] / "nova3d_core" / "assets" / "character_knight.glb"
ALL_ROUND = cameras_at(
    [i * 45.0 for i in range(8)] * 3, [0.0] * 8 + [50.0] * 8 + [-50.0] * 8, RigConfig()
)


@pytest.fixture(scope="module")
def all_round(globe) -> Views:
    return render_views(globe, ALL_ROUND).views


def test_texel_positions_follow_the_uv_map(globe):
    texels = rasterise_texels(globe, 128)
    assert len(texels.index) > 0.95 * 128 * 128  # quads at the poles are triangles
    u = (texels.index % 128 + 0.5) / 128
    v = (texels.index // 128 + 0.5) / 128
    theta, phi = v * np.pi, u * 2 * np.pi
    position = 0.4 * torch.stack(
        [theta.sin() * phi.sin(), theta.cos(), theta.sin() * phi.cos()], dim=-1
    )
    assert (texels.position - position).norm(dim=1).max() < 0.006  # flat faces inside the sphere
    assert ((texels.normal * position).sum(dim=1) / 0.4).min() > 0.99


@pytest.fixture(scope="module")
def baked_all_round(globe, all_round) -> BakeResult:
    return bake_texture(globe, all_round, CONFIG)


def test_bakes_a_smooth_colouring(globe, baked_all_round):
    baked = baked_all_round
    assert (baked.coverage > 0).float().mean() > 0.95
    texels = rasterise_texels(globe, CONFIG.texture_px)
    truth = texels.position / 0.4 * 0.45 + 0.5
    error = (baked.mesh.texture.reshape(-1, 3)[texels.index] - truth).abs()
    assert error.max() < 0.04
    assert error.mean() < 0.005


def test_renders_of_the_baked_mesh_match_the_views(all_round, baked_all_round):
    again = render_views(baked_all_round.mesh, ALL_ROUND).views
    psnr = -10 * torch.log10(((again.colour - all_round.colour) ** 2).mean())
    assert psnr > 42


def test_white_background_never_reaches_the_texture(globe):
    dark = replace(globe, vertex_colours=torch.full_like(globe.vertices, 0.1))
    baked = bake_texture(dark, render_views(dark, orbit_cameras()).views, CONFIG)
    assert (baked.mesh.texture - 0.1).abs().max() < 2e-3


def test_unobserved_poles_are_filled_from_their_surroundings(globe):
    # an equatorial ring of cameras does not see the poles
    views = render_views(globe, orbit_cameras(RigConfig(count=8))).views
    baked = bake_texture(globe, views, CONFIG)
    top = baked.mesh.texture[:4].mean(dim=(0, 1))
    assert baked.coverage[:4].max() < 0.5
    assert float(top[1]) > 0.75  # green increases towards the top and is 0.95 at the pole
    assert (top[[0, 2]] - 0.5).abs().max() < 0.05


def test_occluded_surface_keeps_its_own_colour(globe):
    import trimesh

    # a red screen between the front camera and a grey wall: other cameras see the wall
    wall = trimesh.creation.box(extents=[0.8, 0.8, 0.05], transform=np.eye(4))
    screen = trimesh.creation.box(extents=[0.2, 0.2, 0.02])
    screen.apply_translation([0.0, 0.0, 0.3])
    corners = torch.tensor(
        np.concatenate([wall.triangles, screen.triangles]).reshape(-1, 3), dtype=torch.float32
    )
    count = len(corners) // 3
    side = int(np.ceil(np.sqrt(count)))
    cell = torch.stack([torch.arange(count) % side, torch.arange(count) // side], dim=1)
    inside = torch.tensor([[0.05, 0.05], [0.95, 0.05], [0.05, 0.95]])
    uv = ((cell[:, None] + inside[None]) / side).reshape(-1, 2)
    red = torch.arange(len(corners)) >= len(wall.triangles) * 3
    colours = torch.where(
        red[:, None], torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.5, 0.5, 0.5])
    )
    scene = Mesh(corners, torch.arange(len(corners)).reshape(-1, 3), uv=uv, vertex_colours=colours)
    flat = scene.face_normals.repeat_interleave(3, dim=0)
    cameras = cameras_at([0.0, 50.0, -50.0, 180.0], [0.0, 0.0, 0.0, 0.0], RigConfig())
    views = render_views(scene, cameras).views
    baked = bake_texture(replace(scene, normals=flat), views, CONFIG)
    texels = rasterise_texels(replace(scene, normals=flat), CONFIG.texture_px)
    colour = baked.mesh.texture.reshape(-1, 3)[texels.index]
    on_wall_front = (texels.face < len(wall.triangles)) & (texels.normal[:, 2] > 0.9)
    assert on_wall_front.sum() > 100
    assert (colour[on_wall_front] - 0.5).abs().max() < 0.03


def test_unobserved_component_takes_the_mean_colour(globe):
    hidden = globe.transformed(torch.diag(torch.tensor([0.3, 0.3, 0.3, 1.0])))
    shrunk = replace(globe, uv=globe.uv * torch.tensor([0.5, 1.0]))
    both = Mesh(
        torch.cat([shrunk.vertices, hidden.vertices]),
        torch.cat([shrunk.faces, hidden.faces + len(shrunk.vertices)]),
        uv=torch.cat([shrunk.uv, hidden.uv * torch.tensor([0.45, 1.0]) + torch.tensor([0.52, 0])]),
        vertex_colours=torch.full((2 * len(globe.vertices), 3), 0.3),
    )
    baked = bake_texture(both, render_views(both, ALL_ROUND).views, CONFIG)
    assert torch.isfinite(baked.mesh.texture).all()
    assert (baked.mesh.texture - 0.3).abs().max() < 0.01
    assert baked.coverage[:, 140:].max() == 0


def test_filling_solves_the_laplace_equation():
    # a strip of squares from x = 0 to 1: known colours at both ends, linear in between
    count = 20
    x = torch.linspace(0, 1, count + 1)
    rows = [torch.stack([x, torch.full_like(x, y), torch.zeros_like(x)], 1) for y in (0.0, 0.05)]
    vertices = torch.cat(rows)
    i = torch.arange(count)
    upper = i + count + 1
    faces = torch.cat(
        [torch.stack([i, i + 1, upper + 1], 1), torch.stack([i, upper + 1, upper], 1)]
    )
    uv = torch.stack([vertices[:, 0] * 0.98 + 0.01, vertices[:, 1] * 10 + 0.2], dim=1)
    mesh = Mesh(vertices, faces, uv=uv)
    texels = rasterise_texels(mesh, 128)
    x = texels.position[:, 0]
    observed = ((x < 0.1) | (x > 0.9)).float()
    colour = torch.where(x[:, None] < 0.5, 0.1, 0.9).expand(-1, 3)
    filled = fill_unobserved(mesh, texels, colour, observed)
    middle = (x > 0.15) & (x < 0.85)
    gradient = np.polyfit(x[middle].numpy(), filled[middle, 0].numpy(), 1)[0]
    assert gradient == pytest.approx(0.8 / 0.85, rel=0.1)
    assert abs(float(filled[(x - 0.5).abs() < 0.03].mean()) - 0.5) < 0.02


def test_bilinear_sampling_reproduces_a_plane():
    y, x = torch.meshgrid(torch.arange(16) + 0.5, torch.arange(24) + 0.5, indexing="ij")
    plane = torch.stack([0.3 * x + 0.7 * y, x, y], dim=-1)
    points = torch.rand(200, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [22.0, 14.0]
    ) + torch.tensor([1.0, 1.0])
    expected = torch.stack([0.3 * points[:, 0] + 0.7 * points[:, 1], *points.unbind(1)], dim=1)
    torch.testing.assert_close(sample_image(plane, points), expected, atol=1e-4, rtol=0)
    uv = points / torch.tensor([24.0, 16.0])
    torch.testing.assert_close(sample_texture(plane, uv), expected, atol=1e-3, rtol=0)


def test_texture_lookup_repeats_and_image_lookup_clamps():
    image = torch.rand(4, 4, 3, generator=torch.Generator().manual_seed(0))
    uv = torch.tensor([[0.3, 0.6], [0.0, 0.0]])
    torch.testing.assert_close(
        sample_texture(image, uv), sample_texture(image, uv + torch.tensor([3.0, -2.0]))
    )
    corner = sample_image(image, torch.tensor([[-5.0, -5.0], [99.0, 99.0]]))
    torch.testing.assert_close(corner, torch.stack([image[0, 0], image[-1, -1]]))


@pytest.mark.parametrize("largest", [250 / 255, 0.8])
def test_bakes_mattes_that_never_reach_one(globe, all_round, baked_all_round, largest):
    soft = replace(all_round, masks=all_round.masks * largest)
    baked, truth = bake_texture(globe, soft, CONFIG), baked_all_round
    assert (baked.coverage > 0).float().mean() > 0.95
    assert (baked.mesh.texture - truth.mesh.texture).abs().mean() < 0.005


def test_views_that_do_not_observe_the_mesh_are_an_error(globe, all_round):
    moved = globe.transformed(
        torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 9], [0, 0, 1, 0], [0, 0, 0, 1]])
    )
    with pytest.raises(StageError, match="no view sees"):
        bake_texture(moved, all_round, CONFIG)


def test_texels_in_chunks_of_rows_are_the_same(globe, monkeypatch):
    whole = rasterise_texels(globe, 128)
    monkeypatch.setattr("nova3d_core.texturing.texels.RAYS_PER_CHUNK", 1000)
    rows = rasterise_texels(globe, 128)
    for name in ("index", "face", "barycentric", "position"):
        assert torch.equal(getattr(rows, name), getattr(whole, name))


def test_missing_or_out_of_range_uv_is_an_error(globe):
    views = render_views(globe, orbit_cameras(RigConfig(count=2))).views
    with pytest.raises(InputError, match="no UV"):
        bake_texture(replace(globe, uv=None), views, CONFIG)
    with pytest.raises(InputError, match="no texel centre"):
        bake_texture(replace(globe, uv=globe.uv + 5.0), views, CONFIG)


def test_can_be_cancelled_after_each_view(globe):
    views = render_views(globe, orbit_cameras(RigConfig(count=4))).views
    steps = []
    progress = Progress(lambda event: steps.append(event.step), lambda: len(steps) > 1)
    with pytest.raises(Cancelled, match="baking"):
        bake_texture(globe, views, CONFIG, progress)
    assert len(steps) == 2


def test_baking_in_chunks_gives_the_same_texture(globe, monkeypatch):
    views = render_views(globe, orbit_cameras(RigConfig(count=4))).views
    small = replace(CONFIG, texture_px=128)
    whole = bake_texture(globe, views, small)
    monkeypatch.setattr("nova3d_core.texturing.bake.TEXELS_PER_CHUNK", 5000)
    parts = bake_texture(globe, views, small)
    assert torch.equal(parts.mesh.texture, whole.mesh.texture)
    assert torch.equal(parts.coverage, whole.coverage)


def test_checks_for_a_cancel_are_close_together():
    """Of a bake of the knight at 1024 px, in CPU seconds: the load does not matter."""
    knight = read_mesh(KNIGHT).normalised()
    rig = RigConfig(count=16, width_px=256, height_px=256)
    views = render_views(knight, orbit_cameras(rig), RenderConfig(1)).views
    bake_texture(knight, views, BakeConfig(64))  # imports
    gaps, last = [], time.process_time()

    def is_cancelled() -> bool:
        nonlocal last
        now = time.process_time()
        gaps.append(now - last)
        last = time.process_time()
        return False

    bake_texture(knight, views, BakeConfig(1024), Progress(is_cancelled=is_cancelled))
    is_cancelled()
    assert len(gaps) > 50 and max(gaps) < 0.5, max(gaps)
