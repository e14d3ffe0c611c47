"""Spherical Gaussians: integrals against quadrature, gradients, environment maps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from nova3d_core.texturing.lighting.spherical_gaussians import (
    COSINE_AMPLITUDE,
    COSINE_SHARPNESS,
    SphericalGaussians,
    fibonacci_sphere,
    product_integrals,
)


def random_lights(count: int, seed: int) -> SphericalGaussians:
    random = torch.Generator().manual_seed(seed)
    axes = functional.normalize(torch.randn(count, 3, generator=random).double(), dim=1)
    low, high = math.log(0.5), math.log(60.0)
    sharpness = (low + (high - low) * torch.rand(count, generator=random).double()).exp()
    return SphericalGaussians(axes, sharpness, 0.2 + torch.rand(count, generator=random).double())


def lobes(light: SphericalGaussians, directions: Tensor) -> Tensor:
    """(N, L) each lobe in unit directions (N, 3)."""
    exponent = light.sharpness * (directions @ light.axes.T - 1.0)
    return light.amplitude * exponent.exp()


def test_product_integrals_equal_quadrature():
    first, second = random_lights(100, 0), random_lights(100, 1)
    directions = fibonacci_sphere(100_000).double()
    directions = functional.normalize(directions, dim=1)
    expected = (lobes(first, directions) * lobes(second, directions)).mean(dim=0) * 4.0 * math.pi
    found = product_integrals(
        (first.axes * second.axes).sum(dim=1),
        first.sharpness,
        second.sharpness,
        first.amplitude * second.amplitude,
    )
    torch.testing.assert_close(found, expected, rtol=0.01, atol=1e-9)


def test_product_integral_of_equal_and_opposite_lobes():
    """G(w; mu) G(w; -mu) = a^2 exp(-2 lambda) for every w."""
    sharpness = torch.tensor(3.0, dtype=torch.float64)
    one = torch.ones((), dtype=torch.float64)
    found = product_integrals(-one, sharpness, sharpness, one)
    assert float(found) == pytest.approx(4.0 * math.pi * math.exp(-6.0), rel=1e-5)


def test_shading_is_the_integral_with_the_cosine_lobe():
    light = random_lights(5, 2)
    normals = functional.normalize(fibonacci_sphere(7).double(), dim=1)
    directions = functional.normalize(fibonacci_sphere(100_000).double(), dim=1)
    cosine = COSINE_AMPLITUDE * (COSINE_SHARPNESS * (directions @ normals.T - 1.0)).exp()
    radiance = light.radiance(directions)[:, None]
    expected = (radiance * cosine).mean(dim=0) * 4.0  # 4 pi / pi
    torch.testing.assert_close(light.shading(normals), expected, rtol=1e-3, atol=0.0)


def test_gradients_of_shading_equal_finite_differences():
    """One broad and one narrow lobe, float64."""
    normals = functional.normalize(fibonacci_sphere(20).double(), dim=1)

    def shading(axes: Tensor, log_sharpness: Tensor, amplitude: Tensor) -> Tensor:
        unit = functional.normalize(axes, dim=1)
        return SphericalGaussians(unit, log_sharpness.exp(), amplitude).shading(normals)

    axes = torch.tensor([[0.3, 1.0, 0.2], [-0.5, 0.4, 0.9]], dtype=torch.float64)
    inputs = (axes, torch.tensor([0.8, 40.0]).double().log(), torch.tensor([0.7, 2.0]).double())
    inputs = tuple(each.requires_grad_() for each in inputs)
    assert torch.autograd.gradcheck(shading, inputs, eps=1e-6, atol=1e-5, rtol=1e-5)


def test_environment_map_points_where_it_says():
    """Lobes at +Z, +X and +Y: centre, left of the centre, top."""
    for axis, column, row in (
        ((0.0, 0.0, 1.0), 32.0, 16.0),
        ((1.0, 0.0, 0.0), 16.0, 16.0),
        ((0.0, 1.0, 0.0), None, 0.0),
    ):
        light = SphericalGaussians(torch.tensor([axis]), torch.tensor([50.0]), torch.tensor([2.0]))
        image = light.environment_map(64, 32)
        top, left = divmod(int(image.argmax()), 64)
        assert abs(top + 0.5 - row) <= 1.0
        assert column is None or abs(left + 0.5 - column) <= 1.0
        assert 1.7 < float(image.max()) <= 2.0  # half a pixel off the axis


def test_shading_of_one_lobe_is_brightest_along_its_axis_and_scales():
    light = SphericalGaussians(torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([4.0]), torch.ones(1))
    up_side_down = light.shading(torch.tensor([[0.0, 1, 0], [1.0, 0, 0], [0.0, -1, 0]]))
    assert bool((up_side_down.diff() < 0.0).all())
    torch.testing.assert_close(light.scaled(3.0).shading(light.axes), 3.0 * up_side_down[:1])
