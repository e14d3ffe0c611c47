from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import Cancelled, InputError
from nova3d_core.evaluation.metrics.image import (
    evaluation_cameras,
    grouped_figures,
    image_figures,
    mask_iou,
    mean_figures,
    normal_error_deg,
    psnr,
    ssim,
)
from nova3d_core.progress import Progress
from nova3d_core.rendering.config import RenderConfig
from nova3d_core.rendering.views import render_views


@pytest.fixture(scope="module")
def l_views(l_solid):
    cameras = orbit_cameras(RigConfig(count=3, width_px=32, height_px=32))
    return render_views(l_solid, cameras, RenderConfig(supersample=2)).views


def test_a_tenth_off_everywhere_is_20_db():
    assert psnr(torch.full((8, 8, 3), 0.6), torch.full((8, 8, 3), 0.5)) == pytest.approx(20.0)


def test_identical_and_all_but_identical_images_are_capped():
    image = torch.rand(8, 8, 3)
    assert psnr(image, image) == 99.0
    assert psnr(image.double() + 1e-9, image.double()) == 99.0


def test_structural_similarity_of_constant_images_is_its_luminance_term():
    a, b, c1 = 0.3, 0.7, 0.01**2
    found = ssim(torch.full((20, 20, 3), a), torch.full((20, 20, 3), b))
    assert found == pytest.approx((2 * a * b + c1) / (a * a + b * b + c1), abs=1e-5)


def test_structural_similarity_is_one_only_for_the_same_image():
    image = torch.rand(24, 24, 3, generator=torch.Generator().manual_seed(0))
    assert ssim(image, image) == pytest.approx(1.0, abs=1e-6)
    assert ssim(image.flip(1), image) < 0.3


def test_structural_similarity_equals_its_definition_with_an_11_pixel_gaussian():
    random = torch.Generator().manual_seed(1)
    a, b = (torch.rand(11, 11, 1, generator=random).double() for _ in range(2))
    axis = torch.exp(-((torch.arange(11).double() - 5.0) ** 2) / (2 * 1.5**2))
    window = torch.outer(axis, axis) / axis.sum() ** 2

    def mean(values):
        return (window[..., None] * values).sum()

    m_a, m_b = mean(a), mean(b)
    v_a, v_b = mean(a * a) - m_a**2, mean(b * b) - m_b**2
    covariance = mean(a * b) - m_a * m_b
    c1, c2 = 0.01**2, 0.03**2
    top = (2 * m_a * m_b + c1) * (2 * covariance + c2)
    expected = top / ((m_a**2 + m_b**2 + c1) * (v_a + v_b + c2))
    # an 11 x 11 image has one place where the window fits whole: its middle
    assert ssim(a, b) == pytest.approx(float(expected), abs=1e-12)


def test_silhouettes_overlap_by_shared_over_joint_pixels():
    a, b = torch.zeros(4, 4), torch.zeros(4, 4)
    a[:2], b[1:3] = 1.0, 0.9
    assert mask_iou(a, b) == 1 / 3
    assert mask_iou(a, torch.zeros(4, 4)) == 0.0
    assert mask_iou(torch.zeros(4, 4), torch.full((4, 4), 0.5)) == 1.0


@pytest.mark.parametrize("angle_deg", [0.0, 0.01, 10.0, 90.0, 180.0])
def test_turned_normals_are_off_by_their_angle(angle_deg):
    angle = math.radians(angle_deg)
    a = torch.tensor([0.0, 0.0, 1.0]).expand(4, 4, 3)
    b = torch.tensor([math.sin(angle), 0.0, math.cos(angle)]).expand(4, 4, 3)
    assert normal_error_deg(a, b, torch.ones(4, 4, dtype=torch.bool)) == pytest.approx(
        angle_deg, abs=1e-5
    )


def test_only_pixels_where_both_have_normals_count():
    a = torch.tensor([0.0, 0.0, 1.0]).repeat(2, 2, 1)
    b = a.clone()
    b[0, 0], b[0, 1] = -a[0, 0], 0.0
    both = torch.ones(2, 2, dtype=torch.bool)
    assert normal_error_deg(a, b, both) == pytest.approx(60.0)
    both[0, 0] = False
    assert normal_error_deg(a, b, both) == 0.0
    assert normal_error_deg(a, b, torch.zeros(2, 2, dtype=torch.bool)) is None


def test_views_against_themselves_are_perfect_in_any_normal_frame(l_views):
    for frame in ("world", "camera", "front_view"):
        for figures in image_figures(l_views.with_normals_in(frame), l_views):
            assert figures["psnr"] == 99.0
            assert figures["ssim"] == pytest.approx(1.0, abs=1e-6)
            assert figures["mask_iou"] == 1.0
            assert figures["normal_error_deg"] == pytest.approx(0.0, abs=1e-4)


def test_images_that_do_not_belong_together_are_refused(l_views):
    with pytest.raises(InputError, match="cannot be compared"):
        image_figures(l_views, l_views[:2])
    with pytest.raises(InputError, match="result images have no masks"):
        image_figures(replace(l_views, masks=None), l_views)


def test_comparing_stops_when_cancelled(l_views):
    seen = []
    progress = Progress(report=seen.append, is_cancelled=lambda: len(seen) == 2)
    with pytest.raises(Cancelled):
        image_figures(l_views, l_views, progress)
    assert [event.step for event in seen] == [0, 1]


def test_the_32_poses_are_none_of_the_input_poses():
    cameras = evaluation_cameras(64)
    inputs = orbit_cameras(RigConfig())
    assert len(cameras) == 32
    assert torch.cdist(cameras.positions, inputs.positions).min() > 0.4
    expected = torch.tensor([0.0] * 16 + [25.0] * 8 + [-25.0] * 8)
    assert torch.allclose(cameras.elevation_deg, expected, atol=1e-4)
    assert float(cameras.azimuth_deg[0]) == pytest.approx(11.25, abs=1e-4)
    assert float(cameras.azimuth_deg[17]) == pytest.approx(45.0, abs=1e-4)
    assert torch.allclose(cameras.positions.norm(dim=1), torch.tensor(2.2), atol=1e-5)


def test_groups_cover_level_and_raised_poses():
    figures = [{"psnr": 30.0, "normal_error_deg": None}] * 16
    figures += [{"psnr": 10.0, "normal_error_deg": 4.0}] * 8
    figures += [{"psnr": 20.0, "normal_error_deg": 8.0}] * 8
    groups = grouped_figures(figures)
    assert groups["all"]["psnr"] == 22.5
    assert groups["el0"] == {"psnr": 30.0, "normal_error_deg": None}
    assert groups["el25"] == {"psnr": 15.0, "normal_error_deg": 6.0}
    assert mean_figures(figures[:17])["normal_error_deg"] == 4.0
