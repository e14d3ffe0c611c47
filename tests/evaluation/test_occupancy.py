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


def together(*meshes: Mesh) -> Mesh:
    starts = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes])
    return Mesh(
        torch.cat([mesh.vertices for mesh in meshes]),
        torch.cat([mesh.faces + int(start) for mesh, start in zip(meshes, starts, strict=False)]),
    )


def inside_out(mesh: Mesh) -> Mesh:
    return Mesh(mesh.vertices, mesh.faces.flip(1))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_boxes_shifted_by_half_overlap_by_a_third(axis):
    shift = np.eye(3)[axis] * 0.25
    a, b = box([-0.25] * 3, [0.25] * 3), box(np.full(3, -0.25) + shift, np.full(3, 0.25) + shift)
    grid = unit_cube_grid(64, (a, b))
    assert len(grid.x) == 64
    filled = [occupancy(mesh, grid) for mesh in (a, b)]
    assert [int(part.sum()) for part in filled] == [32**3, 32**3]
    assert volume_iou(*filled) == 1 / 3


@pytest.mark.parametrize("backend", ["auto", "numpy"])
def test_a_ball_holds_exactly_the_grid_points_nearer_than_its_radius(make_sphere, backend):
    ball = make_sphere(0.4, subdivisions=3)
    grid = unit_cube_grid(24, (ball,))
    inside = occupancy(ball, grid, backend=backend)
    points = np.stack(np.meshgrid(grid.x, grid.y, grid.z, indexing="ij"), axis=-1)
    distance = np.linalg.norm(points, axis=-1)
    facet_depth = 0.4 - 0.398  # the ball's faces are chords
    certain = (distance < 0.4 - facet_depth - 0.001) | (distance > 0.401)
    assert np.array_equal(inside[certain], (distance < 0.4)[certain])
    assert certain.mean() > 0.98


def test_a_cavity_is_empty_and_overlapping_parts_count_once():
    outer, inner = box([-0.5] * 3, [0.5] * 3), box([-0.25] * 3, [0.25] * 3)
    grid = unit_cube_grid(32, (outer,))
    assert int(occupancy(together(outer, inside_out(inner)), grid).sum()) == 32**3 - 16**3
    assert int(occupancy(together(outer, inner), grid).sum()) == 32**3


def test_a_mesh_turned_inside_out_encloses_the_same():
    mesh = box([-0.3, -0.2, -0.4], [0.1, 0.3, 0.2])
    grid = unit_cube_grid(32, (mesh,))
    assert np.array_equal(occupancy(mesh, grid), occupancy(inside_out(mesh), grid))


def test_many_thin_layers_are_all_found():
    edges = np.linspace(-0.5, 0.5, 65)
    plates = [
        box([-0.5, -0.5, low], [0.5, 0.5, high])
        for low, high in zip(edges[::2], edges[1::2], strict=False)
    ]
    inside = occupancy(together(*plates), unit_cube_grid(64, (plates[0],)))
    assert np.array_equal(inside[..., ::2], np.ones((64, 64, 32), bool))
    assert not inside[..., 1::2].any()


def test_what_sticks_out_of_the_unit_cube_counts_against_the_overlap():
    reference, larger = box([-0.5] * 3, [0.5] * 3), box([-0.625] * 3, [0.625] * 3)
    grid = unit_cube_grid(32, (larger, reference))
    assert len(grid.x) == 40
    assert volume_iou(occupancy(larger, grid), occupancy(reference, grid)) == 32**3 / 40**3


def test_the_grid_of_a_far_too_large_mesh_stays_bounded():
    assert len(unit_cube_grid(16, (box([-50.0] * 3, [50.0] * 3),)).x) == 48


def test_rounding_at_the_cubes_side_does_not_grow_the_grid():
    assert len(unit_cube_grid(128, (box([-0.5] * 3, [0.50001] * 3),)).x) == 128


def test_the_level_set_grid_has_the_points_that_mesh2sdf_samples():
    grid = level_set_grid(64)
    assert len(grid.x) == 64
    assert (grid.x[0], grid.x[32], grid.spacing) == (-1.0, 0.0, 1 / 32)


def test_empty_volumes_have_no_overlap_to_speak_of():
    nothing = np.zeros((2, 2, 2), bool)
    assert volume_iou(nothing, nothing) is None
    assert volume_iou(nothing, ~nothing) == 0.0


def test_seams_do_not_leak_and_holes_do(l_solid):
    assert is_watertight(l_solid)  # its vertices are split at every side
    assert not is_watertight(Mesh(l_solid.vertices, l_solid.faces[1:]))


def test_filling_stops_when_cancelled(make_sphere):
    ball = make_sphere(0.4, subdivisions=2)
    grid = unit_cube_grid(16, (ball,))
    with pytest.raises(Cancelled):
        occupancy(ball, grid, Progress(is_cancelled=lambda: True))


def test_real_scans_fill_their_signed_volume(object_files):
    import trimesh

    scan = trimesh.load(
        object_files / "animal_bull" / "model.obj", force="mesh", process=False
    )
    mesh = Mesh(
        torch.tensor(np.array(scan.vertices), dtype=torch.float32),
        torch.tensor(np.array(scan.faces)),
    ).normalised()
    assert is_watertight(mesh)
    volume = float(occupancy(mesh, unit_cube_grid(128, (mesh,))).mean())
    assert volume == pytest.approx(mesh.welded().as_trimesh().volume, rel=2e-3)
