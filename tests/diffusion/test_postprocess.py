"""Views from generated images, compared with rendered ground truth."""

from __future__ import annotations

import pytest
import torch

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.conventions import encode_normals
from nova3d_core.diffusion.sampling.postprocess import upscale, views_from_samples, white_background
from nova3d_core.imaging.matte import WHITE_TOLERANCE
from nova3d_core.rendering.views import render_views


@pytest.fixture(scope="module")
def truth(l_solid):
    rig = RigConfig(count=4, width_px=96, height_px=96, azimuth_start_deg=30.0)
    return render_views(l_solid, orbit_cameras(rig)).views.with_normals_in("front_view")


def normal_images(truth) -> torch.Tensor:
    """(V, H, W, 3) normals as a model generates them: on white, blended at the silhouette."""
    alpha = truth.masks[..., None]
    return encode_normals(truth.normals) * alpha + (1.0 - alpha)


def test_masks_and_normals_match_the_rendering(truth):
    views = views_from_samples(truth.cameras, truth.colour, normal_images(truth))
    assert views.normal_frame == "front_view"
    assert float((views.masks - truth.masks).abs().mean()) < 0.01
    cosine = (views.normals * truth.normals).sum(dim=-1)
    assert float(cosine[truth.masks == 1].min()) > 0.9999
    edge = (truth.masks > 0.3) & (truth.masks < 1)
    assert float(cosine[edge].quantile(0.05)) > 0.999
    assert not views.normals[truth.masks == 0].any()
    length = views.normals.norm(dim=-1)
    assert bool(((length - 1).abs() < 1e-4).logical_or(length == 0).all())


def test_white_object_is_masked_by_its_normals(truth):
    white = torch.ones_like(truth.colour)
    views = views_from_samples(truth.cameras, white, normal_images(truth))
    assert float((views.masks - truth.masks).abs().mean()) < 0.01


def test_masks_from_colours_alone_keep_the_input_mask(truth):
    first = torch.zeros(96, 96)
    first[20:40, 30:50] = 1.0
    views = views_from_samples(truth.cameras, truth.colour, None, first)
    assert views.normals is None
    assert views.masks[0].equal(first)
    assert float((views.masks - truth.masks)[1:].abs().mean()) < 0.01


def test_images_without_white_background_have_no_masks(truth, caplog):
    grey = truth.colour * 0.5
    views = views_from_samples(truth.cameras, grey, grey)
    assert views.masks is None
    assert views.colour.equal(grey)
    assert "have no masks: the border of view 0 is not white" in caplog.text


@pytest.mark.parametrize("noise", [0.02, 0.05])
def test_noisy_background_is_masked(truth, noise):
    generator = torch.Generator().manual_seed(0)
    noisy = [
        (each + noise * torch.randn(each.shape, generator=generator)).clamp(0.0, 1.0)
        for each in (truth.colour, normal_images(truth))
    ]
    views = views_from_samples(truth.cameras, *noisy)
    assert float((views.masks - truth.masks).abs().mean()) < 0.01
    assert float((views.masks[truth.masks == 1] > 0.5).float().mean()) > 0.99
    far = torch.nn.functional.max_pool2d(truth.masks[:, None], 7, 1, 3)[:, 0] == 0
    assert not views.masks[far].any()
    assert bool((views.colour[far] == 1).all()) and not views.normals[far].any()


def test_clean_background_keeps_silhouette_pixels(truth):
    """Without noise, pixels that the object barely covers are not background."""
    images = normal_images(truth)
    clean = images.amin(dim=-1) >= 1.0 - WHITE_TOLERANCE
    assert white_background(images).equal(clean)


def test_upscaled_views_are_closer_than_pixel_doubling(truth, l_solid):
    """Bicubic upscaling is closer to renderings of twice the resolution than pixel doubling."""
    rig = RigConfig(count=4, width_px=192, height_px=192, azimuth_start_deg=30.0)
    finer = render_views(l_solid, orbit_cameras(rig)).views.with_normals_in("front_view")
    views = upscale(truth, 2)
    torch.testing.assert_close(views.cameras.intrinsics, finer.cameras.intrinsics)
    for name in ("colour", "masks"):
        true, upscaled, low = (getattr(each, name) for each in (finer, views, truth))
        doubled = low.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
        error, baseline = (float((each - true).square().mean()) for each in (upscaled, doubled))
        assert error < 0.8 * baseline, name
    cosine = (views.normals * finer.normals).sum(dim=-1)
    assert float(cosine[finer.masks == 1].mean()) > 0.99
    length = views.normals.norm(dim=-1)
    assert bool(((length - 1).abs() < 1e-4).logical_or(length == 0).all())
    assert upscale(truth, 1) is truth
