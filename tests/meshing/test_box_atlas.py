"""The guarantees of the box atlas, for solids, self-overlapping strips and triangle soups."""

from __future__ import annotations

import logging
import time

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from nova3d_core.errors import Cancelled
from nova3d_core.mesh import Mesh
from nova3d_core.meshing.unwrap.box_atlas import _pack_square, box_atlas
from nova3d_core.progress import Progress
from nova3d_core.rendering.raycast import RayCaster

SIDE = 512
PADDING = 4


def as_mesh(vertices, faces) -> Mesh:
    return Mesh(
        torch.as_tensor(np.asarray(vertices), dtype=torch.float32),
        torch.as_tensor(np.asarray(faces), dtype=torch.int64),
    )


def bumpy_ball(subdivisions: int = 4, height: float = 0.15, noise: float = 0.0) -> Mesh:
    import trimesh

    ball = trimesh.creation.icosphere(subdivisions=subdivisions, radius=0.4)
    v = ball.vertices
    rng = np.random.default_rng(0)
    bumps = 1.0 + height * np.sin(14 * v[:, :1]) * np.sin(11 * v[:, 1:2] + 1)
    return as_mesh(v * (bumps + noise * rng.normal(size=(len(v), 1))), ball.faces)


def helix(turns: int = 3, steps: int = 48) -> Mesh:
    """A helical ramp around the Y axis with `turns` turns, one connected strip."""
    count = turns * steps + 1
    angle = 2 * np.pi * np.arange(count) / steps
    ring = np.stack([np.cos(angle), np.zeros(count), np.sin(angle)], axis=1)
    rise = np.array([0.0, 1.0, 0.0]) * (0.15 * np.arange(count)[:, None] / steps)
    vertices = np.concatenate([0.25 * ring + rise, 0.45 * ring + rise])
    i = np.arange(count - 1)
    faces = np.concatenate(
        [np.stack([i, i + 1, i + count], 1), np.stack([i + 1, i + count + 1, i + count], 1)]
    )
    return as_mesh(vertices, faces)


def soup(count: int = 2000) -> Mesh:
    rng = np.random.default_rng(3)
    sizes = 10.0 ** rng.uniform(-2.5, -0.7, size=(count, 1, 1))
    corners = rng.uniform(-0.5, 0.5, size=(count, 1, 3)) + sizes * rng.normal(size=(count, 3, 3))
    return as_mesh(corners.reshape(-1, 3), np.arange(3 * count).reshape(-1, 3))


def folded() -> Mesh:
    """A ball with an inverted copy on the same vertices, and fins on every tenth edge."""
    ball = bumpy_ball(3)
    faces = ball.faces.numpy()
    fins = faces[::10].copy()
    tips = ball.vertices.numpy()[fins].mean(axis=1) * 1.3
    fins[:, 2] = len(ball.vertices) + np.arange(len(fins))
    vertices = np.concatenate([ball.vertices.numpy(), tips])
    return as_mesh(vertices, np.concatenate([faces, faces[:, ::-1], fins]))


def signed_areas(uv: np.ndarray) -> np.ndarray:
    """(F,) signed areas in the image, where v increases downwards; counter-clockwise: positive."""
    a, b = (uv[:, 1] - uv[:, 0]).astype(float), (uv[:, 2] - uv[:, 0]).astype(float)
    return 0.5 * (a[:, 1] * b[:, 0] - a[:, 0] * b[:, 1])


def doubly_covered(uv: np.ndarray, points: int = 150_000) -> int:
    """Number of random points of the image that are inside two faces.

    Each face has its own height: rays from above and from below must hit the same face.
    """
    level = np.arange(len(uv), dtype=np.float32) / len(uv)
    corners = np.concatenate([uv, np.repeat(level, 3).reshape(-1, 3, 1)], axis=2)
    caster = RayCaster(corners.reshape(-1, 3), np.arange(3 * len(uv)).reshape(-1, 3))
    points_2d = np.random.default_rng(5).random((points, 2))
    down = np.tile([0.0, 0.0, -1.0], (points, 1))
    above = caster.first_hits(np.c_[points_2d, np.full(points, 2.0)], down)
    below = caster.first_hits(np.c_[points_2d, np.full(points, -1.0)], -down)
    inside = (above.barycentric.min(axis=1) > 1e-3) & (below.barycentric.min(axis=1) > 1e-3)
    assert above.hit.any()
    return int((inside & (above.face != below.face)).sum())


