"""Seams: their points, the difference across them, and levelling."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nova3d_core.mesh import Mesh
from nova3d_core.texturing.own_colour import OwnColour
from nova3d_core.texturing.seams import level_seams, seam_difference, seam_points
from nova3d_core.texturing.texels import rasterise_texels

from ..perceptual.procedural import image


@pytest.fixture(scope="module")
def cut() -> Mesh:
    """Two unit squares that share the edge x = 1, as two charts with unrelated colours."""
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    positions = torch.cat([corners, corners + torch.tensor([1.0, 0.0])])
    vertices = torch.cat([positions, torch.zeros(8, 1)], dim=1)
    uv = torch.cat([0.1 + 0.3 * corners, torch.tensor([0.6, 0.1]) + 0.3 * corners])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    return Mesh(vertices, faces, uv=uv, texture=image(40, 60, 3))


def test_points_lie_on_both_sides_of_the_cut(cut):
    points = seam_points(cut, (40, 60))
    first, second = sorted((points.first, points.second), key=lambda uv: float(uv[0, 0]))
    torch.testing.assert_close(first[:, 0], torch.full((len(first),), 0.4))
    torch.testing.assert_close(second[:, 0], torch.full((len(first),), 0.6))
    torch.testing.assert_close(first[:, 1], second[:, 1])
    assert float(points.length.sum()) == pytest.approx(1.0)
    assert len(first) == 12  # 0.3 of 40 texels


def test_a_mesh_without_cuts_has_no_seams(cut):
    vertices, faces = cut.vertices[:4], cut.faces[:2]
    whole = Mesh(vertices, faces, uv=cut.uv[:4], texture=image(16, 16, 1))
    assert len(seam_points(whole, (16, 16)).first) == 0
    assert seam_difference(whole) == 0.0


def test_levelling_removes_the_difference_and_moves_nothing_else(cut):
    texels = rasterise_texels(cut, (40, 60))
    everywhere = torch.ones(len(texels.index), dtype=torch.bool)
    colour = level_seams(cut, cut.texture, texels, everywhere)
    texture = OwnColour(cut, keeps_uv=True).merged_texture(texels, colour, everywhere)
    assert seam_difference(replace(cut, texture=texture)) < 0.05 * seam_difference(cut)
    column = texels.index % 60
    inner = (column < 22) | (column > 37)  # texels that no lookup on the seam uses
    before = cut.texture.reshape(-1, 3)[texels.index]
    assert torch.equal(colour[inner], before[inner])


def test_texels_that_must_not_move_do_not(cut):
    texels = rasterise_texels(cut, (40, 60))
    left = texels.index % 60 < 30
    colour = level_seams(cut, cut.texture, texels, left)
    before = cut.texture.reshape(-1, 3)[texels.index]
    assert torch.equal(colour[~left], before[~left])
    assert not torch.equal(colour[left], before[left])
