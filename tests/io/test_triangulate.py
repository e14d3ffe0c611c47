"""Triangulation of polygons, convex, concave and degenerate: areas, orientation and order."""

from __future__ import annotations

import time

import numpy as np
import pytest

from nova3d_core.errors import InputError
from nova3d_core.io.mesh import triangulate as polygons
from nova3d_core.io.mesh.triangulate import triangulate

ARROW = [[0, 0], [2, 0], [2, 1], [1, 0.2], [0, 1]]  # concave at the fourth corner; area 1.2
SQUARE_WITH_HOLE = [  # the bridge from (0, 0) to (1, 1) is traversed twice; area 9 - 1
    *([0, 0], [3, 0], [3, 3], [0, 3], [0, 0]),
    *([1, 1], [1, 2], [2, 2], [2, 1], [1, 1]),
]


def rotation(seed: int) -> np.ndarray:
    """A random (3, 3) rotation."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q *= np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


def in_space(points: list | np.ndarray, seed: int = 0, offset: float = 0.0) -> np.ndarray:
    """(K, 3) float64 points from (K, 2), in a randomly rotated plane."""
    points = np.asarray(points, dtype=np.float64)
    return np.c_[points, np.zeros(len(points))] @ rotation(seed).T + offset


def vector_areas(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """(T, 3) normals of triangles, scaled by area."""
    a, b, c = vertices[triangles].transpose(1, 0, 2)
    return np.cross(b - a, c - a) / 2


def check_cut(points, area: float, seed: int = 0, offset: float = 0.0) -> np.ndarray:
    """Checks that triangles have the orientation of a simple polygon and fill its area."""
    vertices = in_space(points, seed, offset)
    count = len(vertices)
    triangles, polygon_of = triangulate(vertices, np.arange(count), np.array([count]))
    assert polygon_of.tolist() == [0] * (count - 2)
    heights = vector_areas(vertices, triangles) @ rotation(seed)[:, 2]
    assert heights.min() > 0
    assert heights.sum() == pytest.approx(area, rel=1e-9)
    return triangles


def star(count: int, seed: int = 0) -> np.ndarray:
    """(count, 2) corners of a polygon with random radii around the origin."""
    rng = np.random.default_rng(seed)
    angles = (np.arange(count) + rng.uniform(0.0, 0.8, count)) * (2 * np.pi / count)
    radii = rng.uniform(0.2, 1.0, count)
    return np.c_[radii * np.cos(angles), radii * np.sin(angles)]


def spiral(count: int) -> np.ndarray:
    """(2 count, 2) corners of a spiral band with three turns: few ears, thin triangles."""
    angles = np.linspace(0, 6 * np.pi, count)
    radii = 1.0 + angles
    outer = np.c_[radii * np.cos(angles), radii * np.sin(angles)]
    inner = np.c_[(radii - 1) * np.cos(angles), (radii - 1) * np.sin(angles)]
    return np.concatenate([outer, inner[::-1]])


def polygon_area(points: np.ndarray) -> float:
    x, y = np.asarray(points, dtype=np.float64).T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


@pytest.mark.parametrize("first", range(5))
@pytest.mark.parametrize("seed", range(3))
def test_concave_pentagon_from_any_corner_in_any_plane(first, seed):
    check_cut(np.roll(ARROW, first, axis=0), 1.2, seed)


@pytest.mark.parametrize("first", range(4))
def test_concave_quad_is_split_along_its_inner_diagonal(first):
    dart = np.roll([[0, 0], [2, 0], [0.5, 0.5], [0, 2]], first, axis=0)
    triangles = check_cut(dart, 1.0)
    reflex = (2 - first) % 4
    assert all(reflex in triangle for triangle in triangles.tolist())


def test_convex_polygons_are_fans_from_their_first_corner():
    angles = np.arange(7) * 2 * np.pi / 7
    triangles = check_cut(np.c_[np.cos(angles), np.sin(angles)], 3.5 * np.sin(2 * np.pi / 7))
    assert triangles.tolist() == [[0, i + 1, i + 2] for i in range(5)]


def test_clockwise_orientation_is_kept():
    vertices = in_space(ARROW)[::-1]
    triangles, _ = triangulate(vertices, np.arange(5), np.array([5]))
    heights = vector_areas(vertices, triangles) @ rotation(0)[:, 2]
    assert heights.max() < 0
    assert heights.sum() == pytest.approx(-1.2)


def test_polygons_keep_their_order_whatever_their_size():
    """Triangles are in the order of the polygons and refer to indices of the corner list."""
    vertices = np.array([[x, y, 0] for y in range(3) for x in range(3)], dtype=np.float64)
    polygons_given = [[0, 1, 4], [0, 1, 4, 3], [1, 2, 5, 8, 4], [3, 4], [4, 5, 8, 7], [3, 4, 7]]
    corners = np.concatenate(polygons_given)
    counts = np.array([len(polygon) for polygon in polygons_given])
    triangles, polygon_of = triangulate(vertices, corners, counts)
    assert polygon_of.tolist() == [0, 1, 1, 2, 2, 2, 4, 4, 5]
    starts = np.cumsum(counts) - counts
    local = triangles - starts[polygon_of][:, None]
    assert (local >= 0).all() and (local < counts[polygon_of][:, None]).all()
    areas = np.bincount(polygon_of, vector_areas(vertices, corners[triangles])[:, 2])
    np.testing.assert_allclose(areas, [0.5, 1.0, 1.5, 0.0, 1.0, 0.5], atol=1e-12)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("count", [5, 6, 8, 13, 24, 40, 64])
def test_both_ear_clipping_variants_fill_random_polygons(monkeypatch, batched, count):
    monkeypatch.setattr(polygons, "MAX_BATCHED_CORNERS", 10**9 if batched else 0)
    for seed in range(10):
        points = star(count, seed)
        check_cut(
            points, polygon_area(points), seed, offset=5e6 if seed == 0 and count < 9 else 0.0
        )
    if count >= 24:
        check_cut(spiral(count), polygon_area(spiral(count)))
    check_cut(SQUARE_WITH_HOLE, 8.0)


def test_batch_equals_single_polygons():
    shapes = [in_space(star(12, seed), seed) for seed in range(30)]
    vertices = np.concatenate(shapes)
    together, _ = triangulate(vertices, np.arange(len(vertices)), np.full(30, 12))
    alone = [
        triangulate(shape, np.arange(12), np.array([12]))[0] + 12 * index
        for index, shape in enumerate(shapes)
    ]
    assert np.array_equal(together, np.concatenate(alone))


def test_large_polygons_take_about_linear_time():
    points = star(5000)
    start = time.process_time()
    check_cut(points, polygon_area(points))
    assert time.process_time() - start < 4.0  # 0.4 s on an idle core


def test_collinear_corners_give_no_degenerate_triangles():
    """A square with extra corners at the midpoints of its sides: 6 triangles of positive area."""
    ring = [[0, 0], [1, 0], [2, 0], [2, 1], [2, 2], [1, 2], [0, 2], [0, 1]]
    for first in range(8):
        check_cut(np.roll(ring, first, axis=0), 4.0)
    for first in range(4):  # a triangle with a fourth corner on one side
        check_cut(np.roll([[0, 0], [1, 0], [2, 0], [0, 2]], first, axis=0), 2.0)


def test_repeated_vertices_give_no_triangle():
    vertices = in_space([[0, 0], [1, 0], [1, 1], [0, 1]])
    for polygon in ([0, 1, 2, 2], [0, 0, 1, 2], [0, 1, 1, 2], [0, 1, 2, 0]):
        corners = np.array(polygon)
        triangles, _ = triangulate(vertices, corners, np.array([4]))
        assert len(triangles) == 1
        area = vector_areas(vertices, corners[triangles]) @ rotation(0)[:, 2]
        assert area.tolist() == pytest.approx([0.5])
    corners = np.array([0, 1, 1, 2, 3, 3, 0])
    triangles, _ = triangulate(vertices, corners, np.array([7]))
    areas = vector_areas(vertices, corners[triangles]) @ rotation(0)[:, 2]
    assert areas.min() > 0
    assert areas.sum() == pytest.approx(1.0)


def test_triangles_are_kept_even_if_degenerate():
    corners = np.array([0, 1, 1, 2, 1, 0])
    triangles, _ = triangulate(np.eye(3), corners, np.array([3, 3]))
    assert triangles.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("count", [4, 5, 20, 100])
def test_degenerate_and_self_intersecting_polygons_terminate(count):
    line = np.c_[np.arange(count), np.zeros((count, 2))].astype(np.float64)
    crossing = np.random.default_rng(0).normal(size=(count, 3))
    for vertices in (line, np.zeros((count, 3)), crossing):
        triangles, _ = triangulate(vertices, np.arange(count), np.array([count]))
        assert triangles.shape == (count - 2, 3)
        assert (np.sort(triangles, axis=1)[:, :2] < np.sort(triangles, axis=1)[:, 1:]).all()


@pytest.mark.parametrize(
    ("count", "max_work", "max_s"),
    [
        (5000, 2e6, 2.0),
        pytest.param(50_000, polygons.MAX_WORK, 8.0, marks=pytest.mark.slow),  # 2 s on an idle core
    ],
)
def test_too_complex_polygons_are_rejected(monkeypatch, count, max_work, max_s):
    monkeypatch.setattr(polygons, "MAX_WORK", max_work)
    points = np.random.default_rng(0).normal(size=(count, 3))
    start = time.process_time()
    with pytest.raises(InputError, match=f"a polygon with {count} corners is too complex"):
        triangulate(points, np.arange(count), np.array([count]))
    assert time.process_time() - start < max_s


def test_triangles_of_the_file_are_kept_even_if_degenerate():
    """Only triangles cut from larger polygons are dropped when a vertex occurs twice."""
    vertices = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], dtype=np.float64)
    corners, counts = np.array([0, 0, 1, 0, 1, 2, 3, 0, 0, 1, 2]), np.array([3, 4, 4])
    triangles, polygon = triangulate(vertices, corners, counts)
    assert corners[triangles[0]].tolist() == [0, 0, 1]
    assert polygon.tolist() == [0, 1, 1, 2]
