from __future__ import annotations

import numpy as np
import pytest
import torch

from nova3d_core.errors import Cancelled
from nova3d_core.evaluation.occupancy import (
    is_watertight,
    level_set_grid,
    occupancy,
    unit_cube_grid,
    volume_iou,
)
from nova3d_core.mesh import Mesh
from nova3d_core.progress import Progress

CUBE_QUADS = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))


def box(low, high) -> Mesh:
    """A closed axis-aligned box."""
    corners = [[(low, high)[code >> bit & 1][2 - bit] for bit in (2, 1, 0)] for code in range(8)]
    faces = [face for a, b, c, d in CUBE_QUADS for face in ((a, b, c), (a, c, d))]
    return Mesh(torch.tensor(corners, dtype=torch.float32), torch.tensor(faces))


def concatenate(*meshes: Mesh) -> Mesh:
    starts = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes])
    return Mesh(
        torch.cat([mesh.vertices for mesh in meshes]),
        torch.cat([mesh.faces + int(start) for mesh, start in zip(meshes, starts, strict=False)]),
    )


def inverted(mesh: Mesh) -> Mesh:
    return Mesh(mesh.vertices, mesh.faces.flip(1))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_iou_of_boxes_offset_by_half_their_size_is_a_third(axis):
    offset = np.eye(3)[axis] * 0.25
    a, b = box([-0.25] * 3, [0.25] * 3), box(np.full(3, -0.25) + offset, np.full(3, 0.25) + offset)
    grid = unit_cube_grid(64, (a, b))
    assert len(grid.x) == 64
    filled = [occupancy(mesh, grid) for mesh in (a, b)]
    assert [int(part.sum()) for part in filled] == [32**3, 32**3]
    assert volume_iou(*filled) == 1 / 3


@pytest.mark.parametrize("backend", ["auto", "numpy"])
def test_sphere_contains_exactly_the_points_within_its_radius(make_sphere, backend):
    ball = make_sphere(0.4, subdivisions=3)
    grid = unit_cube_grid(24, (ball,))
    inside = occupancy(ball, grid, backend=backend)
    points = np.stack(np.meshgrid(grid.x, grid.y, grid.z, indexing="ij"), axis=-1)
    distance = np.linalg.norm(points, axis=-1)
    facet_depth = 0.4 - 0.398  # faces are chords of the sphere
    certain = (distance < 0.4 - facet_depth - 0.001) | (distance > 0.401)
    assert np.array_equal(inside[certain], (distance < 0.4)[certain])
    assert certain.mean() > 0.98


def test_cavities_are_empty_and_overlaps_count_once():
    outer, inner = box([-0.5] * 3, [0.5] * 3), box([-0.25] * 3, [0.25] * 3)
    grid = unit_cube_grid(32, (outer,))
    assert int(occupancy(concatenate(outer, inverted(inner)), grid).sum()) == 32**3 - 16**3
    assert int(occupancy(concatenate(outer, inner), grid).sum()) == 32**3


def test_inverted_mesh_has_the_same_occupancy():
    mesh = box([-0.3, -0.2, -0.4], [0.1, 0.3, 0.2])
    grid = unit_cube_grid(32, (mesh,))
    assert np.array_equal(occupancy(mesh, grid), occupancy(inverted(mesh), grid))


def test_fills_many_thin_layers():
    edges = np.linspace(-0.5, 0.5, 65)
    plates = [
        box([-0.5, -0.5, low], [0.5, 0.5, high])
        for low, high in zip(edges[::2], edges[1::2], strict=False)
    ]
    inside = occupancy(concatenate(*plates), unit_cube_grid(64, (plates[0],)))
    assert np.array_equal(inside[..., ::2], np.ones((64, 64, 32), bool))
    assert not inside[..., 1::2].any()


def test_volume_outside_the_unit_cube_lowers_the_iou():
    reference, larger = box([-0.5] * 3, [0.5] * 3), box([-0.625] * 3, [0.625] * 3)
    grid = unit_cube_grid(32, (larger, reference))
    assert len(grid.x) == 40
    assert volume_iou(occupancy(larger, grid), occupancy(reference, grid)) == 32**3 / 40**3


def test_grid_size_is_bounded():
    assert len(unit_cube_grid(16, (box([-50.0] * 3, [50.0] * 3),)).x) == 48


def test_rounding_does_not_extend_the_grid():
    assert len(unit_cube_grid(128, (box([-0.5] * 3, [0.50001] * 3),)).x) == 128


def test_level_set_grid_matches_mesh2sdf():
    grid = level_set_grid(64)
    assert len(grid.x) == 64
    assert (grid.x[0], grid.x[32], grid.spacing) == (-1.0, 0.0, 1 / 32)


def test_iou_of_empty_volumes_is_undefined():
    empty = np.zeros((2, 2, 2), bool)
    assert volume_iou(empty, empty) is None
    assert volume_iou(empty, ~empty) == 0.0


def test_seams_are_watertight_and_holes_are_not(l_solid):
    assert is_watertight(l_solid)  # vertices are split along every edge
    assert not is_watertight(Mesh(l_solid.vertices, l_solid.faces[1:]))


def test_filling_can_be_cancelled(make_sphere):
    ball = make_sphere(0.4, subdivisions=2)
    grid = unit_cube_grid(16, (ball,))
    with pytest.raises(Cancelled):
        occupancy(ball, grid, Progress(is_cancelled=lambda: True))


def test_occupancy_of_a_scan_matches_its_signed_volume(object_files):
    import trimesh

    scan = trimesh.load(object_files / "animal_bull" / "model.obj", force="mesh", process=False)
    mesh = Mesh(
        torch.tensor(np.array(scan.vertices), dtype=torch.float32),
        torch.tensor(np.array(scan.faces)),
    ).normalised()
    assert is_watertight(mesh)
    volume = float(occupancy(mesh, unit_cube_grid(128, (mesh,))).mean())
    assert volume == pytest.approx(mesh.welded().as_trimesh().volume, rel=2e-3)
