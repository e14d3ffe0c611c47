"""From views to a textured mesh: what every result must be, on a solid with a known shape."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nova3d_core.cameras.cameras import cameras_at, orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import Cancelled, InputError, StageError
from nova3d_core.fusion.config import HullConfig, LevelConfig, SdfFusionConfig
from nova3d_core.meshing.clean import is_closed_manifold
from nova3d_core.meshing.config import MeshingConfig
from nova3d_core.pipeline.config import FuseConfig
from nova3d_core.pipeline.fuse import fuse_views
from nova3d_core.pipeline.stages import FusionResult
from nova3d_core.progress import Progress
from nova3d_core.rendering.views import render_views
from nova3d_core.texturing.config import BakeConfig

SMALL = FuseConfig(
    method="hull",
    hull=HullConfig(resolution=96),
    meshing=MeshingConfig(target_faces=4000),
    bake=BakeConfig(texture_px=512),
)


@pytest.fixture(scope="module")
def l_views(l_solid):
    rig = RigConfig(width_px=192, height_px=192)
    azimuths = [i * 22.5 for i in range(16)] + [0.0, 90.0, 180.0, 270.0] * 2
    elevations = [0.0] * 16 + [60.0] * 4 + [-60.0] * 4
    return render_views(l_solid, cameras_at(azimuths, elevations, rig)).views


@pytest.fixture(scope="module")
def fused(l_views) -> FusionResult:
    return fuse_views(l_views, SMALL)


def test_result_is_closed_manifold_and_faces_outward(fused):
    welded = fused.mesh.welded()
    assert is_closed_manifold(welded)
    assert welded.as_trimesh().is_watertight
    assert welded.as_trimesh().volume > 0
    assert len(fused.mesh.faces) <= 4000
    assert fused.mesh.normals is not None
    cosine = (fused.mesh.face_normals * fused.mesh.normals[fused.mesh.faces[:, 0]]).sum(dim=1)
    assert cosine.median() > 0.9


def test_the_hull_holds_the_l_and_little_more(fused, l_solid):
    beyond = (fused.mesh.bounds - l_solid.bounds) * torch.tensor([[-1.0], [1.0]])
    assert beyond.min() > -0.005
    assert beyond.max() < 0.08  # perspective cones meet below the foot
    true_volume = l_solid.as_trimesh().volume
    assert fused.mesh.welded().as_trimesh().volume == pytest.approx(true_volume, rel=0.25)


def test_the_red_side_is_red_where_it_was(fused, l_solid):
    camera = orbit_cameras(RigConfig(count=1, azimuth_start_deg=90.0, elevation_deg=0.0))
    truth, result = (render_views(mesh, camera).views for mesh in (l_solid, fused.mesh))
    red = (truth.colour[0, ..., 0] > 0.99) & (truth.colour[0, ..., 1] < 0.01)
    inner = torch.nn.functional.avg_pool2d(red[None, None].float(), 5, 1, 2)[0, 0] == 1
    assert inner.sum() > 500
    assert (result.colour[0][inner] - torch.tensor([1.0, 0.0, 0.0])).abs().mean() < 0.03
    grey = (truth.colour[0] - 0.5).abs().amax(dim=-1) < 0.01
    grey_inner = torch.nn.functional.avg_pool2d(grey[None, None].float(), 9, 1, 4)[0, 0] == 1
    assert (result.colour[0][grey_inner] - 0.5).abs().mean() < 0.03


def test_orthographic_views_give_the_same_shape(l_solid):
    rig = RigConfig(kind="orthographic", width_px=192, height_px=192)
    views = render_views(l_solid, orbit_cameras(rig)).views
    mesh = fuse_views(views, SMALL).mesh
    assert is_closed_manifold(mesh.welded())
    torch.testing.assert_close(mesh.bounds, l_solid.bounds, atol=0.05, rtol=0)


def test_the_same_views_give_the_same_mesh_bit_for_bit(l_views, fused):
    again = fuse_views(l_views, SMALL).mesh
    for name in ("vertices", "faces", "uv", "texture"):
        assert torch.equal(getattr(again, name), getattr(fused.mesh, name)), name


def test_masks_are_matted_from_white_where_there_are_none(l_views, fused):
    bare = fuse_views(replace(l_views, masks=None), SMALL).mesh
    torch.testing.assert_close(bare.bounds, fused.mesh.bounds, atol=0.02, rtol=0)


def test_every_stage_reports_and_is_timed(l_views):
    stages = []
    fused = fuse_views(l_views, SMALL, Progress(lambda event: stages.append(event.stage)))
    assert list(dict.fromkeys(stages)) == ["carving", "meshing", "unwrapping", "baking"]
    assert list(fused.seconds) == ["carving", "meshing", "unwrapping", "baking"]


@pytest.mark.parametrize("stage", ["carving", "meshing", "unwrapping", "baking"])
def test_cancel_is_heard_in_every_stage(l_views, stage):
    seen = []
    progress = Progress(lambda event: seen.append(event.stage), lambda: stage in seen)
    with pytest.raises(Cancelled, match=stage):
        fuse_views(l_views, SMALL, progress)
    assert seen.count(stage) == 1


@pytest.mark.parametrize("scale", [1e-2, 1e3])
def test_a_world_of_another_scale_gives_the_same_mesh_scaled(l_views, fused, scale):
    cameras = l_views.cameras
    moved = cameras.world_to_camera.clone()
    moved[:, :3, 3] *= scale
    scaled = fuse_views(
        replace(l_views, cameras=replace(cameras, world_to_camera=moved)), SMALL
    ).mesh
    assert len(scaled.faces) == pytest.approx(len(fused.mesh.faces), rel=0.01)
    torch.testing.assert_close(scaled.bounds / scale, fused.mesh.bounds, atol=2e-3, rtol=0)
    assert is_closed_manifold(scaled.welded())


def test_cameras_and_images_in_double_precision_work(l_views, fused):
    cameras = l_views.cameras
    double = replace(
        cameras,
        world_to_camera=cameras.world_to_camera.double(),
        intrinsics=cameras.intrinsics.double(),
    )
    again = fuse_views(replace(l_views, cameras=double), SMALL).mesh
    assert torch.equal(again.vertices, fused.mesh.vertices)


def test_settings_that_do_not_fit_each_other_are_refused_at_once():
    with pytest.raises(InputError, match="at least 16 times"):
        FuseConfig(bake=BakeConfig(texture_px=32))


def test_an_unknown_method_is_named():
    with pytest.raises(InputError, match="magic"):
        FuseConfig(method="magic")


TINY = FuseConfig(
    sdf=SdfFusionConfig(
        hull=HullConfig(resolution=48),
        levels=(
            LevelConfig(24, 30, 0.3, pose_lr=3e-3),
            LevelConfig(48, 30, 0.4, sharpness=1.5, pose_lr=1e-3),
        ),
    ),
    meshing=MeshingConfig(target_faces=4000),
    bake=BakeConfig(texture_px=256),
)


@pytest.fixture(scope="module")
def ring_views(l_solid):
    return render_views(l_solid, orbit_cameras(RigConfig(count=8, width_px=96, height_px=96))).views


@pytest.fixture(scope="module")
def optimised(ring_views) -> FusionResult:
    return fuse_views(ring_views, TINY)


def test_the_default_method_optimises_and_says_what_it_found(optimised, ring_views, l_solid):
    assert optimised.surface.report.steps > 0
    assert optimised.surface.conflict.shape == ring_views.masks.shape
    assert set(optimised.seconds) == {"fusing", "meshing", "unwrapping", "baking"}
    assert is_closed_manifold(optimised.mesh.welded())
    # a cell of this grid is 0.02; no view of the ring sees top and underside, which stay the hull's
    beyond = (optimised.mesh.bounds - l_solid.bounds).abs()
    assert beyond[:, [0, 2]].max() < 0.03
    assert beyond[:, 1].max() < 0.07
    given, refined = ring_views.cameras, optimised.views.cameras
    assert torch.equal(given.world_to_camera[0], refined.world_to_camera[0])


def test_the_optimised_concave_corner_is_where_the_hull_has_none(optimised, ring_views, l_solid):
    hull = fuse_views(ring_views, replace(TINY, method="hull"))
    true_volume = l_solid.as_trimesh().volume
    errors = [
        abs(each.mesh.welded().as_trimesh().volume - true_volume) for each in (optimised, hull)
    ]
    assert errors[0] < 0.6 * errors[1]


def failing(event):
    """Stands for whatever may go wrong in the middle of the optimisation."""
    if event.stage == "fusing" and event.step == 5:
        raise StageError("fusing", "numbers became NaN.")


def test_the_hull_stands_in_only_when_asked(ring_views):
    with pytest.raises(StageError, match="fusing"):
        fuse_views(ring_views, TINY, Progress(failing))
    rescued = fuse_views(ring_views, replace(TINY, fallback="hull"), Progress(failing))
    assert rescued.surface.report.steps == 0
    assert is_closed_manifold(rescued.mesh.welded())
