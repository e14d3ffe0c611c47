"""Mesh clean-up: small components are removed, pinched sheets separated, closed meshes kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nova3d_core.errors import StageError
from nova3d_core.mesh import Mesh
from nova3d_core.meshing.adjacency import face_components
from nova3d_core.meshing.clean import (
    drop_unused_vertices,
    is_closed_manifold,
    make_manifold,
    remove_small_components,
)
from nova3d_core.meshing.isosurface import extract_surface
from nova3d_core.meshing.simplify import simplify
from nova3d_core.sdf_grid import SdfGrid, grid_points


def sphere_grid(radius: float = 0.4, size: int = 48) -> SdfGrid:
    spacing = 1.0 / (size - 1)
    origin = torch.full((3,), -0.5)
    points = grid_points(origin, spacing, (size,) * 3)
    return SdfGrid((points.norm(dim=1) - radius).reshape((size,) * 3), origin, spacing)


def voxels(occupied: np.ndarray) -> Mesh:
    """Outward faces between occupied and empty unit cells (X, Y, Z), with merged vertices.

    Cells that touch in an edge or a corner share it, which makes the mesh non-manifold.
    """
    full = np.pad(occupied.astype(bool), 1)
    corners, quads = [], []
    for axis in range(3):
        u, v = (axis + 1) % 3, (axis + 2) % 3
        for side in (0, 1):
            step = 1 if side else -1
            for cell in np.argwhere(full & ~np.roll(full, -step, axis=axis)):
                base = cell.copy()
                base[axis] += side
                steps = [(0, 0), (1, 0), (1, 1), (0, 1)]
                for du, dv in steps if side else steps[::-1]:
                    corner = base.copy()
                    corner[u] += du
                    corner[v] += dv
                    corners.append(corner)
                quads.append(np.arange(4) + 4 * len(quads))
    quads = np.array(quads)
    faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    return Mesh(torch.tensor(np.array(corners), dtype=torch.float32), torch.tensor(faces)).welded()


def cubes(*cells: tuple[int, int, int]) -> Mesh:
    occupied = np.zeros((3, 3, 3), bool)
    occupied[tuple(np.array(cells).T)] = True
    return voxels(occupied)


def test_isosurface_of_a_sphere_has_its_radius_volume_and_orientation():
    surface = extract_surface(sphere_grid())
    assert (surface.vertices.norm(dim=1) - 0.4).abs().max() < 2e-3
    assert surface.as_trimesh().volume == pytest.approx(4 / 3 * np.pi * 0.4**3, rel=0.01)
    assert is_closed_manifold(surface)
    assert surface.as_trimesh().euler_number == 2


def test_values_of_exactly_zero_make_no_degenerate_faces():
    grid = sphere_grid(size=41)  # the sphere passes exactly through grid points on the axes
    values = torch.where(grid.values.abs() < 0.01, 0.0, grid.values)
    surface = extract_surface(SdfGrid(values, grid.origin, grid.spacing))
    assert is_closed_manifold(surface)
    assert surface.face_areas.min() > 0


def test_missing_or_cropped_surface_is_an_error():
    grid = sphere_grid()
    with pytest.raises(StageError, match="no surface"):
        extract_surface(SdfGrid(grid.values + 9, grid.origin, grid.spacing))
    with pytest.raises(StageError, match="crosses the border of the grid"):
        extract_surface(SdfGrid(grid.values - 0.2, grid.origin, grid.spacing))


def test_removes_only_small_components(make_sphere):
    big, small, floater = make_sphere(0.4, 3), make_sphere(0.2, 2), make_sphere(0.01, 1)
    vertices = torch.cat([big.vertices, small.vertices + 1.0, floater.vertices + 2.0])
    faces = torch.cat(
        [big.faces, small.faces + len(big.vertices),
         floater.faces + len(big.vertices) + len(small.vertices)]
    )  # fmt: skip
    mesh = Mesh(vertices, faces)
    assert len(np.unique(face_components(faces.numpy(), len(vertices)))) == 3
    kept = remove_small_components(mesh, 0.005)
    assert len(kept.faces) == len(big.faces) + len(small.faces)
    assert len(kept.vertices) == len(big.vertices) + len(small.vertices)
    only = remove_small_components(mesh, 0.9)
    assert torch.equal(only.vertices[only.faces], big.vertices[big.faces])


def test_separates_cubes_that_share_an_edge():
    pinched = cubes((0, 0, 0), (1, 1, 0))
    assert not is_closed_manifold(pinched)
    separated = make_manifold(pinched)
    assert is_closed_manifold(separated)
    assert is_closed_manifold(separated.welded())  # also separated in space
    assert len(np.unique(face_components(separated.faces.numpy(), len(separated.vertices)))) == 2
    assert separated.as_trimesh().volume == pytest.approx(2.0, rel=0.02)


def test_separates_cubes_that_share_a_corner():
    separated = make_manifold(cubes((0, 0, 0), (1, 1, 1)))
    assert len(np.unique(face_components(separated.faces.numpy(), len(separated.vertices)))) == 2
    assert is_closed_manifold(separated.welded())


@pytest.mark.parametrize("seed", range(6))
def test_makes_random_voxels_manifold(seed):
    occupied = np.random.default_rng(seed).random((5, 5, 5)) < 0.45
    pinched = voxels(occupied)
    assert not is_closed_manifold(pinched)
    separated = make_manifold(pinched)
    assert is_closed_manifold(separated.welded())
    assert separated.as_trimesh().volume == pytest.approx(occupied.sum(), rel=0.05)


@pytest.mark.parametrize("count", [1, 2])
def test_removes_folded_copies_of_a_face(make_sphere, count):
    """Simplification folds surfaces like this: a copy of a face and its inverse."""
    ball = make_sphere(subdivisions=2)
    folded = torch.cat([ball.faces[5:6].roll(1, dims=1), ball.faces[5:6].flip(1)])
    clean = make_manifold(Mesh(ball.vertices, torch.cat([folded] * count + [ball.faces])))
    assert is_closed_manifold(clean)
    assert len(clean.faces) == len(ball.faces)
    assert clean.as_trimesh().volume == pytest.approx(ball.as_trimesh().volume, rel=1e-6)


def test_removes_a_flap_without_volume(make_sphere):
    ball = make_sphere(0.4, 2)
    a, b = ball.faces[0, 0], ball.faces[0, 1]
    apex = len(ball.vertices)
    vertices = torch.cat([ball.vertices, torch.tensor([[0.0, 0.0, 2.0]])])
    flap = torch.tensor([[a, b, apex], [b, a, apex]])
    clean = make_manifold(Mesh(vertices, torch.cat([ball.faces, flap])))
    assert is_closed_manifold(clean)
    assert len(clean.faces) == len(ball.faces)


def test_manifold_surface_is_unchanged(make_sphere):
    ball = make_sphere(0.4, 3)
    same = make_manifold(ball)
    torch.testing.assert_close(same.vertices[same.faces], ball.vertices[ball.faces])


def test_open_surface_is_an_error(make_sphere):
    ball = make_sphere(0.4, 2)
    assert not is_closed_manifold(drop_unused_vertices(ball.vertices, ball.faces[1:]))
    with pytest.raises(StageError, match="boundary edges"):
        make_manifold(drop_unused_vertices(ball.vertices, ball.faces[1:]))


def test_inverted_face_is_not_manifold(make_sphere):
    ball = make_sphere(0.4, 2)
    faces = ball.faces.clone()
    faces[0] = faces[0].flip(0)
    assert not is_closed_manifold(Mesh(ball.vertices, faces))


def test_simplification_preserves_shape_and_watertightness():
    pytest.importorskip("fast_simplification")
    dense = extract_surface(sphere_grid(size=64))
    simplified = make_manifold(simplify(dense, 1000))
    assert len(simplified.faces) <= 1000
    assert is_closed_manifold(simplified)
    assert simplified.as_trimesh().volume == pytest.approx(dense.as_trimesh().volume, rel=0.01)
    assert torch.equal(simplify(dense, len(dense.faces)).faces, dense.faces)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_simplification_is_invariant_to_scale(make_sphere, scale):
    pytest.importorskip("fast_simplification")
    ball = make_sphere(0.4, 5)
    simplified = simplify(
        ball.transformed(torch.diag(torch.tensor([scale, scale, scale, 1.0]))), 2000
    )
    assert len(simplified.faces) == 2000
    assert simplified.as_trimesh().volume / scale**3 == pytest.approx(
        simplify(ball, 2000).as_trimesh().volume, rel=1e-3
    )


def test_surface_without_volume_is_an_error():
    sheet = Mesh(torch.eye(3), torch.tensor([[0, 1, 2], [2, 1, 0]]))
    with pytest.raises(StageError, match="encloses no volume"):
        make_manifold(sheet)


@pytest.mark.parametrize("seed", [0, 2, 3, 4])
def test_simplified_sponge_can_be_made_manifold(seed):
    from scipy.ndimage import gaussian_filter

    pytest.importorskip("fast_simplification")
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(40, 40, 40)), 1.3)
    values = torch.from_numpy(np.pad(noise, 1, constant_values=1.0)).float()
    sponge = extract_surface(SdfGrid(values, torch.zeros(3), 1.0))
    simplified = simplify(sponge, len(sponge.faces) // 8)
    assert not is_closed_manifold(simplified)  # otherwise this test would check nothing
    closed = make_manifold(simplified)
    assert is_closed_manifold(closed)
    assert is_closed_manifold(closed.welded())
    assert closed.as_trimesh().volume == pytest.approx(simplified.as_trimesh().volume, rel=0.01)
