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
    image_metrics,
    mask_iou,
    mean_metrics,
    metrics_by_elevation,
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


def test_constant_error_of_a_tenth_is_20_db():
    assert psnr(torch.full((8, 8, 3), 0.6), torch.full((8, 8, 3), 0.5)) == pytest.approx(20.0)


def test_psnr_of_nearly_identical_images_is_capped():
    image = torch.rand(8, 8, 3)
    assert psnr(image, image) == 99.0
    assert psnr(image.double() + 1e-9, image.double()) == 99.0


def test_ssim_of_constant_images_is_the_luminance_term():
    a, b, c1 = 0.3, 0.7, 0.01**2
    value = ssim(torch.full((20, 20, 3), a), torch.full((20, 20, 3), b))
    assert value == pytest.approx((2 * a * b + c1) / (a * a + b * b + c1), abs=1e-5)


def test_ssim_is_one_only_for_identical_images():
    image = torch.rand(24, 24, 3, generator=torch.Generator().manual_seed(0))
    assert ssim(image, image) == pytest.approx(1.0, abs=1e-6)
    assert ssim(image.flip(1), image) < 0.3


def test_ssim_matches_its_definition_with_an_11_pixel_gaussian():
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
    # the window fits an 11 x 11 image only at its centre
    assert ssim(a, b) == pytest.approx(float(expected), abs=1e-12)


def test_mask_iou_is_intersection_over_union():
    a, b = torch.zeros(4, 4), torch.zeros(4, 4)
    a[:2], b[1:3] = 1.0, 0.9
    assert mask_iou(a, b) == 1 / 3
    assert mask_iou(a, torch.zeros(4, 4)) == 0.0
    assert mask_iou(torch.zeros(4, 4), torch.full((4, 4), 0.5)) == 1.0


@pytest.mark.parametrize("angle_deg", [0.0, 0.01, 10.0, 90.0, 180.0])
def test_normal_error_is_the_rotation_angle(angle_deg):
    angle = math.radians(angle_deg)
    a = torch.tensor([0.0, 0.0, 1.0]).expand(4, 4, 3)
    b = torch.tensor([math.sin(angle), 0.0, math.cos(angle)]).expand(4, 4, 3)
    assert normal_error_deg(a, b, torch.ones(4, 4, dtype=torch.bool)) == pytest.approx(
        angle_deg, abs=1e-5
    )


def test_normal_error_covers_pixels_with_both_normals():
    a = torch.tensor([0.0, 0.0, 1.0]).repeat(2, 2, 1)
    b = a.clone()
    b[0, 0], b[0, 1] = -a[0, 0], 0.0
    both = torch.ones(2, 2, dtype=torch.bool)
    assert normal_error_deg(a, b, both) == pytest.approx(60.0)
    both[0, 0] = False
    assert normal_error_deg(a, b, both) == 0.0
    assert normal_error_deg(a, b, torch.zeros(2, 2, dtype=torch.bool)) is None


def test_views_match_themselves_in_any_normal_frame(l_views):
    for frame in ("world", "camera", "front_view"):
        for metrics in image_metrics(l_views.with_normals_in(frame), l_views):
            assert metrics["psnr"] == 99.0
            assert metrics["ssim"] == pytest.approx(1.0, abs=1e-6)
            assert metrics["mask_iou"] == 1.0
            assert metrics["normal_error_deg"] == pytest.approx(0.0, abs=1e-4)


def test_rejects_views_that_do_not_match(l_views):
    with pytest.raises(InputError, match="cannot be compared"):
        image_metrics(l_views, l_views[:2])
    with pytest.raises(InputError, match="result images have no masks"):
        image_metrics(replace(l_views, masks=None), l_views)


def test_comparison_can_be_cancelled(l_views):
    events = []
    progress = Progress(report=events.append, is_cancelled=lambda: len(events) == 2)
    with pytest.raises(Cancelled):
        image_metrics(l_views, l_views, progress)
    assert [event.step for event in events] == [0, 1]


def test_evaluation_poses_are_not_input_poses():
    cameras = evaluation_cameras(64)
    inputs = orbit_cameras(RigConfig())
    assert len(cameras) == 32
    assert torch.cdist(cameras.positions, inputs.positions).min() > 0.4
    expected = torch.tensor([0.0] * 16 + [25.0] * 8 + [-25.0] * 8)
    assert torch.allclose(cameras.elevation_deg, expected, atol=1e-4)
    assert float(cameras.azimuth_deg[0]) == pytest.approx(11.25, abs=1e-4)
    assert float(cameras.azimuth_deg[17]) == pytest.approx(45.0, abs=1e-4)
    assert torch.allclose(cameras.positions.norm(dim=1), torch.tensor(2.2), atol=1e-5)


def test_groups_by_elevation():
    metrics = [{"psnr": 30.0, "normal_error_deg": None}] * 16
    metrics += [{"psnr": 10.0, "normal_error_deg": 4.0}] * 8
    metrics += [{"psnr": 20.0, "normal_error_deg": 8.0}] * 8
    groups = metrics_by_elevation(metrics)
    assert groups["all"]["psnr"] == 22.5
    assert groups["el0"] == {"psnr": 30.0, "normal_error_deg": None}
    assert groups["el25"] == {"psnr": 15.0, "normal_error_deg": 6.0}
    assert mean_metrics(metrics[:17])["normal_error_deg"] == 4.0
