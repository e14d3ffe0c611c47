"""Images much finer than the texture are downsampled before the bake."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.mesh import Mesh
from nova3d_core.rendering.config import RenderConfig
from nova3d_core.rendering.views import render_views
from nova3d_core.texturing.bake import bake_texture
from nova3d_core.texturing.config import BakeConfig
from nova3d_core.texturing.image_scale import downsample_for_bake, downsampling_factor
from nova3d_core.texturing.texels import rasterise_texels
from nova3d_core.views import Views


def views_of(size_px: int, kind: str = "perspective", radius: float = 2.2) -> Views:
    rig = RigConfig(count=3, width_px=size_px, height_px=size_px, kind=kind, radius=radius)
    cameras = orbit_cameras(rig)
    return Views(cameras, torch.rand(3, size_px, size_px, 3), torch.ones(3, size_px, size_px))


@pytest.mark.parametrize("kind", ["perspective", "orthographic"])
@pytest.mark.parametrize(
    ("size_px", "texture_px", "factor"),
    [(64, 64, 1), (256, 64, 2), (768, 64, 7), (768, 256, 1), (768, 128, 3)],
)
def test_images_keep_at_least_one_and_a_half_pixels_per_texel(
    globe, kind, size_px, texture_px, factor
):
    texels = rasterise_texels(globe, texture_px)
    views = views_of(size_px, kind)
    found = downsampling_factor(globe, texels, views)
    texel = float((globe.face_areas.sum() / len(texels.index)).sqrt())
    focal = float(views.cameras.intrinsics[0, 0, 0])
    pixel = found * (2.2 if kind == "perspective" else 1.0) / focal
    assert texel / pixel >= 1.5 or found == 1
    assert texel / (pixel / found * (found + 1)) < 1.5
    if kind == "perspective":
        assert found == factor


def test_the_farthest_view_decides(globe):
    texels, near = rasterise_texels(globe, 64), views_of(768)
    poses = near.cameras.world_to_camera.clone()
    poses[1, 2, 3] *= 3.0
    far = replace(near, cameras=replace(near.cameras, world_to_camera=poses))
    whole = downsampling_factor(globe, texels, near)
    assert downsampling_factor(globe, texels, far) == pytest.approx(whole / 3, abs=1)


def test_a_factor_of_one_returns_the_same_views():
    views = views_of(64)
    assert downsample_for_bake(views, None, 1) == (views, None)


def test_conflict_is_downsampled_with_the_images():
    views = views_of(64)
    conflict = torch.rand(3, 64, 64)
    small, maps = downsample_for_bake(views, conflict, 4)
    assert small.colour.shape == (3, 16, 16, 3)
    torch.testing.assert_close(maps, conflict.reshape(3, 16, 4, 16, 4).mean(dim=(2, 4)))


def test_texels_take_the_mean_of_fine_detail(globe):
    """A pattern much finer than a texel: its mean, not a random sample of it, is baked."""
    checks = (torch.arange(150)[:, None] + torch.arange(300)) % 2
    texture = (0.1 + 0.8 * checks).repeat_interleave(4, 0).repeat_interleave(4, 1)
    texture = texture[..., None].expand(-1, -1, 3).contiguous()
    fine: Mesh = replace(globe, texture=texture, vertex_colours=None)
    cameras = orbit_cameras(RigConfig(count=4, width_px=768, height_px=768))
    views = render_views(fine, cameras, RenderConfig(supersample=1)).views
    config = BakeConfig(texture_px=64, exposure=False, consistency=False)
    baked = bake_texture(globe, views, config)
    inside = baked.mesh.texture[24:40].reshape(-1, 3)
    assert (inside - 0.5).abs().mean() < 0.08
