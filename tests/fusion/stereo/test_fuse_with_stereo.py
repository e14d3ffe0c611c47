"""Small fusions of a curved textured plate, whose concave side only its texture shows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nova3d_core.cameras.cameras import cameras_at, orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import Cancelled
from nova3d_core.evaluation.concave_surfaces import concave_surface
from nova3d_core.fusion import fuse
from nova3d_core.fusion.config import HullConfig, LevelConfig, SdfFusionConfig, preset_config
from nova3d_core.fusion.stereo.depth_targets import DepthTargets
from nova3d_core.progress import Progress
from nova3d_core.rendering.views import render_views

STEREO = SdfFusionConfig(
    levels=(
        LevelConfig(24, 24, 0.3, sdf_lr_cells=0.12, stereo_every=12, stereo_band=0.2),
        LevelConfig(40, 24, 0.3, sdf_lr_cells=0.10, stereo_every=12, stereo_band=0.06),
    ),
    hull=HullConfig(resolution=48),
    min_rays=256,
    check_inputs=False,
    refine_poses=False,
)
NO_STEREO = replace(STEREO, levels=tuple(replace(level, stereo_every=0) for level in STEREO.levels))


@pytest.fixture(scope="module")
def plate():
    return concave_surface("sheet", 0)


@pytest.fixture(scope="module")
def views(plate):
    rig = RigConfig(count=16, width_px=72, height_px=72)
    return render_views(plate, orbit_cameras(rig)).views.without_normals()


@pytest.fixture(scope="module")
def fused(views):
    return fuse.fuse_sdf(views, STEREO)


def error_cells(surface, mesh):
    """Mean |signed distance| at points of the true surface, in cells."""
    return float(surface.sdf(mesh.vertices).abs().mean()) / surface.grid.spacing


def test_texture_carves_what_silhouettes_leave_open(fused, views, plate):
    without = error_cells(fuse.fuse_sdf(views, NO_STEREO), plate)
    assert error_cells(fused, plate) < 0.9 * without


def test_repeats_bit_for_bit(fused, views):
    assert torch.equal(fuse.fuse_sdf(views, STEREO).grid.values, fused.grid.values)


def test_cancelled_before_its_next_sweep(views, monkeypatch):
    swept, sweep = [], fuse.find_depth_targets
    monkeypatch.setattr(
        fuse, "find_depth_targets", lambda *a, **k: (swept.append(1), sweep(*a, **k))[1]
    )
    events = []
    progress = Progress(
        lambda event: events.append(event) if event.stage == fuse.STAGE else None,
        is_cancelled=lambda: len(events) >= 1,
    )
    with pytest.raises(Cancelled):
        fuse.fuse_sdf(views, STEREO, progress)
    assert len(swept) == 1 and len(events) == 1


def test_two_views_fuse(plate):
    cameras = cameras_at([0.0, 30.0], [0.0, 0.0], RigConfig(width_px=64, height_px=64))
    views = render_views(plate, cameras).views.without_normals()
    surface = fuse.fuse_sdf(views, STEREO)
    assert bool(surface.grid.values.isfinite().all())


def sweeps_of(monkeypatch, confidence=0.0):
    """Records downsampling, band into the object and `broad` of all sweeps, which find nothing."""
    swept = []

    def find_nothing(*args, broad):
        swept.append((args[-2], args[-3][1], broad))
        rays = args[3]
        return DepthTargets(torch.ones(len(rays)), torch.full((len(rays),), confidence))

    monkeypatch.setattr(fuse, "find_depth_targets", find_nothing)
    return swept


def test_wrong_poses_and_bent_views_have_no_stereo(views, monkeypatch):
    swept = sweeps_of(monkeypatch)
    short = replace(STEREO, levels=tuple(replace(each, steps=2) for each in STEREO.levels))
    monkeypatch.setattr(fuse, "initial_pose_error", lambda *a: 1.0)
    fuse.fuse_sdf(views, replace(short, refine_poses=True))
    assert not swept
    fuse.fuse_sdf(views, short)  # the poses are exact by the user's choice
    assert len(swept) == 2
    swept.clear()
    monkeypatch.setattr(fuse.WarpRegistration, "__init__", _active_warps(fuse.WarpRegistration))
    fuse.fuse_sdf(views, short)
    assert not swept


def test_stereo_follows_the_registration_of_wrong_poses(views, monkeypatch):
    swept = sweeps_of(monkeypatch)
    monkeypatch.setattr(fuse, "initial_pose_error", lambda *a: 1.0)
    coarse, fine = (replace(each, steps=2) for each in STEREO.levels)
    levels = (coarse, replace(coarse, register_every=1), replace(fine, stereo_band=0.01))
    fuse.fuse_sdf(views, replace(STEREO, levels=levels, refine_poses=True))
    assert len(swept) == 1
    downsampling, band, broad = swept[0]
    assert downsampling == 2 and band > 0.02 and not broad  # the surface is still inaccurate


def test_stereo_keeps_the_details_of_normals(plate, monkeypatch):
    swept = sweeps_of(monkeypatch)
    views = render_views(plate, orbit_cameras(RigConfig(count=8, width_px=48, height_px=48))).views
    levels = tuple(
        replace(each, steps=2, stereo_keeps_details=fine)
        for each, fine in zip(STEREO.levels, (False, True), strict=True)
    )
    for given, expected in (
        (views, [(1, False), (2, True)]),
        (views.without_normals(), [(1, False), (1, False)]),
    ):
        swept.clear()
        fuse.fuse_sdf(given, replace(STEREO, levels=levels))
        assert [(downsampling, broad) for downsampling, _, broad in swept] == expected


def test_few_confident_offsets_leave_surfaces_with_normals_alone(plate, monkeypatch):
    views = render_views(plate, orbit_cameras(RigConfig(count=8, width_px=48, height_px=48))).views
    levels = tuple(replace(each, steps=4, stereo_keeps_details=True) for each in STEREO.levels)
    config = replace(STEREO, levels=levels)
    without = tuple(replace(each, stereo_every=0) for each in levels)
    plain = fuse.fuse_sdf(views, replace(config, levels=without)).grid.values
    for confidence, is_equal in ((0.09, True), (0.11, False)):
        swept = sweeps_of(monkeypatch, confidence)
        assert torch.equal(fuse.fuse_sdf(views, config).grid.values, plain) == is_equal
        assert len(swept) == (1 if is_equal else 2)  # the first sweep decides


def _active_warps(registration):
    create = registration.__init__

    def create_active(self, *arguments):
        create(self, *arguments)
        self.active = True

    return create_active


def test_hash_grid_has_no_stereo():
    levels = replace(preset_config("fast"), field="hashgrid", levels=()).complete().levels
    assert all(level.stereo_every == 0 for level in levels)
