"""Texture refinement: recovery, what must not move, views that contradict each other, bad input."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch

from nova3d_core.cameras.cameras import cameras_at, orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import Cancelled, InputError
from nova3d_core.evaluation.distortions import DistortionConfig, distort_views
from nova3d_core.evaluation.metrics.image import psnr
from nova3d_core.mesh import Mesh
from nova3d_core.perceptual.lpips import Lpips
from nova3d_core.progress import Progress
from nova3d_core.rendering.config import RenderConfig
from nova3d_core.rendering.views import render_views
from nova3d_core.texturing import refine
from nova3d_core.texturing.bake import bake_texture
from nova3d_core.texturing.config import BakeConfig, RefineConfig
from nova3d_core.texturing.refine import refine_texture
from nova3d_core.views import Views

from ..perceptual.procedural import backbone_weights, image

SIZE_PX = 64
PLAIN = RefineConfig(steps=200, perceptual="none")


@pytest.fixture(scope="module")
def truth(globe) -> Mesh:
    """The globe with a texture of smooth spots; 48 x 96 texels, about one per pixel."""
    spots = image(12, 24, 7).movedim(-1, 0)[None]
    texture = torch.nn.functional.interpolate(spots, (48, 96), mode="bicubic")[0].clamp(0.0, 1.0)
    return replace(globe, vertex_colours=None, texture=texture.movedim(0, -1).contiguous())


def rendered(mesh: Mesh, count: int = 8, **rig) -> Views:
    cameras = orbit_cameras(RigConfig(count=count, width_px=SIZE_PX, height_px=SIZE_PX, **rig))
    return replace(render_views(mesh, cameras, RenderConfig(2)).views, normals=None)


@pytest.fixture(scope="module")
def views(truth) -> Views:
    return rendered(truth)


def foreground_psnr(found: Views, truth: Views) -> float:
    """PSNR over the pixels that the object covers completely."""
    inside = truth.masks > 0.999
    return psnr(found.colour[inside], truth.colour[inside])


def held_out_psnr(mesh: Mesh, truth: Mesh) -> float:
    """Foreground PSNR over views between the input views and above them."""
    rig = RigConfig(width_px=SIZE_PX, height_px=SIZE_PX)
    cameras = cameras_at([22.5, 112.5, 202.5, 292.5], [0.0, 15.0, 0.0, -15.0], rig)
    return foreground_psnr(*(render_views(each, cameras).views for each in (mesh, truth)))


def test_texture_with_noise_comes_back(truth, views):
    noise = 0.1 * torch.randn(truth.texture.shape, generator=torch.Generator().manual_seed(0))
    noisy = replace(truth, texture=(truth.texture + noise).clamp(0.0, 1.0))
    assert held_out_psnr(noisy, truth) < 28.0
    refined = refine_texture(noisy, views, PLAIN)
    assert held_out_psnr(refined.mesh, truth) > 38.0
    assert refined.difference < 0.2 * refined.difference_before


def test_views_with_noise_give_the_texture_back(truth, views):
    random = torch.Generator().manual_seed(1)
    noise = 0.02 * torch.randn(views.colour.shape, generator=random) * views.masks[..., None]
    noisy = replace(views, colour=(views.colour + noise).clamp(0.0, 1.0))
    assert foreground_psnr(noisy, views) < 35.0
    refined = refine_texture(truth, noisy, RefineConfig(steps=64))
    assert refined.warp_px == 0.0
    assert held_out_psnr(refined.mesh, truth) > 38.0


def test_constant_image_stays(truth):
    constant = replace(truth, texture=torch.full_like(truth.texture, 0.4))
    refined = refine_texture(constant, rendered(constant), RefineConfig(steps=24))
    torch.testing.assert_close(refined.mesh.texture, constant.texture, atol=1e-4, rtol=0.0)


def test_texels_that_no_view_sees_do_not_move(truth):
    """Two views from the front: the half of the texture around azimuth 180 stays."""
    other = rendered(replace(truth, texture=1.0 - truth.texture), count=1)
    for config in (PLAIN, RefineConfig(steps=8)):
        refined = refine_texture(truth, other, replace(config, steps=8)).mesh
        moved = (refined.texture != truth.texture).any(dim=-1)
        columns = torch.arange(96)
        azimuth_deg = (columns + 0.5) / 96 * 360.0
        behind = (azimuth_deg > 125.0) & (azimuth_deg < 265.0)
        assert not bool(moved[:, behind].any())
        assert float(moved[16:32].float().mean()) > 0.2


def test_only_the_texture_changes(truth, views):
    refined = refine_texture(truth, views, RefineConfig(steps=4)).mesh
    for name in ("vertices", "faces", "uv", "normals"):
        assert torch.equal(getattr(refined, name), getattr(truth, name))
    assert refined.vertex_colours is None
    assert refined.texture.shape == truth.texture.shape


@pytest.mark.parametrize("steps", [1, 4])
def test_few_steps_never_make_the_texture_worse(truth, views, steps):
    """A baked texture fits all views well: one large step for one view of them is no progress."""
    baked = bake_texture(replace(truth, texture=None), views, BakeConfig(texture_px=96)).mesh
    refined = refine_texture(baked, views, RefineConfig(steps=steps, perceptual="none"))
    assert refined.difference <= refined.difference_before
    kept = torch.equal(refined.mesh.texture, baked.texture)
    assert kept == (refined.difference == refined.difference_before)


def test_same_input_gives_the_same_texture(truth, views):
    first, second = (refine_texture(truth, views, RefineConfig(steps=8)) for _ in range(2))
    assert torch.equal(first.mesh.texture, second.mesh.texture)


def test_contradicting_views_give_a_better_texture_than_baking(truth):
    clean = rendered(truth, count=12)
    bent = distort_views(clean, DistortionConfig(nodes=3, sigma_px=6.0), seed=0).views
    bare = replace(truth, texture=None)
    baked = bake_texture(bare, bent, BakeConfig(texture_px=96)).mesh
    refined = refine_texture(baked, bent)
    assert refined.warp_px > 0.5
    assert held_out_psnr(refined.mesh, truth) > held_out_psnr(baked, truth) + 0.5
    assert refined.difference < 0.7 * refined.difference_before


def test_views_that_agree_are_not_moved(truth):
    clean = rendered(truth, count=12)
    baked = bake_texture(replace(truth, texture=None), clean, BakeConfig(texture_px=96)).mesh
    refined = refine_texture(baked, clean)
    assert refined.warp_px == 0.0
    assert torch.equal(refined.views.colour, clean.colour)
    assert held_out_psnr(refined.mesh, truth) > held_out_psnr(baked, truth) - 0.05


def test_lpips_is_a_loss(truth, views):
    """With features of random filters, which are no LPIPS but as good for a test."""
    net = Lpips("alex", backbone_weights("alex"))
    start = replace(truth, texture=(0.7 * truth.texture + 0.3 * truth.texture.roll(3, dims=0)))
    refined = refine_texture(start, views, RefineConfig(32, "lpips"), lpips=net).mesh
    found, before, target = (
        render_views(mesh, views.cameras, RenderConfig(2)).views.colour
        for mesh in (refined, start, truth)
    )
    assert float(net(found, target).mean()) < 0.7 * float(net(before, target).mean())


def test_lpips_without_a_backbone_names_the_file(truth, views, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("NOVA3D_MODELS", raising=False)
    with pytest.raises(InputError, match=r"Put torchvision's vgg16-397923af\.pth or alexnet"):
        refine_texture(truth, views, RefineConfig(4, "lpips"))


def test_cancel_takes_effect_within_a_step(truth, views):
    steps = []
    progress = Progress(lambda event: steps.append(event), lambda: len(steps) >= 20)
    with pytest.raises(Cancelled):
        refine_texture(truth, views, RefineConfig(steps=500), progress)
    assert len(steps) == 20


def test_mesh_without_texture(globe, views):
    with pytest.raises(InputError, match="no texture to refine"):
        refine_texture(globe, views)


def test_mesh_that_does_not_fit_the_views(truth, views):
    small = replace(truth, vertices=0.5 * truth.vertices)
    with pytest.raises(InputError, match="the views do not fit the mesh"):
        refine_texture(small, views)


def test_views_without_masks_are_matted(truth, views):
    refined = refine_texture(truth, replace(views, masks=None), RefineConfig(steps=4))
    assert refined.views.masks is not None


def test_texture_of_something_else_is_named(truth, views, caplog):
    other = replace(truth, texture=1.0 - truth.texture)
    with caplog.at_level(logging.WARNING):
        refine_texture(other, views, RefineConfig(steps=1, perceptual="none"))
    assert "was it baked from other views?" in caplog.text


def test_bad_settings():
    with pytest.raises(InputError, match="refine steps"):
        RefineConfig(steps=-1)
    with pytest.raises(InputError, match="refine perceptual"):
        RefineConfig(perceptual="vae")
    with pytest.raises(InputError, match="lpips needs steps"):
        RefineConfig(steps=0, perceptual="lpips")


def test_texture_that_does_not_fit_into_memory(truth, views, monkeypatch):
    monkeypatch.setattr(refine, "available_bytes", lambda: 400_000)
    with pytest.raises(InputError, match=r"refining a texture of 96x48 px needs .* smaller"):
        refine_texture(truth, views)
