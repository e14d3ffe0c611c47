from __future__ import annotations

import pytest
import torch

from nova3d_core.imaging.warps import smooth_image, spline_weights, warp_image


@pytest.mark.parametrize("nodes", [4, 6, 8])
def test_spline_weights_are_a_partition_of_unity_with_linear_precision(nodes):
    position = torch.linspace(0.0, 1.0, 101)
    weights = spline_weights(position, nodes)
    assert (weights >= 0).all() and ((weights > 0).sum(dim=1) <= 4).all()
    assert torch.allclose(weights.sum(dim=1), torch.ones(101), atol=1e-6)
    # nodes lie one interval apart, the second one at position 0
    at = (torch.arange(nodes) - 1.0) / (nodes - 3)
    assert torch.allclose(weights @ at, position, atol=1e-5)


def test_spline_is_twice_continuously_differentiable():
    position = torch.linspace(0.0, 1.0, 2001, dtype=torch.float64)
    nodes = torch.randn(8, generator=torch.Generator().manual_seed(0)).double()
    second = (spline_weights(position, 8) @ nodes).diff(n=2) * 2000**2
    # the second derivative is piecewise linear: no jumps, also not at the intervals' ends
    assert float(second.diff().abs().max()) < 0.02 * float(second.abs().max())


def test_linear_nodes_give_a_linear_image():
    axis = (torch.arange(8) - 1.0) / 5
    nodes = torch.stack([axis.expand(8, 8), axis[:, None].expand(8, 8)])  # x, y in 0..1
    image = smooth_image(nodes, 30, 50)
    columns, rows = (torch.arange(50) + 0.5) / 50, (torch.arange(30) + 0.5) / 30
    assert torch.allclose(image[..., 0], columns.expand(30, 50), atol=1e-5)
    assert torch.allclose(image[..., 1], rows[:, None].expand(30, 50), atol=1e-5)


def test_warp_by_whole_pixels_shifts_the_image():
    image = torch.rand(20, 24, 3, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(warp_image(image, torch.zeros(20, 24, 2)), image, atol=1e-5)
    shift = torch.tensor([3.0, -2.0]).expand(20, 24, 2)
    moved = warp_image(image, shift)
    assert torch.allclose(moved[4:-4, 4:-4], image[2:-6, 7:-1], atol=1e-4)
