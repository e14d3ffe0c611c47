"""Start of a fit on a surface: splats along it, novel views, a given mesh, and the choice of it."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.cameras.rotations import quaternion_to_matrix
from nova3d_core.errors import InputError, StageError
from nova3d_core.evaluation.metrics.image import mask_iou, psnr
from nova3d_core.progress import SILENT
from nova3d_core.rendering.views import render_views
from nova3d_core.splatting import start as start_module
from nova3d_core.splatting.config import SplatFitConfig
from nova3d_core.splatting.fit import fit_splats
from nova3d_core.splatting.render import splat_views
from nova3d_core.splatting.surface import (
    FLATNESS,
    elevated_cameras,
    fuse_coloured_mesh,
    novel_views,
    splats_on_mesh,
)

pytest.importorskip("warp")


def rig(count=12, size=64, **settings) -> RigConfig:
    return RigConfig(count=count, width_px=size, height_px=size, **settings)


@pytest.fixture(scope="module")
def ball(make_sphere):
    """A sphere with a colour for each position."""
    mesh = make_sphere(0.4).with_smooth_normals()
    return replace(mesh, vertex_colours=(mesh.vertices + 0.5).clamp(0.0, 1.0))


@pytest.fixture(scope="module")
def views(ball):
    return render_views(ball, orbit_cameras(rig())).views


def test_splats_lie_flat_on_the_mesh_with_its_colours(ball):
    splats = splats_on_mesh(ball, 2000, seed=0)
    outward = splats.positions / splats.positions.norm(dim=1, keepdim=True)
    assert float((splats.positions.norm(dim=1) - 0.4).abs().max()) < 0.005
    shortest = quaternion_to_matrix(splats.rotations)[:, :, 2]
    assert float((shortest * outward).sum(dim=1).abs().min()) > 0.99
    assert torch.allclose(splats.scales[:, 2], FLATNESS * splats.scales[:, 0])
    assert torch.equal(splats.scales[:, 0], splats.scales[:, 1])
    assert float((splats.colours - (splats.positions + 0.5)).abs().max()) < 0.01
    octant = (splats.positions > 0).float() @ torch.tensor([1.0, 2.0, 4.0])
    counts = torch.bincount(octant.long(), minlength=8)
    assert int(counts.min()) > 190 and int(counts.max()) < 310  # 250 expected, +- 4 sigma


def test_normals_along_minus_z_are_no_special_case():
    """A square that faces -Z: the rotation from +Z to its normal would be undefined."""
    from nova3d_core.mesh import Mesh

    corners = torch.tensor([[0.0, 0, 0], [0, 1, 0], [1, 1, 0], [1, 0, 0]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    mesh = Mesh(corners, faces, vertex_colours=torch.rand(4, 3))
    assert mesh.face_normals[0].tolist() == [0.0, 0.0, -1.0]
    splats = splats_on_mesh(mesh, 50, seed=0)
    assert torch.equal(quaternion_to_matrix(splats.rotations)[0], torch.eye(3))


def test_elevated_cameras_keep_their_distance_and_look_at_the_centre():
    centre = torch.tensor([0.1, 0.2, -0.1])
    cameras = orbit_cameras(rig(8))
    moved = elevated_cameras(cameras, torch.zeros(3), (30.0, -20.0))
    expected = torch.tensor([30.0, -20.0]).repeat(4)
    torch.testing.assert_close(moved.elevation_deg, expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(moved.azimuth_deg, cameras.azimuth_deg, atol=1e-2, rtol=0)
    about = elevated_cameras(cameras, centre, (30.0,))
    pixels, depths = cameras.project(centre[None])
    new_pixels, new_depths = about.project(centre[None])
    torch.testing.assert_close(new_pixels, pixels, atol=1e-3, rtol=0)
    torch.testing.assert_close(new_depths, depths, atol=1e-5, rtol=0)


def test_novel_views_show_the_mesh_from_above_and_below(ball):
    found = novel_views(ball, orbit_cameras(rig(4)))
    assert found.normals is None
    assert sorted(found.cameras.elevation_deg.round().tolist()) == [-45.0, -25.0, 25.0, 45.0]
    large = orbit_cameras(RigConfig(count=1, width_px=2048, height_px=1024))
    assert novel_views(ball, large).colour.shape == (1, 256, 512, 3)


@pytest.mark.slow
def test_fused_mesh_has_shape_and_colours_of_the_object(ball, views):
    mesh, refined = fuse_coloured_mesh(views, refine_poses=False, seed=0)
    assert torch.equal(refined.cameras.world_to_camera, views.cameras.world_to_camera)
    assert float((mesh.vertices.norm(dim=1) - 0.4).abs().max()) < 0.02
    level = mesh.vertices[:, 1].abs() < 0.3
    expected = (mesh.vertices + 0.5).clamp(0.0, 1.0)
    assert float((mesh.vertex_colours - expected)[level].abs().mean()) < 0.01


def test_given_mesh_keeps_the_shape_where_no_view_looks(ball, views):
    """Three views from the front: behind, only the mesh knows the object."""
    front = views[[0, 1, 11]].without_normals()
    cameras = orbit_cameras(rig(4, azimuth_start_deg=45.0, elevation_deg=30.0))
    truth = render_views(ball, cameras).views
    config = SplatFitConfig(count=1500, steps=60)
    scores = []
    for mesh in (ball, None):
        fit = fit_splats(front, config, mesh=mesh)
        shown = splat_views(fit.splats, cameras)
        scores.append(
            (
                psnr(shown.colour, truth.colour),
                mask_iou(shown.masks.flatten(0, 1), truth.masks.flatten(0, 1)),
            )
        )
    assert fit.report.init == "hull"
    assert scores[0][0] > scores[1][0] + 6.0
    assert scores[0][1] > 0.95 > scores[1][1]


def test_mesh_start_repeats_bit_for_bit(ball, views):
    config = SplatFitConfig(count=300, steps=20)
    first, second = (fit_splats(views, config, mesh=ball) for _ in range(2))
    assert first.report.init == "mesh"
    for name, value in vars(first.splats).items():
        assert torch.equal(value, getattr(second.splats, name))


def test_mesh_without_colours_or_of_another_object_is_an_error(ball, views):
    with pytest.raises(InputError, match="no colours"):
        fit_splats(views, mesh=replace(ball, vertex_colours=None))
    with pytest.raises(InputError, match="do not fit the mesh"):
        fit_splats(views, mesh=replace(ball, vertices=0.5 * ball.vertices))


def test_normals_decide_on_the_start(ball, views, monkeypatch, caplog):
    """auto fuses views with normals; misdeclared normals and failed fusions are a warning."""
    calls = []

    def fused(given, refine_poses, seed, progress, device):
        calls.append(given)
        if len(calls) == 3:
            raise StageError("fusing", "values became NaN.")
        return ball, given

    monkeypatch.setattr(start_module, "fuse_coloured_mesh", fused)
    config = SplatFitConfig(count=50).complete()

    def begin(given, settings):
        return start_module.start_fit(given, settings, SILENT, torch.device("cpu"))

    assert begin(views, config).init == "surface"
    assert begin(views.without_normals(), config).init == "hull"
    assert begin(views, replace(config, init="hull")).init == "hull"
    assert len(calls) == 1
    bare = begin(views.without_normals(), replace(config, init="surface"))
    assert bare.init == "surface" and len(calls) == 2
    with caplog.at_level(logging.WARNING):
        assert begin(views, config).init == "hull"
    assert "the fusion failed (fusing: values became NaN.)" in caplog.text
    wrong = replace(views, normals=-views.normals)
    with caplog.at_level(logging.WARNING):
        assert begin(wrong, config).init == "hull"
    assert "without the normals" in caplog.text and len(calls) == 3
    with pytest.raises(InputError, match="normal"):
        begin(wrong, replace(config, init="surface"))
    with pytest.raises(InputError, match="splat init"):
        SplatFitConfig(init="sphere")
