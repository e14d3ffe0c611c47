"""Painted images become the views that they show: the truth is rendered."""

from __future__ import annotations

import pytest
import torch

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.conventions import encode_normals
from nova3d_core.diffusion.sampling.postprocess import upscale, views_from_samples, white_of_normals
from nova3d_core.imaging.matte import WHITE_TOLERANCE
from nova3d_core.rendering.views import render_views


@pytest.fixture(scope="module")
def truth(l_solid):
    rig = RigConfig(count=4, width_px=96, height_px=96, azimuth_start_deg=30.0)
    return render_views(l_solid, orbit_cameras(rig)).views.with_normals_in("front_view")


def painted(truth) -> torch.Tensor:
    """(V, H, W, 3) the normals as a model paints them: on white, mixed at the silhouette."""
    share = truth.masks[..., None]
    return encode_normals(truth.normals) * share + (1.0 - share)


def test_masks_and_normals_are_those_of_the_rendering(truth):
    views = views_from_samples(truth.cameras, truth.colour, painted(truth))
    assert views.normal_frame == "front_view"
    assert float((views.masks - truth.masks).abs().mean()) < 0.01
    cosine = (views.normals * truth.normals).sum(dim=-1)
    assert float(cosine[truth.masks == 1].min()) > 0.9999
    edge = (truth.masks > 0.3) & (truth.masks < 1)
    assert float(cosine[edge].quantile(0.05)) > 0.999
    assert not views.normals[truth.masks == 0].any()
    length = views.normals.norm(dim=-1)
    assert bool(((length - 1).abs() < 1e-4).logical_or(length == 0).all())


def test_a_white_object_is_found_by_its_normals(truth):
    white = torch.ones_like(truth.colour)
    views = views_from_samples(truth.cameras, white, painted(truth))
    assert float((views.masks - truth.masks).abs().mean()) < 0.01


def test_colours_alone_are_matted_and_the_inputs_mask_is_kept(truth):
    first = torch.zeros(96, 96)
    first[20:40, 30:50] = 1.0
    views = views_from_samples(truth.cameras, truth.colour, None, first)
    assert views.normals is None
    assert views.masks[0].equal(first)
    assert float((views.masks - truth.masks)[1:].abs().mean()) < 0.01


def test_without_a_white_background_the_images_still_come(truth, caplog):
    grey = truth.colour * 0.5
    views = views_from_samples(truth.cameras, grey, grey)
    assert views.masks is None
    assert views.colour.equal(grey)
    assert "without masks: the border of view 0 is not white" in caplog.text


@pytest.mark.parametrize("noise", [0.02, 0.05])
def test_a_painted_background_need_not_be_quite_white(truth, noise):
    generator = torch.Generator().manual_seed(0)
    noisy = [
        (each + noise * torch.randn(each.shape, generator=generator)).clamp(0.0, 1.0)
        for each in (truth.colour, painted(truth))
    ]
    views = views_from_samples(truth.cameras, *noisy)
    assert float((views.masks - truth.masks).abs().mean()) < 0.01
    assert float((views.masks[truth.masks == 1] > 0.5).float().mean()) > 0.99
    far = torch.nn.functional.max_pool2d(truth.masks[:, None], 7, 1, 3)[:, 0] == 0
    assert not views.masks[far].any()
    assert bool((views.colour[far] == 1).all()) and not views.normals[far].any()


def test_a_clean_background_leaves_the_silhouettes_pixels_alone(truth):
    """Pixels with little of the object in them are no noise where there is none."""
    images = painted(truth)
    clean = images.amin(dim=-1) >= 1.0 - WHITE_TOLERANCE
    assert white_of_normals(images).equal(clean)


def test_enlarged_views_show_the_same(truth, l_solid):
    """Seen through cameras of twice the size, they are closer to the truth than doubled pixels."""
    rig = RigConfig(count=4, width_px=192, height_px=192, azimuth_start_deg=30.0)
    finer = render_views(l_solid, orbit_cameras(rig)).views.with_normals_in("front_view")
    views = upscale(truth, 2)
    torch.testing.assert_close(views.cameras.intrinsics, finer.cameras.intrinsics)
    for name in ("colour", "masks"):
        true, ours, small = (getattr(each, name) for each in (finer, views, truth))
        doubled = small.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
        wrong, coarse = (float((each - true).square().mean()) for each in (ours, doubled))
        assert wrong < 0.8 * coarse, name
    cosine = (views.normals * finer.normals).sum(dim=-1)
    assert float(cosine[finer.masks == 1].mean()) > 0.99
    length = views.normals.norm(dim=-1)
    assert bool(((length - 1).abs() < 1e-4).logical_or(length == 0).all())
    assert upscale(truth, 1) is truth
