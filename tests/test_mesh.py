"""Meshes: transforms, areas, vertex merging and normals with known results."""

from __future__ import annotations

import math

import pytest
import torch

from nova3d_core.errors import InputError
from nova3d_core.mesh import Mesh


def test_area_and_volume_of_the_l_solid(l_solid):
    bar = 2 * (0.3 * 1.0 + 0.3 * 1.0 + 0.3 * 0.3)
    foot = 2 * (0.5 * 0.3 + 0.5 * 0.5 + 0.3 * 0.5)
    assert float(l_solid.face_areas.sum()) == pytest.approx(bar + foot, rel=1e-5)
    volume = 0.3 * 1.0 * 0.3 + 0.5 * 0.3 * 0.5
    assert l_solid.as_trimesh().volume == pytest.approx(volume, rel=1e-5)


def test_face_normals_point_out_of_a_sphere(make_sphere):
    ball = make_sphere(0.4)
    centres = ball.vertices[ball.faces].mean(dim=1)
    cosine = torch.nn.functional.cosine_similarity(centres, ball.face_normals)
    assert cosine.min() > 0.999


def test_normalised_is_centred_with_longest_side_one(l_solid):
    transformed = l_solid.transformed(torch.diag(torch.tensor([3.0, 3.0, 3.0, 1.0]))).transformed(
        torch.tensor([[1.0, 0, 0, 5], [0, 1, 0, -2], [0, 0, 1, 9], [0, 0, 0, 1]])
    )
    low, high = transformed.normalised().bounds
    torch.testing.assert_close(low + high, torch.zeros(3), atol=1e-5, rtol=0)
    assert float((high - low).max()) == pytest.approx(1.0, abs=1e-5)


def test_bounds_ignore_unreferenced_vertices(l_solid):
    stray = Mesh(torch.cat([l_solid.vertices, torch.tensor([[99.0, 99, 99]])]), l_solid.faces)
    torch.testing.assert_close(stray.bounds, l_solid.bounds)


def test_reflection_keeps_faces_outward(l_solid):
    mirrored = l_solid.transformed(torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0])))
    assert mirrored.as_trimesh().volume == pytest.approx(l_solid.as_trimesh().volume, rel=1e-5)


def test_normals_transform_as_covectors(make_sphere):
    stretch = torch.diag(torch.tensor([1.0, 3.0, 1.0, 1.0]))
    ball = make_sphere(0.4).transformed(stretch)
    smooth = ball.with_smooth_normals().normals
    assert (ball.normals * smooth).sum(dim=1).min() > 0.99


def test_z_up_is_rotated_to_y_up_without_reflection(l_solid):
    points = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    mesh = Mesh(points, torch.tensor([[0, 1, 2]])).to_y_up("+Z")
    expected = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(mesh.vertices, expected)
    rotated = l_solid.to_y_up("+Z").as_trimesh()
    assert rotated.volume == pytest.approx(l_solid.as_trimesh().volume)


def test_merging_vertices_closes_seams(make_sphere):
    ball = make_sphere(0.4, 2)
    split = Mesh(
        ball.vertices[ball.faces.reshape(-1)], torch.arange(ball.faces.numel()).reshape(-1, 3)
    )
    assert not split.as_trimesh().is_watertight
    welded = split.welded()
    assert len(welded.vertices) == len(ball.vertices)
    assert welded.as_trimesh().is_watertight


def test_smooth_normals_of_a_sphere_are_radial_across_seams(make_sphere):
    ball = make_sphere(0.4, 3)
    split = Mesh(
        ball.vertices[ball.faces.reshape(-1)], torch.arange(ball.faces.numel()).reshape(-1, 3)
    )
    normals = split.with_smooth_normals().normals
    radial = split.vertices / split.vertices.norm(dim=1, keepdim=True)
    max_error = torch.acos((normals * radial).sum(dim=1).min().clamp(max=1.0))
    assert math.degrees(max_error) < 0.5


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"faces": torch.zeros(0, 3, dtype=torch.int64)}, "no faces"),
        ({"faces": torch.tensor([[0, 1, 9]])}, "there are 3"),
        ({"faces": torch.tensor([[0, 1, -1]])}, "there are 3"),
        ({"vertices": torch.full((3, 3), torch.nan)}, "mesh vertices has 9"),
        ({"uv": torch.zeros(2, 2)}, "mesh uv has shape"),
        ({"texture": torch.zeros(4, 4, 3)}, "no UV"),
    ],
)
def test_invalid_fields_are_errors(parts, message):
    good = {"vertices": torch.eye(3), "faces": torch.tensor([[0, 1, 2]])}
    with pytest.raises(InputError, match=message):
        Mesh(**{**good, **parts})


def test_normalising_a_mesh_without_size_is_an_error():
    with pytest.raises(InputError, match="no size"):
        Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 2]])).normalised()
