"""The stages of the fusion pipeline, one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import Cancelled, InputError, StageError
from nova3d_core.evaluation.lights import LIGHTS, lit_views
from nova3d_core.fusion.config import HullConfig, LevelConfig, SdfFusionConfig
from nova3d_core.mesh import Mesh
from nova3d_core.meshing.clean import is_closed_manifold
from nova3d_core.meshing.config import MeshingConfig, UnwrapConfig
from nova3d_core.pipeline.config import FuseConfig
from nova3d_core.pipeline.fuse import fuse_views
from nova3d_core.pipeline.report import fusion_report, pose_report
from nova3d_core.pipeline.stages import (
    bake_views,
    conflict_images,
    extract_mesh,
    fuse_to_surface,
    refine_views,
    resample_grid,
    scale_steps,
    texture_surface,
)
from nova3d_core.progress import Progress
from nova3d_core.rendering.config import RenderConfig
from nova3d_core.rendering.views import render_views
from nova3d_core.sdf_grid import SdfGrid
from nova3d_core.texturing.config import BakeConfig, UnlightConfig
from nova3d_core.texturing.texels import rasterise_texels

LEVELS = (LevelConfig(24, 6, 0.2, pose_lr=2e-3), LevelConfig(32, 4, 0.2, pose_lr=1e-3))
TINY = FuseConfig(
    sdf=SdfFusionConfig(levels=LEVELS, min_rays=500, hull=HullConfig(resolution=48)),
    hull=HullConfig(resolution=48),
    meshing=MeshingConfig(target_faces=1500),
    unwrap=UnwrapConfig(method="box"),
    bake=BakeConfig(texture_px=128),
)


@pytest.fixture(scope="module")
def views(l_solid):
    rig = RigConfig(count=8, elevation_deg=15.0, width_px=64, height_px=64)
    return render_views(l_solid, orbit_cameras(rig)).views


@pytest.fixture(scope="module")
def fused(views):
    return fuse_to_surface(views, TINY)


def test_stages_in_sequence_equal_fuse_views(views, fused):
    surface, refined = fused
    whole = fuse_views(views, TINY)
    assert torch.equal(whole.surface.grid.values, surface.grid.values)
    stepwise = texture_surface(surface, refined, TINY)
    for name in ("vertices", "faces", "uv", "texture"):
        assert torch.equal(getattr(stepwise, name), getattr(whole.mesh, name)), name


def test_fused_views_have_the_refined_cameras_and_masks(views):
    surface, refined = fuse_to_surface(replace(views, masks=None), TINY)
    assert refined.masks is not None
    assert torch.equal(refined.cameras.world_to_camera, surface.cameras.world_to_camera)
    assert torch.equal(refined.cameras.world_to_camera[0], views.cameras.world_to_camera[0])


def test_hull_is_a_surface_without_steps(views):
    surface, same = fuse_to_surface(views, replace(TINY, method="hull"))
    assert surface.report.steps == 0
    assert torch.equal(same.cameras.world_to_camera, views.cameras.world_to_camera)
    assert surface.conflict.shape == views.masks.shape
    assert not surface.conflict.any()
    assert "Visual hull of 8 views" in fusion_report(surface, views)
    assert is_closed_manifold(extract_mesh(surface, TINY.meshing).welded())


def test_surface_falls_back_to_the_hull_only_if_configured(views, monkeypatch):
    from nova3d_core.pipeline import stages

    def fails(*_, **__):
        raise StageError("fusing", "diverged.")

    monkeypatch.setattr(stages, "fuse_sdf", fails)
    with pytest.raises(StageError, match="diverged"):
        fuse_to_surface(views, TINY)
    surface, _ = fuse_to_surface(views, replace(TINY, fallback="hull"))
    assert surface.report.steps == 0


def test_extracted_mesh_is_closed_simplified_and_smooth(fused):
    mesh = extract_mesh(fused[0], MeshingConfig(target_faces=800))
    assert is_closed_manifold(mesh.welded())
    assert len(mesh.faces) <= 800
    torch.testing.assert_close(mesh.normals.norm(dim=1), torch.ones(len(mesh.vertices)))


def test_resampling_preserves_a_sphere():
    """The error of trilinear interpolation is below a cell squared."""
    axes = torch.arange(41) * 0.05 - 1.0
    points = torch.stack(torch.meshgrid(axes, axes[4:], axes[8:], indexing="ij"), dim=-1)
    grid = SdfGrid(points.norm(dim=-1) - 0.5, torch.tensor([-1.0, -0.8, -0.6]), 0.05)
    for resolution in (16, 33, 80):
        other = resample_grid(grid, resolution)
        assert other.values.shape[0] == resolution + 1
        assert other.spacing == pytest.approx(2.0 / resolution)
        points = other.points()
        inner = (points - grid.origin <= (torch.tensor(grid.values.shape) - 1) * 0.05).all(dim=1)
        away = points.norm(dim=1) > 0.2
        error = (other.values.reshape(-1) - (points.norm(dim=1) - 0.5)).abs()
        assert error[inner & away].max() < 0.01


def test_resampled_surface_has_the_same_bounds(fused):
    fine = extract_mesh(fused[0], TINY.meshing)
    coarse = extract_mesh(fused[0], TINY.meshing, resolution=24)
    assert (fine.bounds - coarse.bounds).abs().max() < 0.05
    with pytest.raises(InputError, match="surface resolution is 8"):
        extract_mesh(fused[0], resolution=8)


def test_baking_keeps_or_replaces_uv(views, fused):
    surface, refined = fused
    mesh = extract_mesh(surface, TINY.meshing)
    first = bake_views(mesh, refined, TINY, surface)
    again = bake_views(first.mesh, refined, TINY, surface, keep_colour=False)
    assert again.unwrap_method == "given"
    assert torch.equal(again.mesh.uv, first.mesh.uv)
    torch.testing.assert_close(again.mesh.texture, first.mesh.texture, atol=1e-6, rtol=0)
    kept = bake_views(first.mesh, refined, TINY, surface)
    index = rasterise_texels(kept.mesh, TINY.bake.texture_px).index
    settled = index[
        (kept.coverage.reshape(-1)[index] % 1.0) == 0.0
    ]  # fully observed, or not at all
    before, after = (each.mesh.texture.reshape(-1, 3)[settled] for each in (first, kept))
    assert torch.equal(after, before)
    anew = bake_views(first.mesh, refined, TINY, surface, keep_uv=False)
    assert anew.unwrap_method != "given"


def test_baking_uses_the_cameras_and_the_conflict_of_the_surface(views, fused):
    surface = fused[0]
    mesh = bake_views(extract_mesh(surface, TINY.meshing), views, TINY).mesh
    conflict = torch.ones_like(surface.conflict)
    conflict[0] = 0.0  # only view 0 counts
    consistent, conflicting = (
        bake_views(mesh, views, TINY, replace(surface, conflict=each))
        for each in (torch.zeros_like(conflict), conflict)
    )
    assert torch.equal(conflicting.views.cameras.world_to_camera, surface.cameras.world_to_camera)
    assert 0.05 < conflicting.coverage.mean() < 0.7 * consistent.coverage.mean()


def test_rejects_a_surface_of_other_views(views, fused):
    surface, refined = fused
    mesh = extract_mesh(surface, TINY.meshing)
    with pytest.raises(InputError, match="fused from 8 views of 64x64 px, but these are 7"):
        bake_views(mesh, refined[:7], TINY, surface)


def test_scaled_steps_are_at_least_one_per_level():
    config = SdfFusionConfig(preset="draft")
    assert scale_steps(config, 1.0) == config.complete()
    halved = scale_steps(config, 0.5)
    steps = [level.steps for level in config.complete().levels]
    assert [level.steps for level in halved.levels] == [round(count / 2) for count in steps]
    assert all(level.steps == 1 for level in scale_steps(config, 0.01).levels)
    for scale in (0.5, 1.0):
        hashed = scale_steps(SdfFusionConfig(field="hashgrid"), scale)
        assert hashed.min_rays == SdfFusionConfig(field="hashgrid").complete().min_rays
    with pytest.raises(InputError, match="steps scale is 0"):
        scale_steps(config, 0.0)


def test_refines_views_without_masks(views):
    refined = refine_views(replace(views, masks=None), TINY.sdf)
    report = pose_report(views.cameras, refined.cameras).splitlines()
    assert len(report) == 1 + len(views)
    assert report[1].split() == ["0", "0.00", "deg", "0.00", "%"]


def test_fusion_report_has_a_line_for_each_view(views, fused):
    lines = fusion_report(fused[0], views).splitlines()
    assert lines[0].startswith("8 views fused in 10 steps")
    rotations = [float(line.split()[1]) for line in lines[3:11]]
    assert rotations == pytest.approx(fused[0].report.rotation_deg, abs=0.005)


def test_conflict_images_equal_the_maps(fused):
    images = conflict_images(fused[0])
    assert images.shape == (8, 64, 64, 3)
    assert torch.equal(images[..., 1], fused[0].conflict)


def test_every_stage_can_be_cancelled(views, fused):
    stop = Progress(is_cancelled=lambda: True)
    surface, refined = fused
    mesh = extract_mesh(surface, TINY.meshing)
    for run in (
        lambda: fuse_to_surface(views, TINY, stop),
        lambda: extract_mesh(surface, TINY.meshing, progress=stop),
        lambda: bake_views(mesh, refined, TINY, surface, progress=stop),
        lambda: refine_views(views, TINY.sdf, stop),
    ):
        with pytest.raises(Cancelled):
            run()


def test_smooths_only_unobserved_regions(fused):
    axis = torch.arange(61) * 0.02 - 0.6
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
    waves = torch.cos(points * (2 * torch.pi / 0.12)).prod(dim=-1)
    bumpy = SdfGrid(points.norm(dim=-1) - 0.5 - 0.006 * waves, torch.full((3,), -0.6), 0.02)
    ring = orbit_cameras(RigConfig(count=8))
    surface = replace(fused[0], grid=bumpy, field_to_world=torch.eye(4), cameras=ring)
    fine = MeshingConfig(target_faces=10**6, smooth_unobserved_cells=24.0)
    smooth = extract_mesh(surface, fine)
    rough = extract_mesh(surface, replace(fine, smooth_unobserved_cells=0.0))
    assert torch.equal(smooth.faces, rough.faces)
    height = rough.vertices[:, 1].abs()
    assert torch.equal(smooth.vertices[height < 0.3], rough.vertices[height < 0.3])
    poles = height > 0.485
    assert tilt_deg(rough)[poles].mean() > 5.0
    assert tilt_deg(smooth)[poles].mean() < 0.4 * tilt_deg(rough)[poles].mean()
    finer = extract_mesh(surface, fine, resolution=120)  # the bumps span twice as many edges
    height = finer.vertices[:, 1].abs()
    assert tilt_deg(finer)[height > 0.485].mean() < 0.4 * tilt_deg(rough)[poles].mean()
    resampled = replace(surface, grid=resample_grid(bumpy, 120))
    double = extract_mesh(resampled, replace(fine, smooth_unobserved_cells=48.0))
    torch.testing.assert_close(finer.vertices, double.vertices, atol=1e-5, rtol=0)
    same = extract_mesh(resampled, fine)
    assert (finer.vertices - same.vertices).abs().max() > 1e-4
    carved = replace(surface, report=replace(surface.report, steps=0))
    assert torch.equal(extract_mesh(carved, fine).vertices, rough.vertices)


def tilt_deg(ball: Mesh) -> torch.Tensor:
    """(N,) angles in degrees between the mesh's normals and those of a perfect sphere."""
    true = torch.nn.functional.normalize(ball.vertices, dim=1)
    return torch.rad2deg((ball.normals * true).sum(dim=1).clamp(-1, 1).acos())


