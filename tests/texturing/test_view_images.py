"""Image filters for baking."""

from __future__ import annotations

from dataclasses import replace

import torch

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.imaging.sampling import sample_image
from nova3d_core.rendering.views import render_views, sample_positions
from nova3d_core.texturing.bake import bake_texture
from nova3d_core.texturing.config import BakeConfig
from nova3d_core.texturing.view_images import local_colour_range, sharpen_image

SIZE = 32


def pixel_means(image: torch.Tensor, samples: int = 16) -> torch.Tensor:
    """Means of a bilinearly interpolated image over its pixels, as a camera sees it."""
    fine = sample_image(image, sample_positions(SIZE, SIZE, samples))
    return fine.reshape(SIZE, SIZE, samples**2, -1).mean(dim=2)


def test_sharpened_image_has_the_pixel_means_of_the_input():
    noise = torch.rand(SIZE, SIZE, 3, generator=torch.Generator().manual_seed(0))
    waves = (
        torch.stack(
            torch.meshgrid(torch.arange(SIZE) * 0.9, torch.arange(SIZE) * 1.3, indexing="ij"),
            dim=-1,
        ).sin()
        * 0.5
        + 0.5
    )
    for image, rest in ((waves, 0.06), (noise, 0.4)):
        blurred = (pixel_means(image) - image)[2:-2, 2:-2].square().mean().sqrt()
        error = (pixel_means(sharpen_image(image)) - image)[2:-2, 2:-2].square().mean().sqrt()
        assert error < rest * blurred


def test_sharpening_preserves_constant_colours_and_ramps():
    ramp = (torch.arange(SIZE) * 0.03)[None, :, None].expand(SIZE, SIZE, 2).contiguous()
    torch.testing.assert_close(sharpen_image(ramp)[:, 5:-5], ramp[:, 5:-5], atol=1e-6, rtol=0)
    even = torch.full((SIZE, SIZE, 3), 0.3)
    torch.testing.assert_close(sharpen_image(even), even, atol=1e-6, rtol=0)


def test_sharpened_texture_renders_closer_to_the_views(globe):
    checks = (globe.vertices * 30).sin().prod(dim=1, keepdim=True) * 0.4 + 0.5
    chequered = replace(globe, vertex_colours=checks.expand(-1, 3).contiguous())
    cameras = orbit_cameras(RigConfig(count=12, width_px=64, height_px=64))
    views = render_views(chequered, cameras).views
    errors = []
    for sharpen in (False, True):
        config = BakeConfig(texture_px=256, sharpen=sharpen)
        again = render_views(bake_texture(chequered, views, config).mesh, cameras).views
        errors.append(float((again.colour - views.colour).square().mean()))
    assert errors[1] < 0.5 * errors[0]  # 3 dB


def test_local_colour_range_is_that_of_3_x_3_pixels():
    image = torch.zeros(5, 5, 2)
    image[2, 2] = torch.tensor([1.0, -1.0])
    low, high = local_colour_range(image)
    assert high[1:4, 1:4, 0].min() == 1.0
    assert high[..., 0].sum() == 9.0
    assert low[1:4, 1:4, 1].max() == -1.0
    assert low[..., 1].sum() == -9.0
    assert (low[..., 0] == 0).all()
    assert (high[..., 1] == 0).all()
