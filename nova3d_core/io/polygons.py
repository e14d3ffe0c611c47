"""Cuts polygons into triangles: convex ones as fans, concave ones by ear clipping."""

from __future__ import annotations

import numpy as np

from ..errors import InputError

BATCHED_CORNERS = 24
"""Polygons with at most this many corners are clipped many at a time, in O(K^3) each."""
MAX_WORK = 3e8
"""Upper bound of the work on concave polygons of more corners, about 4 s: see `_clip_ears`."""

_BATCH_ELEMENTS = 1 << 18
_FLAT = 1e-14
"""A corner is straight if its cross product is below this part of the polygon's doubled area."""


def triangulate(
    vertices: np.ndarray, corners: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Triangles of polygons, in the order of the polygons and with their orientation.

    Convex polygons become fans from their first corner; quads are cut along the diagonal that lies
    inside. Other polygons are cut in their best-fit plane by ear clipping. Polygons with
    fewer than three corners give nothing; nor do triangles of larger polygons in which a vertex
    occurs twice.

    Args:
        vertices: (N, 3) float64.
        corners: (C,) vertex indices of all polygons, one polygon after another.
        counts: (P,) how many corners each polygon has.

    Returns:
        (T, 3) places in `corners`, and (T,) the polygon of each triangle.

    Raises:
        InputError: polygons are so large and concave that cutting them would take too long.
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
            places = starts[batch][:, None] + np.arange(count)  # (B, K)
            local, used = _cut(vertices, corners[places], MAX_WORK - work)  # (B, K - 2, 3)
            work += used
            cut = starts[batch][:, None, None] + local
            triangles[first[batch][:, None] + np.arange(count - 2)] = cut
    polygon_of = np.repeat(np.arange(len(counts)), per_polygon)
    a, b, c = corners[triangles].T
    proper = ((a != b) & (b != c) & (c != a)) | (counts[polygon_of] == 3)
    return triangles[proper], polygon_of[proper]


def _cut(vertices: np.ndarray, indices: np.ndarray, max_work: float) -> tuple[np.ndarray, float]:
    """(B, K - 2, 3) local corners of the triangles of polygons (B, K), and the work it took."""
    count = indices.shape[1]
    fans = np.array([[0, step + 1, step + 2] for step in range(count - 2)])
    result = np.broadcast_to(fans, (len(indices), count - 2, 3)).copy()
    if count == 3:
        return result, 0.0
    points = _flattened(vertices, indices)  # (B, K, 2)
    area = _cross(points, np.roll(points, -1, axis=1)).sum(axis=1)  # doubled, not negative
    fan_areas = _cross(points[:, 1:-1] - points[:, :1], points[:, 2:] - points[:, :1])  # (B, K - 2)
    bad = np.flatnonzero(~(fan_areas > _FLAT * area[:, None]).all(axis=1) & (area > 0))
    if len(bad) == 0:
        return result, 0.0
    if count == 4:
        other = np.roll(points[bad], -1, axis=1)  # seen from corner 1: the other diagonal
        areas = _cross(other[:, 1:-1] - other[:, :1], other[:, 2:] - other[:, :1])
        better = areas.min(axis=1) > fan_areas[bad].min(axis=1)
        result[bad[better]] = [[1, 2, 3], [1, 3, 0]]
        return result, 0.0
    if count <= BATCHED_CORNERS:
        size = max(1, _BATCH_ELEMENTS // count**2)
        for batch in np.array_split(bad, -(-len(bad) // size)):
            result[batch] = _clip_ears_batched(points[batch])
        return result, 0.0
    work = 0.0
    for polygon in bad.tolist():
        result[polygon], used = _clip_ears(points[polygon], max_work - work)
        work += used
    return result, work


def _flattened(vertices: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """(B, K, 2) corners of polygons (B, K) in their best-fit planes, counter-clockwise.

    The plane's normal is the vector area (Newell), so that the polygon's orientation is kept.
    """
    points = vertices[indices]
    points = points - points.mean(axis=1, keepdims=True)  # far from the origin, digits are lost
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
    """(B, K - 2, 3) triangles of polygons (B, K, 2); of all ears the best shaped is clipped first.

    A corner is an ear if it is convex and no other corner lies in its triangle, save at the
    triangle's own corners (polygons with holes come with a bridge that is passed twice).
    Without any ear, which only crossing edges bring about, the most convex corner goes.
    """
    batch, count = points.shape[:2]
    rows = np.arange(batch)[:, None]
    remaining = np.tile(np.arange(count), (batch, 1))  # (B, M) corners not yet clipped
    area = _cross(points, np.roll(points, -1, axis=1)).sum(axis=1)[:, None]
    triangles = np.zeros((batch, count - 2, 3), dtype=np.int64)
    for step in range(count - 2):
        tip = points[rows, remaining]  # (B, M, 2)
        before, after = np.roll(tip, 1, axis=1), np.roll(tip, -1, axis=1)
        cross = _cross(tip - before, after - tip)  # (B, M)
        other = tip[:, None]  # (B, 1, M, 2) against the triangles (B, M, 1, 2)
        inside = np.ones((batch, tip.shape[1], tip.shape[1]), dtype=bool)
        for start, end in ((before, tip), (tip, after), (after, before)):
            edge = (end - start)[:, :, None]
            inside &= _cross(edge, other - start[:, :, None]) >= 0
            inside &= (other != start[:, :, None]).any(axis=-1)
        ear = (cross > _FLAT * area) & ~inside.any(axis=2)
        longest = np.maximum(((after - before) ** 2).sum(-1), ((tip - before) ** 2).sum(-1))
        longest = np.maximum(longest, ((after - tip) ** 2).sum(-1))
        shape = cross / np.maximum(longest, 1e-300)
        shape = np.where(ear | ~ear.any(axis=1, keepdims=True), shape, -np.inf)
        clipped = shape.argmax(axis=1)  # (B,)
        left = remaining.shape[1]
        neighbours = (clipped[:, None] + np.array([-1, 0, 1])) % left
        triangles[:, step] = remaining[rows, neighbours]
        keep = np.arange(left) != clipped[:, None]
        remaining = remaining[keep].reshape(batch, left - 1)
    return triangles


def _clip_ears(points: np.ndarray, max_work: float) -> tuple[np.ndarray, float]:
    """(K - 2, 3) triangles of one polygon (K, 2) with many corners, and the work that it took.

    Ears as in `_clip_ears_batched`, but the next one that is found is clipped, and only reflex
    corners are tested: if any corner lies in a triangle, a reflex one does. Work is counted in
    tests of a point, a look at a corner as 1000 of them.

    Raises:
        InputError: the work exceeds `max_work`.
    """
    count = len(points)
    area = float(_cross(points, np.roll(points, -1, axis=0)).sum())
    before = np.roll(np.arange(count), 1).tolist()
    after = np.roll(np.arange(count), -1).tolist()
    places = points.tolist()

    def turn(corner: int) -> float:
        (ax, ay), (bx, by), (cx, cy) = (places[i] for i in (before[corner], corner, after[corner]))
        return (bx - ax) * (cy - by) - (by - ay) * (cx - bx)

    turns = [turn(corner) for corner in range(count)]
    reflex = np.flatnonzero(np.array(turns) <= _FLAT * area)
    triangles, work = [], 0.0
    corner, visited, strict = 0, 0, True
    while len(triangles) < count - 2:
        work += 1000 + len(reflex)
        if work > max_work:
            raise InputError(
                f"a polygon with {count} corners is too complex to be cut into triangles.",
                "Triangulate the mesh in a 3D editor.",
            )
        last, following = before[corner], after[corner]
        ear = not strict or (
            turns[corner] > _FLAT * area
            and not _any_inside(points[[last, corner, following]], points[reflex])
        )
        if not ear:
            corner, visited = following, visited + 1
            strict = visited <= count - len(triangles)
            continue
        triangles.append((last, corner, following))
        after[last], before[following] = following, last
        gone = {corner}
        for neighbour in (last, following):
            turns[neighbour] = turn(neighbour)
            if turns[neighbour] > _FLAT * area:
                gone.add(neighbour)
        reflex = reflex[~np.isin(reflex, list(gone))]
        corner, visited, strict = following, 0, True
    return np.array(triangles), work


def _any_inside(triangle: np.ndarray, points: np.ndarray) -> bool:
    """Whether any of the points (R, 2) lies in or on a triangle (3, 2), save at its corners."""
    inside = np.ones(len(points), dtype=bool)
    for start, end in zip(triangle, np.roll(triangle, -1, axis=0), strict=True):
        offset = points - start
        inside &= _cross(end - start, offset) >= 0
        inside &= offset.any(axis=1)
    return bool(inside.any())
