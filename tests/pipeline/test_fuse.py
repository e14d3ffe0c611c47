"""`fuse_views` on a solid with a known shape: geometry, texture, determinism, cancellation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nova3d_core.cameras.cameras import cameras_at, orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import Cancelled, InputError, StageError
from nova3d_core.fusion.config import HullConfig, LevelConfig, SdfFusionConfig
from nova3d_core.meshing.clean import is_closed_manifold
from nova3d_core.meshing.config import MeshingConfig, UnwrapConfig
from nova3d_core.pipeline.config import FuseConfig
from nova3d_core.pipeline.fuse import fuse_views
from nova3d_core.pipeline.stages import FusionResult
from nova3d_core.progress import Progress
from nova3d_core.rendering.views import render_views
from nova3d_core.texturing.config import BakeConfig

HULL = FuseConfig(
    method="hull",
    hull=HullConfig(resolution=96),
    meshing=MeshingConfig(target_faces=4000),
    bake=BakeConfig(texture_px=512),
)
CHEAP_TEXTURE = {"unwrap": UnwrapConfig(method="box"), "bake": BakeConfig(texture_px=64)}
"""For tests of the geometry alone."""
HULL_GEOMETRY = replace(HULL, **CHEAP_TEXTURE)
STAGES = ["carving", "meshing", "unwrapping", "baking"]


@pytest.fixture(scope="module")
def l_views(l_solid):
    rig = RigConfig(width_px=192, height_px=192)
    azimuths = [i * 22.5 for i in range(16)] + [0.0, 90.0, 180.0, 270.0] * 2
    elevations = [0.0] * 16 + [60.0] * 4 + [-60.0] * 4
    return render_views(l_solid, cameras_at(azimuths, elevations, rig)).views


@pytest.fixture(scope="module")
def reported_stages() -> list[str]:
    """Stage of each progress event of `fused`."""
    return []


@pytest.fixture(scope="module")
def fused(l_views, reported_stages) -> FusionResult:
    progress = Progress(lambda event: reported_stages.append(event.stage))
    return fuse_views(l_views, HULL, progress)


@pytest.fixture(scope="module")
def fused_from_double(l_views) -> FusionResult:
    """A second run on the same views, with cameras in double precision."""
    cameras = l_views.cameras
    double = replace(
        cameras,
        world_to_camera=cameras.world_to_camera.double(),
        intrinsics=cameras.intrinsics.double(),
    )
    return fuse_views(replace(l_views, cameras=double), HULL)


def test_result_is_closed_manifold_and_faces_outward(fused):
    welded = fused.mesh.welded()
    assert is_closed_manifold(welded)
    assert welded.as_trimesh().is_watertight
    assert welded.as_trimesh().volume > 0
    assert len(fused.mesh.faces) <= 4000
    assert fused.mesh.normals is not None
    cosine = (fused.mesh.face_normals * fused.mesh.normals[fused.mesh.faces[:, 0]]).sum(dim=1)
    assert cosine.median() > 0.9


def test_hull_encloses_the_solid_tightly(fused, l_solid):
    beyond = (fused.mesh.bounds - l_solid.bounds) * torch.tensor([[-1.0], [1.0]])
    assert beyond.min() > -0.005
    assert beyond.max() < 0.08  # perspective cones meet below the foot
    true_volume = l_solid.as_trimesh().volume
    assert fused.mesh.welded().as_trimesh().volume == pytest.approx(true_volume, rel=0.25)


def test_colours_are_baked_onto_the_right_sides(fused, l_solid):
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
    mesh = fuse_views(views, HULL_GEOMETRY).mesh
    assert is_closed_manifold(mesh.welded())
    torch.testing.assert_close(mesh.bounds, l_solid.bounds, atol=0.05, rtol=0)


def test_equal_views_give_an_identical_mesh(fused, fused_from_double):
    for name in ("vertices", "faces", "uv", "texture"):
        assert torch.equal(getattr(fused_from_double.mesh, name), getattr(fused.mesh, name)), name


def test_accepts_cameras_in_double_precision(fused, fused_from_double):
    assert torch.equal(fused_from_double.mesh.vertices, fused.mesh.vertices)


def test_missing_masks_are_mattes_from_white(l_views, fused):
    bare = fuse_views(replace(l_views, masks=None), HULL_GEOMETRY).mesh
    torch.testing.assert_close(bare.bounds, fused.mesh.bounds, atol=0.02, rtol=0)


def test_every_stage_is_reported_and_timed(fused, reported_stages):
    assert list(dict.fromkeys(reported_stages)) == STAGES
    assert list(fused.seconds) == STAGES


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_can_be_cancelled(l_views, stage):
    reported = []
    progress = Progress(lambda event: reported.append(event.stage), lambda: stage in reported)
    with pytest.raises(Cancelled, match=stage):
        fuse_views(l_views[::4], replace(HULL_GEOMETRY, hull=HullConfig(resolution=32)), progress)
    assert reported.count(stage) == 1


@pytest.mark.parametrize("scale", [1e-2, 1e3])
def test_result_scales_with_the_world(l_views, fused, scale):
    cameras = l_views.cameras
    world_to_camera = cameras.world_to_camera.clone()
    world_to_camera[:, :3, 3] *= scale
    views = replace(l_views, cameras=replace(cameras, world_to_camera=world_to_camera))
    scaled = fuse_views(views, HULL_GEOMETRY).mesh
    assert len(scaled.faces) == pytest.approx(len(fused.mesh.faces), rel=0.01)
    torch.testing.assert_close(scaled.bounds / scale, fused.mesh.bounds, atol=2e-3, rtol=0)
    assert is_closed_manifold(scaled.welded())


def test_texture_must_be_large_enough_for_the_padding():
    with pytest.raises(InputError, match="at least 16 times"):
        FuseConfig(bake=BakeConfig(texture_px=32))


def test_unknown_method_is_an_error():
    with pytest.raises(InputError, match="magic"):
        FuseConfig(method="magic")


SDF = FuseConfig(
    sdf=SdfFusionConfig(
        hull=HullConfig(resolution=48),
        levels=(
            LevelConfig(24, 30, 0.3, pose_lr=3e-3),
            LevelConfig(48, 30, 0.4, sharpness=1.5, pose_lr=1e-3),
        ),
    ),
    hull=HullConfig(resolution=128),
    meshing=MeshingConfig(target_faces=4000),
    **CHEAP_TEXTURE,
)


@pytest.fixture(scope="module")
def ring_views(l_solid):
    return render_views(l_solid, orbit_cameras(RigConfig(count=8, width_px=96, height_px=96))).views


@pytest.fixture(scope="module")
def optimised(ring_views) -> FusionResult:
    return fuse_views(ring_views, SDF)


def test_default_method_optimises_the_surface(optimised, ring_views, l_solid):
    assert optimised.surface.report.steps > 0
    assert optimised.surface.conflict.shape == ring_views.masks.shape
    assert set(optimised.seconds) == {"fusing", "meshing", "unwrapping", "baking"}
    assert is_closed_manifold(optimised.mesh.welded())
    # cell size 0.02; no view of the ring observes top and bottom, where the hull remains
    beyond = (optimised.mesh.bounds - l_solid.bounds).abs()
    assert beyond[:, [0, 2]].max() < 0.03
    assert beyond[:, 1].max() < 0.07
    given, refined = ring_views.cameras, optimised.views.cameras
    assert torch.equal(given.world_to_camera[0], refined.world_to_camera[0])


def test_optimisation_carves_the_concavity_that_the_hull_lacks(optimised, ring_views, l_solid):
    hull = fuse_views(ring_views, replace(SDF, method="hull"))
    true_volume = l_solid.as_trimesh().volume
    errors = [
        abs(each.mesh.welded().as_trimesh().volume - true_volume) for each in (optimised, hull)
    ]
    assert errors[0] < 0.6 * errors[1]


def fail_while_fusing(event):
    """Simulates an error in the middle of the optimisation."""
    if event.stage == "fusing" and event.step == 5:
        raise StageError("fusing", "values became NaN.")


def test_falls_back_to_the_hull_only_if_configured(ring_views):
    with pytest.raises(StageError, match="fusing"):
        fuse_views(ring_views, SDF, Progress(fail_while_fusing))
    rescued = fuse_views(ring_views, replace(SDF, fallback="hull"), Progress(fail_while_fusing))
    assert rescued.surface.report.steps == 0
    assert is_closed_manifold(rescued.mesh.welded())