def test_light_is_removed_before_baking_only_if_configured(l_solid):
    cameras = orbit_cameras(RigConfig(count=8, elevation_deg=15.0, width_px=64, height_px=64))
    lit = lit_views(l_solid, cameras, LIGHTS["key"], RenderConfig(1))
    config = replace(TINY, method="hull", light=UnlightConfig(gate=0.0, points=1000, steps=60))
    plain, unlit = (fuse_views(lit, replace(config, unlight=on)) for on in (False, True))
    assert plain.unlit is None and "removing light" not in plain.seconds
    assert unlit.unlit.report.is_applied and unlit.seconds["removing light"] > 0.0
    assert torch.equal(unlit.mesh.vertices, plain.mesh.vertices)
    assert not torch.equal(unlit.mesh.texture, plain.mesh.texture)
    assert torch.equal(unlit.views.colour, unlit.unlit.views.colour)


def test_closed_gate_gives_the_same_texture_bit_for_bit(views):
    config = replace(TINY, method="hull", light=UnlightConfig(gate=1.0, points=1000, steps=60))
    plain, gated = (fuse_views(views, replace(config, unlight=on)) for on in (False, True))
    assert not gated.unlit.report.is_applied
    assert torch.equal(gated.mesh.texture, plain.mesh.texture)