def min_gap_px(uv: np.ndarray, chart: np.ndarray, side: int) -> float:
    """Minimum distance in texels between edges of different charts, sampled every half texel."""
    corners = uv.astype(float) * side
    ends = np.roll(corners, -1, axis=1)
    t = np.linspace(0, 1, 1 + int(2 * np.linalg.norm(ends - corners, axis=2).max()))
    points = corners[:, :, None] + (ends - corners)[:, :, None] * t[:, None]
    points = points.reshape(-1, 2)
    owner = np.repeat(chart, 3 * len(t))
    _, unique = np.unique(np.c_[np.round(points, 1), owner], axis=0, return_index=True)
    points, owner = points[unique], owner[unique]
    trees = {c: cKDTree(points[owner == c]) for c in np.unique(owner)}
    return min(
        tree.query(points[owner != c])[0].min() for c, tree in trees.items() if (owner != c).any()
    )


def assert_guarantees(mesh: Mesh, uv: np.ndarray, chart: np.ndarray) -> None:
    """Holds for any mesh: uv in range, no overlap, no mirroring, density uniform within sqrt 3."""
    count = len(mesh.faces)
    assert uv.shape == (count, 3, 2)
    assert uv.dtype == np.float32
    assert np.isfinite(uv).all()
    assert uv.min() >= 0.0
    assert uv.max() <= 1.0
    assert chart.shape == (count,)
    assert np.array_equal(np.unique(chart), np.arange(chart.max() + 1))
    assert doubly_covered(uv) == 0
    flat, solid = signed_areas(uv), mesh.face_areas.double().numpy()
    assert flat.min() > -1e-9
    large = solid > 1e-4 * solid.max()
    density = flat[large] / solid[large]
    assert density.max() / density.min() < np.sqrt(3) * 1.02


def test_cube_becomes_six_equal_squares():
    import trimesh

    cube = trimesh.creation.box((1, 1, 1))
    uv, chart = box_atlas(as_mesh(cube.vertices, cube.faces), SIDE, PADDING)
    assert np.bincount(chart).tolist() == [2] * 6
    normals = cube.face_normals.round()
    for index in range(6):
        assert np.unique(normals[chart == index], axis=0).shape == (1, 3)
        corners = uv[chart == index].reshape(-1, 2)
        width, height = np.ptp(corners, axis=0)
        assert width == pytest.approx(height, abs=1e-6)
        assert signed_areas(uv)[chart == index].sum() == pytest.approx(width * height, rel=1e-5)
    # three squares per row, two rows: the width determines the scale
    assert width * SIDE == pytest.approx(SIDE / 3 - PADDING, abs=1e-3)


@pytest.mark.parametrize(
    "make", [bumpy_ball, helix, soup, folded], ids=["ball", "helix", "soup", "folded"]
)
def test_guarantees_hold_for_any_mesh(make):
    mesh = make()
    assert_guarantees(mesh, *box_atlas(mesh, SIDE, 1))


def test_charts_have_padding_also_across_opposite_borders():
    mesh = bumpy_ball(3)
    uv, chart = box_atlas(mesh, SIDE, PADDING)
    assert chart.max() >= 5
    assert min_gap_px(uv, chart, SIDE) >= PADDING - 1e-3
    assert uv.min() * SIDE >= PADDING / 2 - 1e-3
    assert uv.max() * SIDE <= SIDE - PADDING / 2 + 1e-3


