"""Triangulates polygons: convex ones as fans, concave ones by ear clipping."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import numpy as np

from ...errors import InputError

MAX_BATCHED_CORNERS = 64
"""Concave polygons with at most this many corners are clipped in batches, in O(K^2) each."""
MAX_WORK = 5e7
"""Limit of point-in-triangle tests for all larger concave polygons of a mesh; about 2 s."""

_BATCH_ELEMENTS = 1 << 18
_COLLINEAR_EPS = 1e-14
"""A corner is straight if its cross product is below this fraction of twice the polygon's area."""


def triangulate(
    vertices: np.ndarray, corners: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Triangulates polygons, in their order and with their orientation.

    Convex polygons become fans from their first corner; quads are split along the inner diagonal.
    Other polygons are ear-clipped in their best-fit plane. Polygons with fewer than three corners
    are skipped, and so are triangles of larger polygons in which a vertex occurs twice.

    Args:
        vertices: (N, 3) float64.
        corners: (C,) vertex indices, polygon by polygon.
        counts: (P,) number of corners of each polygon.

    Returns:
        (T, 3) indices into `corners`, and (T,) the polygon of each triangle.

    Raises:
        InputError: polygons are so large and concave that triangulation would take too long.
    """
    counts = np.asarray(counts, dtype=np.int64)
    starts = np.cumsum(counts) - counts
    if (counts == 3).all():
        return np.arange(len(corners)).reshape(-1, 3), np.arange(len(counts))
    per_polygon = np.maximum(counts - 2, 0)
    first = np.cumsum(per_polygon) - per_polygon
    triangles = np.zeros((int(per_polygon.sum()), 3), dtype=np.int64)
    work = 0.0
    for count in np.unique(counts[counts >= 3]).tolist():
        polygons = np.flatnonzero(counts == count)
        size = max(1, _BATCH_ELEMENTS // count)
        for batch in np.array_split(polygons, -(-len(polygons) // size)):
            indices = starts[batch][:, None] + np.arange(count)  # (B, K)
            local, used = _triangulate_batch(
                vertices, corners[indices], MAX_WORK - work
            )  # (B, K - 2, 3)
            work += used
            rows = first[batch][:, None] + np.arange(count - 2)
            triangles[rows] = starts[batch][:, None, None] + local
    polygon_of = np.repeat(np.arange(len(counts)), per_polygon)
    a, b, c = corners[triangles].T
    is_valid = ((a != b) & (b != c) & (c != a)) | (counts[polygon_of] == 3)
    return triangles[is_valid], polygon_of[is_valid]


def _triangulate_batch(
    vertices: np.ndarray, indices: np.ndarray, max_work: float
) -> tuple[np.ndarray, float]:
    """(B, K - 2, 3) local corners of the triangles of polygons (B, K), and the work done."""
    count = indices.shape[1]
    fans = np.array([[0, step + 1, step + 2] for step in range(count - 2)])
    result = np.broadcast_to(fans, (len(indices), count - 2, 3)).copy()
    if count == 3:
        return result, 0.0
    points = _project_to_plane(vertices, indices)  # (B, K, 2)
    area = _cross(points, np.roll(points, -1, axis=1)).sum(axis=1)  # twice the area, >= 0
    fan_areas = _cross(points[:, 1:-1] - points[:, :1], points[:, 2:] - points[:, :1])  # (B, K - 2)
    concave = np.flatnonzero(~(fan_areas > _COLLINEAR_EPS * area[:, None]).all(axis=1) & (area > 0))
    if len(concave) == 0:
        return result, 0.0
    if count == 4:
        other = np.roll(points[concave], -1, axis=1)  # fan from corner 1: the other diagonal
        areas = _cross(other[:, 1:-1] - other[:, :1], other[:, 2:] - other[:, :1])
        better = areas.min(axis=1) > fan_areas[concave].min(axis=1)
        result[concave[better]] = [[1, 2, 3], [1, 3, 0]]
        return result, 0.0
    if count <= MAX_BATCHED_CORNERS:
        size = max(1, _BATCH_ELEMENTS // count**2)
        for batch in np.array_split(concave, -(-len(concave) // size)):
            result[batch] = _clip_ears_batched(points[batch])
        return result, 0.0
    work = 0.0
    for polygon in concave.tolist():
        result[polygon], used = _clip_ears(points[polygon], max_work - work)
        work += used
    return result, work


def _project_to_plane(vertices: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Projects polygons (B, K) to their best-fit planes: (B, K, 2) corners, counter-clockwise.

    The plane's normal is the vector area (Newell's method), which keeps the orientation.
    """
    points = vertices[indices]
    points = points - points.mean(axis=1, keepdims=True)  # precision far from the origin
    points /= np.maximum(np.abs(points).max(axis=(1, 2), keepdims=True), 1e-300)
    normal = np.cross(points, np.roll(points, -1, axis=1)).sum(axis=1)  # (B, 3)
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    normal = np.divide(normal, length, out=np.zeros_like(normal), where=length > 1e-14)
    helper = np.eye(3)[np.abs(normal).argmin(axis=1)]
    right = np.cross(helper, normal)
    right /= np.maximum(np.linalg.norm(right, axis=1, keepdims=True), 1e-300)
    axes = np.stack([right, np.cross(normal, right)], axis=2)  # (B, 3, 2)
    return points @ axes


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """z of the cross product of (..., 2) vectors."""
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _clip_ears_batched(points: np.ndarray) -> np.ndarray:
    """(B, K - 2, 3) triangles of polygons (B, K, 2), clipping the best-shaped ear first.

    A corner is an ear if it is convex and no other corner lies in or on its triangle, except at the
    triangle's own corners (holes are joined by a bridge that is traversed twice). Clipping an ear
    affects its two neighbours only. Without any ear (self-intersecting polygons), the most convex
    corner is clipped.
    """
    batch, count = points.shape[:2]
    rows = np.arange(batch)[:, None]
    flat = (
        _COLLINEAR_EPS * _cross(points, np.roll(points, -1, axis=1)).sum(axis=1)[:, None]
    )  # (B, 1)
    triangles = np.zeros((batch, count - 2, 3), dtype=np.int64)
    remaining = np.tile(np.arange(count), (batch, 1))  # (B, M) corners not yet clipped
    rank = _rank_ears(points, remaining, flat)  # (B, M)
    for step in range(count - 2):
        left = count - step
        clipped = rank.argmax(axis=1)[:, None]  # (B, 1)
        triangles[:, step] = remaining[rows, (clipped + np.array([-1, 0, 1])) % left]
        keep = np.arange(left) != clipped
        remaining = remaining[keep].reshape(batch, left - 1)
        rank = rank[keep].reshape(batch, left - 1)
        if left > 4:
            neighbours = (clipped + np.array([-1, 0])) % (left - 1)  # (B, 2)
            tips = points[rows, remaining]
            rank[rows, neighbours] = _rank_ears(tips, neighbours, flat)
    return triangles


def _rank_ears(points: np.ndarray, tips: np.ndarray, flat: np.ndarray) -> np.ndarray:
    """(B, Q) rank of clipping corners `tips` (B, Q) of polygons (B, M, 2); positive for ears.

    The rank of an ear is the ratio of its area to its squared longest side; other corners get 10
    less, which exceeds any difference of ranks.
    """
    rows = np.arange(len(points))[:, None]
    count = points.shape[1]
    tip = points[rows, tips]  # (B, Q, 2)
    before, after = points[rows, (tips - 1) % count], points[rows, (tips + 1) % count]
    cross = _cross(tip - before, after - tip)  # (B, Q)
    inside = np.ones((len(points), tips.shape[1], count), dtype=bool)
    for start, end in ((before, tip), (tip, after), (after, before)):
        offset = points[:, None] - start[:, :, None]  # (B, Q, M, 2)
        inside &= _cross((end - start)[:, :, None], offset) >= -flat[:, :, None]
        inside &= (offset[..., 0] != 0) | (offset[..., 1] != 0)
    is_ear = (cross > flat) & ~inside.any(axis=2)
    sides = np.stack([tip - before, after - tip, before - after])  # (3, B, Q, 2)
    longest = (sides**2).sum(axis=-1).max(axis=0)
    return np.where(is_ear, 0.0, -10.0) + cross / np.maximum(longest, 1e-300)


def _clip_ears(points: np.ndarray, max_work: float) -> tuple[np.ndarray, float]:
    """(K - 2, 3) triangles of one polygon (K, 2) with many corners, and the work done.

    As `_clip_ears_batched`, but clips the next ear found and tests reflex corners only: if any
    corner lies in a triangle, a reflex one does. Reflex corners are sorted by x, so that only those
    within the triangle's range are tested.

    Raises:
        InputError: the work exceeds `max_work`.
    """
    count = len(points)
    flat = _COLLINEAR_EPS * float(_cross(points, np.roll(points, -1, axis=0)).sum())
    before = np.roll(np.arange(count), 1).tolist()
    after = np.roll(np.arange(count), -1).tolist()
    xy = points.tolist()

    def signed_area(corner: int) -> float:
        (ax, ay), (bx, by), (cx, cy) = (xy[i] for i in (before[corner], corner, after[corner]))
        return (bx - ax) * (cy - by) - (by - ay) * (cx - bx)

    signed_areas = [signed_area(corner) for corner in range(count)]
    reflex = np.flatnonzero(np.array(signed_areas) <= flat)
    reflex = reflex[np.argsort(points[reflex, 0], kind="stable")]
    sorted_points = points[reflex]
    sorted_x = sorted_points[:, 0].tolist()
    is_reflex = np.ones(len(reflex), dtype=bool)
    rank_of = dict(zip(reflex.tolist(), range(count), strict=False))
    triangles, work = [], 0.0
    corner, visited, is_simple = 0, 0, True
    while len(triangles) < count - 2:
        last, following = before[corner], after[corner]
        work += 100
        is_ear = signed_areas[corner] > flat
        if is_ear and is_simple:
            xs = (xy[last][0], xy[corner][0], xy[following][0])
            low, high = bisect_left(sorted_x, min(xs)), bisect_right(sorted_x, max(xs))
            candidates = sorted_points[low:high][is_reflex[low:high]]
            work += 500 + high - low
            is_ear = not _any_inside(points[[last, corner, following]], candidates, flat)
        if work > max_work:
            raise InputError(
                f"a polygon with {count} corners is too complex to triangulate.",
                "Triangulate the mesh in a 3D editor.",
            )
        if not is_ear and visited <= count - len(triangles):
            corner, visited = following, visited + 1
            continue
        is_simple = is_simple and is_ear  # no ear is left: edges intersect, clip any corner
        triangles.append((last, corner, following))
        after[last], before[following] = following, last
        for changed in (last, following):
            signed_areas[changed] = signed_area(changed)
        for changed in (last, corner, following):
            if changed in rank_of and (changed == corner or signed_areas[changed] > flat):
                is_reflex[rank_of[changed]] = False
        corner, visited = following, 0
    return np.array(triangles), work


def _any_inside(triangle: np.ndarray, points: np.ndarray, flat: float) -> bool:
    """Whether any of the points (R, 2) lies in or on a triangle (3, 2), except at its corners."""
    if len(points) == 0:
        return False
    inside = np.ones(len(points), dtype=bool)
    for start, end in zip(triangle, triangle[[1, 2, 0]], strict=True):
        offset = points - start
        inside &= _cross(end - start, offset) >= -flat
        inside &= (offset[:, 0] != 0) | (offset[:, 1] != 0)
    return bool(inside.any())
