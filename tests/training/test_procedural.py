"""Procedural objects: watertight, normalised, reproducible and diverse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nova3d_core.errors import InputError
from nova3d_core.training.data.render import is_closed
from nova3d_core.training.procedural import KINDS, procedural_object
from nova3d_core.training.procedural.builder import (
    Builder,
    align_y_axis,
    euler_rotation,
    regular_polygon,
)
from nova3d_core.training.procedural.shapes import (
    Box,
    Capsule,
    Ellipsoid,
    Extrusion,
    Frustum,
    Torus,
    lathe,
    polygon_distance,
)
from nova3d_core.training.procedural.surface import SolidPart, closed_mesh

SHAPES = [
    Ellipsoid((0.3, 0.2, 0.4)),
    Ellipsoid((0.3, 0.3, 0.3)),
    Box((0.3, 0.2, 0.25), 0.05),
    Capsule(0.4, 0.1, 0.2),
    Frustum(0.5, 0.3, 0.15, 0.03),
    Torus(0.3, 0.1),
    Extrusion(regular_polygon(5, 0.4, 0.2), 0.1, 0.02),
    lathe([0.2, 0.3, 0.1], [0.0, 0.2, 0.5]),
]


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_is_watertight_and_normalised(kind):
    for seed in (1, 2):
        mesh = procedural_object(seed, kind)
        assert is_closed(mesh)
        low, high = mesh.bounds
        assert float((high - low).max()) == pytest.approx(1.0, abs=1e-4)
        assert torch.allclose(low + high, torch.zeros(3), atol=1e-4)
        assert float(mesh.vertex_colours.min()) >= 0 and float(mesh.vertex_colours.max()) <= 1
        # the enclosed volume is positive, so faces point outwards
        corners = mesh.vertices[mesh.faces]
        volume = (torch.linalg.cross(corners[:, 0], corners[:, 1]) * corners[:, 2]).sum() / 6
        assert 0.005 < float(volume) < 1.0
        facing = (mesh.normals[mesh.faces].mean(dim=1) * mesh.face_normals).sum(dim=1)
        assert float((facing > 0).float().mean()) > 0.99


def test_object_is_determined_by_the_seed_bit_for_bit():
    first, again = procedural_object(5), procedural_object(5)
    for name in ("vertices", "faces", "normals", "vertex_colours"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    other = procedural_object(6)
    assert other.vertices.shape != first.vertices.shape or not torch.equal(
        other.vertices, first.vertices
    )


def test_most_objects_have_several_colours():
    counts = []
    for seed in range(40):
        mesh = procedural_object(10_000 + seed, cells=24)
        colours = (mesh.vertex_colours * 8).round().unique(dim=0)
        counts.append(len(colours))
    assert np.median(counts) >= 4  # most have patterns


def test_cells_control_the_resolution_of_the_same_object():
    coarse, fine = (procedural_object(3, "character", cells) for cells in (32, 64))
    assert len(fine.faces) > 3 * len(coarse.faces)
    assert torch.allclose(coarse.bounds, fine.bounds, atol=0.05)


def test_rejects_unknown_kind():
    with pytest.raises(InputError, match="kind of object"):
        procedural_object(0, "unicorn")


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: type(shape).__name__)
def test_distances_are_signed_lower_bounds_within_the_bounding_box(shape):
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.6, 0.6, (4000, 3)).astype(np.float32)
    distance = shape.distance(*points.T)
    assert distance.dtype == np.float32
    inside = points[distance < 0]
    assert len(inside) > 20
    assert (np.abs(inside) <= np.asarray(shape.half_extents) + 0.03).all()
    # the distance is about 1-Lipschitz; tables and cones need some tolerance
    step = rng.normal(size=points.shape).astype(np.float32)
    step *= 0.02 / np.linalg.norm(step, axis=1, keepdims=True)
    change = np.abs(shape.distance(*(points + step).T) - distance)
    assert float(np.quantile(change, 0.98)) <= 0.02 * 1.35


def test_sphere_has_exact_distance_and_volume():
    sphere = Ellipsoid((0.5, 0.5, 0.5))
    points = np.random.default_rng(1).normal(size=(3, 100)).astype(np.float32)
    expected = np.linalg.norm(points, axis=0) - 0.5
    assert np.allclose(sphere.distance(*points), expected, atol=1e-6)
    mesh = closed_mesh([SolidPart(sphere, None)], 40)
    corners = mesh.vertices[mesh.faces]
    volume = (torch.linalg.cross(corners[:, 0], corners[:, 1]) * corners[:, 2]).sum() / 6
    assert float(volume) == pytest.approx(np.pi / 6, rel=0.01)


def test_polygon_distance_of_a_square():
    corners = np.array([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)])
    x, y = np.array([0.0, 0.5, 2.0, 2.0]), np.array([0.0, 0.0, 0.0, 2.0])
    expected = [-1.0, -0.5, 1.0, np.sqrt(2.0)]
    assert np.allclose(polygon_distance(corners, x, y), expected)


def test_subtract_removes_volume_and_decal_only_changes_colours():
    make = Builder(np.random.default_rng(0))
    make.box((0.5, 0.5, 0.5), make.solid_colour(0), (0, 0, 0))
    whole = closed_mesh(make.parts, 32)
    make.ellipsoid(0.3, make.solid_colour(2), (0, 0, 0.5), role="decal")
    decorated = closed_mesh(make.parts, 32)
    assert torch.equal(decorated.vertices, whole.vertices)
    assert not torch.equal(decorated.vertex_colours, whole.vertex_colours)
    make.ellipsoid(0.3, None, (0, 0, 0.5), role="subtract")
    hollow = closed_mesh(make.parts, 32)
    middle = hollow.vertices[:, :2].norm(dim=1) < 0.05
    assert float(hollow.vertices[middle, 2].max()) == pytest.approx(0.2, abs=0.02)


def test_mirrored_part_is_the_mirror_image():
    make = Builder(np.random.default_rng(0))
    make.ellipsoid(0.2, make.solid_colour(0), (0, 0, 0))
    options = {"rotation": euler_rotation(20, 30, 40), "mirror": True}
    make.ellipsoid((0.1, 0.3, 0.15), make.solid_colour(1), (0.3, 0.1, 0.05), **options)
    rng = np.random.default_rng(2)
    x, y, z = rng.uniform(-0.6, 0.6, (3, 500)).astype(np.float32)
    right, left = make.parts[1], make.parts[2]
    distance = right.shape.distance(*right.to_local(x, y, z))
    mirrored = left.shape.distance(*left.to_local(-x, y, z))
    assert np.allclose(distance, mirrored, atol=1e-5)


def test_rotations_are_orthonormal():
    for rotation in (
        euler_rotation(10, 20, 30),
        align_y_axis((0.3, -0.5, 0.8)),
        align_y_axis((0, 0, 1)),
    ):
        assert np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(rotation) == pytest.approx(1.0)
    assert np.allclose(align_y_axis((0, 0, 2.0)) @ (0, 1, 0), (0, 0, 1))
