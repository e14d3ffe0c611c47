"""Levels for images that are finer than those that the presets were tuned for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nova3d_core.fusion.config import LevelConfig, preset_config
from nova3d_core.fusion.level_scale import TUNED_OBJECT_PX, scale_levels


@pytest.mark.parametrize("preset", ["draft", "fast", "quality"])
def test_images_as_tuned_change_only_the_ray_limit_of_coarse_levels(preset):
    levels = preset_config(preset).levels
    for level, scaled in zip(levels, scale_levels(levels, TUNED_OBJECT_PX), strict=True):
        assert replace(scaled, max_rays=level.max_rays) == level
        # 16 views of 256 px have up to 240,000 rays
        assert scaled.num_rays(240_000, 10_000) == level.num_rays(240_000, 10_000)


@pytest.mark.parametrize("preset", ["draft", "fast"])
def test_rays_of_a_step_do_not_grow_with_the_image(preset):
    levels = scale_levels(preset_config(preset).levels, 4 * TUNED_OBJECT_PX)
    for level in levels:
        # the finest level of draft reduces its images instead
        if level.max_rays:
            assert level.num_rays(16 * 240_000, 10_000) <= 30_000
    assert levels[0].max_rays and levels[1].max_rays


@pytest.mark.parametrize("factor", [1.0, 1.5, 2.25, 4.0, 9.0])
def test_registration_samples_every_cell_but_no_denser_than_needed(factor):
    object_px = factor * TUNED_OBJECT_PX
    for level in scale_levels(preset_config("fast").levels, object_px)[2:]:
        cell_px = object_px / level.resolution
        assert level.register_stride <= max(1.2 * cell_px, 1.0)
        assert level.register_stride + 1 > min(1.2 * cell_px, 16.0)


def test_cost_of_plane_sweeps_does_not_grow_with_the_image():
    """Patches times depths, per view: both depend on the pixel, on coarse levels and the finest."""
    levels = preset_config("fast").levels

    def patches_and_depths(level: LevelConfig, object_px: float) -> tuple[float, float]:
        image_px = object_px / level.stereo_downsampling
        return (image_px / level.stereo_stride_px) ** 2, level.stereo_band * image_px

    for factor in (2.0, 4.0):
        scaled = scale_levels(levels, factor * TUNED_OBJECT_PX)
        for level, finer in zip(levels, scaled, strict=True):
            patches, depths = patches_and_depths(level, TUNED_OBJECT_PX)
            many, deep = patches_and_depths(finer, factor * TUNED_OBJECT_PX)
            assert many == pytest.approx(patches)
            assert deep == pytest.approx(factor * depths if level is levels[-1] else depths)


def test_own_strides_are_kept_where_they_are_larger():
    level = LevelConfig(32, 1, 0.1, register_stride=9, stereo_downsampling=16, stereo_stride_px=64)
    assert scale_levels((level,), 200.0)[0] == replace(level, max_rays=16_000)
