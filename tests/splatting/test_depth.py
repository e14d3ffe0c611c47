"""Depths of rendered splats, in closed form."""

from __future__ import annotations

import pytest
import torch

from nova3d_core.splats import Splats
from nova3d_core.splatting.render import depth_images, splat_views, splat_views_with_depth


def discs(depths: list[float], opacities: list[float]) -> Splats:
    """Isotropic splats on the optical axis of the default camera, at given depths."""
    count = len(depths)
    return Splats(
        positions=torch.tensor([[0.0, 0.0, 2.2 - depth] for depth in depths]),
        scales=torch.full((count, 3), 0.2),
        rotations=torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(count, 1),
        opacities=torch.tensor(opacities),
        colours=torch.rand(count, 3, generator=torch.Generator().manual_seed(0)),
    )


@pytest.mark.parametrize("backend", ["torch", "warp"])
def test_depth_is_the_mean_weighted_by_the_contributions(camera, backend):
    near, far = 0.4, 0.7  # opacities; both peak in the centre of the image
    rendered = splat_views_with_depth(discs([2.0, 2.5], [near, far]), camera(25, 25), backend)
    weights = near, far * (1.0 - near)
    expected = (2.0 * weights[0] + 2.5 * weights[1]) / sum(weights)
    assert float(rendered.depths[0, 12, 12]) == pytest.approx(expected, rel=1e-5)
    assert float(rendered.views.masks[0, 12, 12]) == pytest.approx(sum(weights), rel=1e-5)


def test_depth_of_a_faint_splat_is_its_own_and_the_background_has_none(camera):
    rendered = splat_views_with_depth(discs([2.0], [0.1]), camera(64, 64), "torch")
    visible = rendered.depths > 0
    assert visible[0, 32, 32] and not visible[0, 0, 0]
    # 1 - T has an error of one float32 step, relative to an opacity of 1/255 at the border
    torch.testing.assert_close(
        rendered.depths[visible], torch.full_like(rendered.depths[visible], 2.0), atol=0, rtol=3e-5
    )
    assert torch.equal(visible, rendered.views.masks > 0)


def test_views_are_those_with_depth(camera):
    splats, cameras = discs([2.0, 2.5], [0.4, 0.7]), camera(24, 21)
    views = splat_views(splats, cameras, "torch")
    rendered = splat_views_with_depth(splats, cameras, "torch").views
    assert torch.equal(views.colour, rendered.colour)
    assert torch.equal(views.masks, rendered.masks)


def test_depth_images_are_white_at_the_nearest_point_of_all_views():
    depths = torch.tensor([[[1.0, 2.0, 0.0]], [[3.0, 1.5, 0.0]]])
    images = depth_images(depths)
    assert images.shape == (2, 1, 3, 3)
    assert images[..., 0].tolist() == [[[1.0, 0.5, 0.0]], [[0.0, 0.75, 0.0]]]
    assert torch.equal(images[..., 0], images[..., 2])
    assert float(depth_images(torch.zeros(1, 2, 2)).abs().sum()) == 0.0
