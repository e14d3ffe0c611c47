"""Fusions of views that are distorted smoothly, each by itself but the first."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.evaluation.distortions import DistortionConfig, distort_views
from nova3d_core.fusion.config import HullConfig, LevelConfig, SdfFusionConfig
from nova3d_core.fusion.fuse import fuse_sdf
from nova3d_core.imaging.warps import smooth_image
from nova3d_core.pipeline.report import fusion_report
from nova3d_core.rendering.views import render_views

from .bumpy_ball import bumpy_ball

ALIGNED = SdfFusionConfig(
    levels=(
        LevelConfig(24, 20, 0.5, sdf_lr_cells=0.10, pose_lr=4e-3),
        LevelConfig(48, 30, 0.5, sdf_lr_cells=0.08, register_every=6, align_every=6),
    ),
    hull=HullConfig(resolution=48),
    min_rays=256,
)


@pytest.fixture(scope="module")
def ball():
    return bumpy_ball()


@pytest.fixture(scope="module")
def views(ball):
    return render_views(ball, orbit_cameras(RigConfig(count=10, width_px=96, height_px=96))).views


@pytest.fixture(scope="module")
def bent(views):
    # displacements are given for images of 256 px: 1.2 px at the nodes here
    return distort_views(views, DistortionConfig(sigma_px=1.2 * 256 / 96), seed=1)


def not_affine(pixel, displacement):
    """The displacements (P, 2) at pixels (P, 2) without their affine part, which poses explain."""
    terms = torch.cat([torch.ones(len(pixel), 1), pixel / 96.0 - 0.5], dim=1)
    return displacement - terms @ torch.linalg.lstsq(terms, displacement).solution


def test_fusion_finds_the_displacement_of_each_view(bent):
    given = bent.views
    fused = fuse_sdf(given, ALIGNED)
    assert fused.report.warp_px[0] == 0.0
    assert min(fused.report.warp_px[1:]) > 0.3
    before, after = [], []
    for view in range(1, len(given)):
        row, column = (given.masks[view] > 0.5).nonzero().unbind(dim=1)
        pixel = torch.stack([column, row], dim=1).float()
        warp = smooth_image(fused.warps[view], 96, 96)[row, column] * 96.0
        true = bent.displacement_px[view][row, column]
        before.append(not_affine(pixel, true).square().sum(dim=1))
        # the warp undoes the displacement
        after.append(not_affine(pixel, true + warp).square().sum(dim=1))
    left = torch.cat(after).mean().sqrt() / torch.cat(before).mean().sqrt()
    assert float(left) < 0.85
    assert "warps correct that" in fusion_report(fused, given)


def test_views_that_agree_are_fused_bit_for_bit_as_without_warps(views):
    short = replace(ALIGNED, levels=tuple(replace(each, steps=9) for each in ALIGNED.levels))
    without = tuple(replace(each, align_every=0) for each in short.levels)
    aligned, plain = fuse_sdf(views, short), fuse_sdf(views, replace(short, levels=without))
    assert aligned.warps is None and aligned.report.warp_px == ()
    assert torch.equal(aligned.grid.values, plain.grid.values)
    assert torch.equal(aligned.cameras.world_to_camera, plain.cameras.world_to_camera)
    assert torch.equal(aligned.conflict, plain.conflict)
