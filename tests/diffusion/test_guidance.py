"""Per-view guidance scales: by view index, by angle, or constant."""

from __future__ import annotations

import pytest
import torch

from nova3d_core.cameras.cameras import cameras_at
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.diffusion.families import FAMILIES, GuidanceConfig
from nova3d_core.diffusion.sampling.guidance import guidance_scales, triangle_by_angle
from nova3d_core.diffusion.sampling.trajectory import plan_trajectory

SV3D_GUIDER_SCALES = (
    1.0, 1.15, 1.3, 1.45, 1.6, 1.75, 1.9, 2.05, 2.2, 2.35, 2.5,
    2.35, 2.2, 2.05, 1.9, 1.75, 1.6, 1.45, 1.3, 1.15, 1.0,
)  # fmt: skip
"""`scale` of TrianglePredictionGuider(max_scale=2.5, num_frames=21) in Stability-AI's
generative-models, sgm/modules/diffusionmodules/guiders.py."""


def family_scales(name: str, config: GuidanceConfig | None = None, **orbit) -> torch.Tensor:
    family = FAMILIES[name]
    trajectory = plan_trajectory(family, family.size_px, **orbit)
    return guidance_scales(config or family.guidance, family, trajectory)


def test_nova3d_scale_grows_from_front_to_back():
    scales = family_scales("nova3d")
    expected = [1.0 + 1.5 * min(i, 16 - i) / 8 for i in range(16)]
    torch.testing.assert_close(scales, torch.tensor(expected), atol=1e-6, rtol=0)
    assert float(scales[0]) == 1.0 and float(scales[8]) == 2.5


@pytest.mark.parametrize("name", ["sv3d_u", "sv3d_p"])
@pytest.mark.parametrize("elevation", [0.0, 10.0])
def test_sv3d_scales_are_those_of_its_guider(name, elevation):
    scales = family_scales(name, elevation_deg=elevation)
    torch.testing.assert_close(scales, torch.tensor(SV3D_GUIDER_SCALES), atol=1e-6, rtol=0)
    ramp = torch.linspace(0.0, 1.0, 21)  # the guider's own expression
    assert scales.equal(2 * (ramp - torch.floor(ramp + 0.5)).abs() * (2.5 - 1.0) + 1.0)


def test_sv3d_scales_of_another_orbit_follow_the_angle():
    azimuths = [0.0, 5.0, *range(20, 360, 18)]  # 21, uneven
    cameras = cameras_at(azimuths, [0.0] * 21, RigConfig())
    trajectory = plan_trajectory(FAMILIES["sv3d_p"], 64, cameras=cameras)
    scales = guidance_scales(FAMILIES["sv3d_p"].guidance, FAMILIES["sv3d_p"], trajectory)
    expected = triangle_by_angle(trajectory.azimuths_deg, 1.0, 2.5)
    assert scales.equal(expected)
    assert float(scales[-1]) == 1.0  # the input view comes last
    assert float(scales[0]) == pytest.approx(1.0 + 1.5 * 5.0 / 180.0, abs=1e-5)


def test_constant_and_linear_scales():
    assert family_scales("v3d").tolist() == [3.5] * 18
    linear = family_scales("v3d", GuidanceConfig("linear", 1.0, 3.0))
    torch.testing.assert_close(linear, torch.linspace(1.0, 3.0, 18))


def test_triangle_by_angle_is_symmetric_and_takes_any_azimuths():
    azimuths = torch.tensor([0.0, 180.0, 90.0, 270.0, -10.0, 710.0])
    scales = triangle_by_angle(azimuths, 2.0, 4.0)
    expected = torch.tensor([2.0, 4.0, 3.0, 3.0, 2.0 + 1 / 9, 2.0 + 1 / 9])
    torch.testing.assert_close(scales, expected)