def test_helix_is_split_by_depth_into_one_chart_per_turn():
    mesh = helix(turns=3)
    assert (mesh.face_normals[:, 1].abs() > 0.9).all()  # all faces have the same projection axis
    _, chart = box_atlas(mesh, SIDE, PADDING)
    assert 3 <= chart.max() + 1 <= 4
    assert np.bincount(chart).max() <= 2 * 48 + 2


def test_charts_are_connected_and_few():
    ball = bumpy_ball(4, height=0.0)
    _, chart = box_atlas(ball, SIDE, PADDING)
    assert chart.max() + 1 == 6
    faces = ball.faces.numpy()
    for index in range(6):
        own = faces[chart == index]
        edges = np.sort(np.stack([own, np.roll(own, -1, axis=1)], axis=2).reshape(-1, 2), axis=1)
        unique = np.unique(edges, axis=0)
        assert len(np.unique(own)) - len(unique) + len(own) == 1  # Euler: a disc


def test_degenerate_faces_share_a_point_and_change_no_chart():
    ball = bumpy_ball(3)
    plain_uv, plain_chart = box_atlas(ball, SIDE, PADDING)
    v, f = ball.vertices.numpy(), ball.faces.numpy()
    degenerate = np.array([[0, 0, 0], [1, 2, 2], [3, 4, 3], [5, 6, len(v)]])  # last: collinear
    mesh = as_mesh(np.concatenate([v, [(v[5] + v[6]) / 2]]), np.concatenate([f, degenerate]))
    uv, chart = box_atlas(mesh, SIDE, PADDING)
    assert_guarantees(mesh, uv, chart)
    assert chart[-4:].tolist() == [chart.max()] * 4
    assert len(np.unique(uv[-4:].reshape(-1, 2), axis=0)) == 1
    assert np.array_equal(chart[:-4], plain_chart)
    # one more point needs a little space: everything else shrinks uniformly, if at all
    assert signed_areas(uv).sum() == pytest.approx(signed_areas(plain_uv).sum(), rel=0.05)


def test_mesh_without_area_gets_finite_uv():
    uv, chart = box_atlas(as_mesh(np.ones((3, 3)), [[0, 1, 2], [0, 0, 1]]), SIDE, PADDING)
    assert np.isfinite(uv).all()
    assert chart.tolist() == [0, 0]


def test_is_invariant_to_scale():
    ball = bumpy_ball(3)
    uv, chart = box_atlas(ball, SIDE, PADDING)
    far = as_mesh(ball.vertices.numpy() * 64.0, ball.faces)
    far_uv, far_chart = box_atlas(far, SIDE, PADDING)
    assert np.array_equal(far_chart, chart)
    np.testing.assert_allclose(far_uv, uv, atol=1e-5)


def test_is_deterministic():
    first, again = (box_atlas(bumpy_ball(4, noise=0.02), SIDE, PADDING) for _ in range(2))
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])


def test_reduces_the_padding_for_too_many_charts_with_a_warning(caplog):
    mesh = soup(5000)
    with caplog.at_level(logging.WARNING):
        uv, chart = box_atlas(mesh, 128, 8)
    assert "5000 charts are too many for a texture of 128 texels" in caplog.text
    assert len(np.unique(chart)) == 5000
    assert signed_areas(uv).sum() > 0
    assert doubly_covered(uv) == 0


def test_forty_thousand_faces_take_less_than_three_seconds():
    mesh = bumpy_ball(6)
    half = Mesh(mesh.vertices, mesh.faces[: len(mesh.faces) // 2])  # 40960 faces
    start = time.perf_counter()
    box_atlas(half, 1024, PADDING)
    assert time.perf_counter() - start < 3.0


def test_can_be_cancelled():
    with pytest.raises(Cancelled):
        box_atlas(bumpy_ball(2), SIDE, PADDING, Progress(is_cancelled=lambda: True))


@pytest.mark.parametrize("size", [(1.1, 0.5), (0.5, 1.1)], ids=["width", "height"])
def test_rectangles_larger_than_the_square_do_not_fit(size):
    assert _pack_square(np.array([size]), 1.2) is not None
    assert _pack_square(np.array([size]), 1.0) is None
