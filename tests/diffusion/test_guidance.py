"""Per-view guidance scales: by angle, by view index, or constant."""

from __future__ import annotations

import torch

from nova3d_core.diffusion.families import FAMILIES, GuidanceConfig
from nova3d_core.diffusion.sampling.guidance import guidance_scales
from nova3d_core.diffusion.sampling.trajectory import plan_trajectory


def family_scales(name: str) -> torch.Tensor:
    family = FAMILIES[name]
    trajectory = plan_trajectory(family, family.size_px)
    return guidance_scales(family.guidance, trajectory.azimuths_deg, trajectory.input_view)


def test_nova3d_scale_grows_from_front_to_back():
    scales = family_scales("nova3d")
    expected = [1.0 + 1.5 * min(i, 16 - i) / 8 for i in range(16)]
    torch.testing.assert_close(scales, torch.tensor(expected), atol=1e-6, rtol=0)
    assert float(scales[0]) == 1.0 and float(scales[8]) == 2.5


def test_sv3d_scales_are_close_to_its_triangle_by_index():
    scales = family_scales("sv3d_u")
    assert float(scales[-1]) == 1.0  # its input view comes last
    index = torch.arange(21)
    by_angle = 1.0 + 1.5 * torch.minimum(index + 1, 20 - index) / 10.5
    torch.testing.assert_close(scales, by_angle, atol=1e-6, rtol=0)
    ramp = torch.linspace(0.0, 1.0, 21)
    by_index = 1.0 + 1.5 * 2.0 * (ramp - (ramp + 0.5).floor()).abs()
    torch.testing.assert_close(by_index[[0, 1, 10, 20]], torch.tensor([1.0, 1.15, 2.5, 1.0]))
    assert float((scales - by_index).abs().max()) < 0.15
    assert float(scales.max()) == torch.tensor(1.0 + 1.5 * 10 / 10.5)


def test_constant_and_linear_scales():
    assert family_scales("v3d").tolist() == [3.5] * 18
    azimuths = torch.tensor([10.0, 200.0, 30.0, 0.0, 90.0])
    linear = guidance_scales(GuidanceConfig("linear", 1.0, 3.0), azimuths, 2)
    assert linear.tolist() == [1.0, 1.5, 2.0, 2.5, 3.0]


def test_triangle_is_symmetric_and_takes_any_azimuths():
    config = GuidanceConfig("triangle", 2.0, 4.0)
    azimuths = torch.tensor([350.0, 170.0, 80.0, 260.0, -10.0, 710.0])
    scales = guidance_scales(config, azimuths, 0)
    torch.testing.assert_close(scales, torch.tensor([2.0, 4.0, 3.0, 3.0, 2.0, 2.0]))
    rotated = guidance_scales(config, azimuths + 123.4, 0)
    torch.testing.assert_close(rotated, scales, atol=1e-4, rtol=0)
