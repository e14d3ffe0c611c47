"""Colours at vertices: what the views show, and smooth continuation where none does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nova3d_core.cameras.cameras import orbit_cameras
from nova3d_core.cameras.rigs import RigConfig
from nova3d_core.errors import StageError
from nova3d_core.rendering.config import RenderConfig
from nova3d_core.rendering.views import render_views
from nova3d_core.texturing.bake import bake_vertex_colours
from nova3d_core.texturing.texels import vertex_texels


def views_of(mesh, count=6, size_px=128):
    rig = RigConfig(count=count, width_px=size_px, height_px=size_px)
    return render_views(mesh, orbit_cameras(rig), RenderConfig(2)).views


def test_colours_come_back_where_views_see_them(globe):
    bare = replace(globe, vertex_colours=None)
    baked = bake_vertex_colours(bare, views_of(globe))
    level = globe.vertices[:, 1].abs() < 0.25
    error = (baked.vertex_colours - globe.vertex_colours).abs()
    assert float(error[level].max()) < 0.02
    assert torch.equal(baked.vertices, globe.vertices)


def test_unseen_half_is_interpolated(globe):
    """Two views from the front: colours behind stay in the range of those in front."""
    bare = replace(globe, vertex_colours=None)
    baked = bake_vertex_colours(bare, views_of(globe, count=12)[[0, 1, 11]]).vertex_colours
    seen = globe.vertices[:, 2] > -0.05
    low, high = baked[seen].amin(dim=0), baked[seen].amax(dim=0)
    behind = baked[globe.vertices[:, 2] < -0.3]
    assert bool((behind >= low - 0.05).all()) and bool((behind <= high + 0.05).all())


def test_vertices_outside_all_faces_are_grey(globe):
    extra = torch.cat([globe.vertices, torch.tensor([[9.0, 9.0, 9.0]])])
    mesh = replace(globe, vertices=extra, uv=None, normals=None, vertex_colours=None)
    assert int(vertex_texels(mesh.with_smooth_normals()).index.max()) < len(globe.vertices)
    baked = bake_vertex_colours(mesh, views_of(globe))
    assert baked.vertex_colours[-1].tolist() == [0.5, 0.5, 0.5]


def test_views_of_nothing_are_an_error(globe):
    views = views_of(globe)
    with pytest.raises(StageError, match="no view sees"):
        bake_vertex_colours(replace(globe, vertices=globe.vertices + 5.0), views)
