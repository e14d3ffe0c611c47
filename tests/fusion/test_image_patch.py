"""Blur, gradients and window sums of patches against convolutions of whole images."""

from __future__ import annotations

import pytest
import torch

from nova3d_core.fusion.poses.image_patch import ImagePatch, blur_pixels, window_sums
from nova3d_core.imaging.filters import gaussian_blur


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_blur_pixels_equals_blurring_the_whole_image():
    chosen = torch.rand(30, 40, generator=torch.Generator().manual_seed(1)) > 0.3
    chosen[:4], chosen[:, 31:] = False, False
    y, x = chosen.nonzero().unbind(dim=1)
    values = randn(5, len(x), seed=2)
    patch = ImagePatch.of_views([torch.stack([x, y], dim=1) + 0.5])[0]
    assert (patch.width, patch.height) == (31, 26)
    assert torch.equal(patch.pixels(patch.image(values)), values)
    found, gradients = blur_pixels(values, patch, 1.3)
    image = torch.zeros(5, 34, 44)  # with two more pixels on each side
    image[:, y + 2, x + 2] = values
    image = gaussian_blur(image, 1.3)
    torch.testing.assert_close(found, image[:, y + 2, x + 2])
    along_x = (image[:, y + 2, x + 3] - image[:, y + 2, x + 1]) / 2
    along_y = (image[:, y + 3, x + 2] - image[:, y + 1, x + 2]) / 2
    inside = (x > x.min()) & (x < x.max()) & (y > y.min()) & (y < y.max())
    expected = torch.stack([along_x, along_y])
    torch.testing.assert_close(gradients[..., inside], expected[..., inside])


@pytest.mark.parametrize("side_px", [1, 3, 11])
def test_window_sums_equal_a_convolution(side_px):
    image = randn(3, 2, 20, 20, seed=3)
    weights = torch.ones(1, 1, side_px, side_px)
    found = window_sums(image, side_px)
    expected = torch.nn.functional.conv2d(
        image.reshape(6, 1, 20, 20), weights, padding=side_px // 2
    )
    torch.testing.assert_close(found, expected.reshape(3, 2, 20, 20), rtol=0, atol=1e-4)
    ones = (image > 0.9).float()
    assert torch.equal(window_sums(ones, side_px), window_sums(ones, side_px).round())
