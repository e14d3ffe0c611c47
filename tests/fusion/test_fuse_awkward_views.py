"""Fusions of difficult views: separate parts, cut-off objects, a hole in a mask."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.conventions import decode_normals
from nova3d_core.errors import InputError
from nova3d_core.fusion.config import HullConfig, LevelConfig, SdfFusionConfig
from nova3d_core.fusion.fuse import fuse_sdf
from nova3d_core.mesh import Mesh
from nova3d_core.meshing.clean import remove_small_components
from nova3d_core.meshing.isosurface import extract_surface
from nova3d_core.rendering.views import render_views

CONFIG = SdfFusionConfig(
    levels=(
        LevelConfig(24, 30, 0.5, sdf_lr_cells=0.10, pose_lr=8e-3),
        LevelConfig(40, 30, 0.5, sdf_lr_cells=0.08, pose_lr=2e-3),
        LevelConfig(40, 20, 0.5, sdf_lr_cells=0.06, pose_lr=4e-4),
    ),
    hull=HullConfig(resolution=48),
    min_rays=256,
)


def taken(mesh, **camera):
    rig = RigConfig(count=8, width_px=64, height_px=64, **camera)
    return render_views(mesh, orbit_cameras(rig)).views


def error_cells(surface, points):
    """(N,) |signed distance| at points of the true surface, in cells."""
    return surface.sdf(points).abs() / surface.grid.spacing


def closed_parts(surface):
    """Number of connected components of the extracted surface; all closed."""
    solid = extract_surface(surface.grid).as_trimesh()
    assert solid.is_watertight
    return solid.body_count


def test_fuses_two_separate_parts(make_sphere):
    ball = make_sphere(0.18)
    centres = torch.tensor([[-0.27, 0.0, 0.05], [0.27, 0.05, -0.05]])
    vertices = torch.cat([ball.vertices + centre for centre in centres])
    faces = torch.cat([ball.faces, ball.faces + len(ball.vertices)])
    surface = fuse_sdf(taken(Mesh(vertices, faces)), CONFIG)
    assert closed_parts(surface) == 2
    assert (surface.sdf(centres) < -0.1).all() and float(surface.sdf(centres.mean(dim=0)[None])) > 0
    assert error_cells(surface, vertices).mean() < 0.25


def test_object_cut_off_by_images_is_right_where_visible(make_sphere, caplog):
    ball = make_sphere(0.4)
    views = taken(ball, focal_per_width=3.0)
    surface = fuse_sdf(views, CONFIG)
    assert "touches the image's border in views 0, 1, 2, 3, 4, 5, 6 and 7" in caplog.text
    pixel = views.cameras.project(ball.vertices)[0]  # (V, N, 2)
    within = ((pixel > 1.0) & (pixel < 63.0)).all(dim=2).all(dim=0)
    assert 0.2 < float(within.float().mean()) < 0.5
    error = error_cells(surface, ball.vertices)
    assert error[within].mean() < 0.4 and error.max() < 4.0
    assert closed_parts(surface) == 1


def test_hole_in_one_mask_has_local_effect(make_sphere):
    ball = make_sphere(0.4)
    views, hole = taken(ball), (slice(26, 38), slice(26, 38))
    masks = views.masks.clone()
    masks[3][hole] = 0.0
    surface = fuse_sdf(replace(views, masks=masks), CONFIG)
    pixel = views.cameras.project(ball.vertices)[0][3]
    away = (pixel < 24.0).any(dim=1) | (pixel > 40.0).any(dim=1)
    error = error_cells(surface, ball.vertices)
    assert 0.5 < float(away.float().mean()) < 0.95
    assert error[away].mean() < 0.25
    # seven views of an intact ball outvote the hole: a dent remains, no tunnel
    largest = remove_small_components(extract_surface(surface.grid), 0.005)
    assert largest.as_trimesh().euler_number == 2  # no tunnel
    assert error.max() < 6.0


def test_same_views_without_the_hole_are_right_everywhere(make_sphere):
    ball = make_sphere(0.4)
    error = error_cells(fuse_sdf(taken(ball), CONFIG), ball.vertices)
    assert error.mean() < 0.25 and error.max() < 2.0


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_black_or_white_normal_images_are_refused(make_sphere, value):
    views = taken(make_sphere(0.4))
    blank = decode_normals(torch.full_like(views.normals, value))
    with pytest.raises(InputError, match="black or white normals on the object"):
        fuse_sdf(replace(views, normals=blank), CONFIG)
