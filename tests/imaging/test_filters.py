"""Blur and gradients against convolutions and known derivatives."""

from __future__ import annotations

import pytest
import torch

from nova3d_core.imaging.filters import gaussian_blur, image_gradient


@pytest.mark.parametrize("border", ["constant", "replicate"])
@pytest.mark.parametrize(("sigma_px", "radius_px"), [(1.2, None), (0.75, 2), (3.0, 9)])
def test_gaussian_blur_is_a_convolution(border, sigma_px, radius_px):
    image = torch.randn(3, 20, 24, generator=torch.Generator().manual_seed(4))
    radius = 3 if radius_px is None else radius_px
    x = torch.arange(-radius, radius + 1.0)
    taps = torch.exp(-x.square() / (2 * sigma_px**2))
    taps = taps / taps.sum()
    kernel = (taps[:, None] * taps).expand(3, 1, -1, -1)
    padded = torch.nn.functional.pad(image[None], (radius,) * 4, mode=border)
    expected = torch.nn.functional.conv2d(padded, kernel, groups=3)[0]
    found = gaussian_blur(image, sigma_px, radius_px, border)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("sigma_px", [0.7, 1.4, 2.7])
def test_blur_keeps_the_sum_and_has_the_given_sigma(sigma_px):
    image = torch.zeros(2, 31, 33)
    image[0, 15, 16] = 1.0
    image[1] = 1.0
    dot, flat = gaussian_blur(image, sigma_px)
    assert float(dot.sum()) == pytest.approx(1.0, abs=1e-5)
    assert float(flat[10:21, 10:21].sub(1.0).abs().max()) < 1e-5
    x = torch.arange(33) - 16.0
    assert float((dot.sum(dim=0) * x.square()).sum()) == pytest.approx(sigma_px**2, rel=0.12)
    torch.testing.assert_close(dot[15 - 7 : 15 + 8, 16 - 7 : 16 + 8].T, dot[8:23, 9:24])


def test_gradients_of_a_linear_image_are_constant_up_to_the_border():
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(8.0), indexing="ij")
    image = torch.stack([2.0 * columns, columns - 3.0 * rows])
    inside = (..., slice(1, -1), slice(1, -1))
    expected = torch.tensor([[2.0, 1.0], [0.0, -3.0]])[..., None, None].expand(2, 2, 4, 6)
    assert torch.equal(image_gradient(image)[inside], expected)
    assert torch.equal(image_gradient(image, "replicate")[inside], expected)
    assert float(image_gradient(image, "replicate")[0, 0, 0, -1]) == 1.0  # half: one side is flat
    assert float(image_gradient(image)[0, 0, 0, -1]) == -6.0  # (0 - 12) / 2
