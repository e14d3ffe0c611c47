"""Overlap detection in the plane, compared with clipping all pairs of triangles."""

from __future__ import annotations

import numpy as np
import pytest

from nova3d_core.errors import Cancelled
from nova3d_core.meshing.unwrap.overlaps import overlapping_pairs


def counter_clockwise(triangles: np.ndarray) -> np.ndarray:
    a, b = triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    flipped = a[:, 0] * b[:, 1] < a[:, 1] * b[:, 0]
    return np.where(flipped[:, None, None], triangles[:, ::-1], triangles)


def common_area(first: np.ndarray, second: np.ndarray) -> float:
    """Area of the intersection of two counter-clockwise triangles, by successive clipping."""
    polygon = list(first)
    for start, end in zip(second, np.roll(second, -1, axis=0), strict=True):
        edge = end - start
        side = [edge[0] * (p - start)[1] - edge[1] * (p - start)[0] for p in polygon]
        clipped = []
        for i, p in enumerate(polygon):
            j = (i + 1) % len(polygon)
            if side[i] >= 0:
                clipped.append(p)
            if side[i] * side[j] < 0:
                clipped.append(p + (polygon[j] - p) * side[i] / (side[i] - side[j]))
        polygon = clipped
        if len(polygon) < 3:
            return 0.0
    x, y = np.array(polygon).T
    return 0.5 * float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))


def grid(n: int) -> np.ndarray:
    """(2 n n, 3, 2) triangles that tile a square."""
    x, y = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    corner = np.stack([x, y], axis=-1).reshape(-1, 1, 2)
    lower = corner + np.array([[0, 0], [1, 0], [1, 1]])
    upper = corner + np.array([[0, 0], [1, 1], [0, 1]])
    return np.concatenate([lower, upper]) / n


@pytest.mark.parametrize("seed", [0, 1])
def test_finds_the_same_pairs_as_clipping(seed):
    rng = np.random.default_rng(seed)
    sizes = 10.0 ** rng.uniform(-3, -0.3, size=(110, 1, 1))  # from tiny to half the image
    triangles = rng.random((110, 1, 2)) + sizes * rng.normal(size=(110, 3, 2))
    oriented = counter_clockwise(triangles)
    expected = [
        (i, j)
        for i in range(110)
        for j in range(i + 1, 110)
        if common_area(oriented[i], oriented[j]) > 0
    ]
    found = overlapping_pairs(triangles, depth=1e-9)
    assert len(expected) > 100
    assert found.tolist() == [list(pair) for pair in expected]


def test_adjacent_tiles_do_not_overlap_until_one_is_moved():
    tiles = grid(20)
    assert len(overlapping_pairs(tiles)) == 0
    tiles[210] += (0.001, 0.0)  # over its neighbour's edge
    found = overlapping_pairs(tiles)
    assert len(found) > 0
    assert (found == 210).any(axis=1).all()


def test_fan_of_a_thousand_slivers_does_not_overlap():
    angle = np.linspace(0, 2 * np.pi, 1001)
    rim = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    fan = np.stack([np.zeros((1000, 2)), rim[:-1], rim[1:]], axis=1)
    assert len(overlapping_pairs(fan)) == 0


def test_only_triangles_of_one_group_are_compared():
    tiles = np.concatenate([grid(3), grid(3), grid(3)])
    groups = np.repeat([7, 7, -2], 18)
    expected = np.stack([np.arange(18), np.arange(18) + 18], axis=1)
    assert overlapping_pairs(tiles, groups).tolist() == expected.tolist()


def test_is_invariant_to_scale_translation_and_order():
    rng = np.random.default_rng(2)
    triangles = rng.random((200, 1, 2)) + 0.1 * rng.normal(size=(200, 3, 2))
    found = overlapping_pairs(triangles)
    assert np.array_equal(overlapping_pairs(triangles * 1e-3 + 0.25), found)
    order = rng.permutation(200)
    again = np.sort(order[overlapping_pairs(triangles[order])], axis=1)
    assert np.array_equal(np.unique(again, axis=0), found)


def test_degenerate_triangles_overlap_with_nothing():
    flat = np.array([[[0.2, 0.2], [0.8, 0.8], [0.5, 0.5]], [[0.4, 0.6]] * 3])
    whole = np.array([[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
    assert overlapping_pairs(np.concatenate([whole, flat])).shape == (0, 2)
    assert overlapping_pairs(np.zeros((0, 3, 2))).shape == (0, 2)


def test_exception_of_the_check_ends_the_search():
    def stop() -> None:
        raise Cancelled("searching")

    with pytest.raises(Cancelled):
        overlapping_pairs(grid(4), check=stop)
