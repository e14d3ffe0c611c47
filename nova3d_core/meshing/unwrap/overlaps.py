"""Overlap detection for triangles in the plane: broad phase on grids, then separating axes.

Imports nothing from the package: worker.py loads this file by its path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

RELATIVE_DEPTH = 1e-6
"""Default tolerated penetration depth, relative to the bounding box of all triangles."""
PAIRS_PER_CHUNK = 1 << 20
SLAB_DIRECTIONS = 8
MAX_CELLS_PER_SIDE = 1 << 20
"""Keeps cell keys within 64 bits for up to 2^23 groups."""


def overlapping_pairs(
    triangles: np.ndarray,
    groups: np.ndarray | None = None,
    depth: float | None = None,
    check: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """All pairs of triangles of the same group whose interiors overlap.

    Degenerate triangles have no interior and overlap with nothing.

    Args:
        triangles: (F, 3, 2) float corners in the plane, in either winding.
        groups: (F,) int; only triangles of the same group are compared. None: a single group.
        depth: minimum penetration depth of an overlap, in the triangles' own units. None:
            `RELATIVE_DEPTH` times the longest side of the bounding box of all triangles.
        check: called repeatedly; an exception that it raises ends the search.

    Returns:
        (P, 2) int64 sorted pairs of indices, the smaller index first.
    """
    triangles = np.asarray(triangles, dtype=np.float64)
    if len(triangles) == 0:
        return np.zeros((0, 2), dtype=np.int64)
    if depth is None:
        depth = RELATIVE_DEPTH * float(np.ptp(triangles.reshape(-1, 2), axis=0).max())
    if groups is None:
        groups = np.zeros(len(triangles), dtype=np.int64)
    doubled = np.abs(_cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]))
    longest = np.linalg.norm(triangles - np.roll(triangles, 1, axis=1), axis=2).max(axis=1)
    kept = np.flatnonzero(doubled > depth * longest)  # the others are thinner than `depth`
    found = [np.zeros((0, 2), dtype=np.int64)]
    for near in _near_pairs(triangles[kept], np.asarray(groups)[kept]):
        check()
        pairs = kept[near]
        found.append(pairs[_overlap(triangles[pairs[:, 0]], triangles[pairs[:, 1]], depth)])
    pairs = np.sort(np.concatenate(found), axis=1)
    return np.unique(pairs, axis=0)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(...) cross products of vectors (..., 2) in the plane."""
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _overlap(first: np.ndarray, second: np.ndarray, depth: float) -> np.ndarray:
    """(P,) bool: whether triangles (P, 3, 2) overlap by more than `depth` along every edge normal.

    Separating axis test; most pairs are separated by one of the first edges.
    """
    alive = np.arange(len(first))
    for swapped in (False, True):
        for corner in range(3):
            a, b = (second, first) if swapped else (first, second)
            a, b = a[alive], b[alive]
            edge = a[:, (corner + 1) % 3] - a[:, corner]  # (P, 2)
            length = np.linalg.norm(edge, axis=1)[:, None]
            own = _cross(edge[:, None], a - a[:, corner, None]) / length  # (P, 3) heights over it
            other = _cross(edge[:, None], b - a[:, corner, None]) / length
            shared = np.minimum(own.max(1) - other.min(1), other.max(1) - own.min(1))
            alive = alive[shared > depth]
    overlap = np.zeros(len(first), dtype=bool)
    overlap[alive] = True
    return overlap


def _near_pairs(triangles: np.ndarray, groups: np.ndarray) -> Iterator[np.ndarray]:
    """Chunks of candidate pairs (P, 2) of triangles (F, 3, 2) of the same group.

    Hierarchical grid: a triangle belongs to the level whose cells are just larger than its bounding
    box, so that it covers at most four of them, and is compared with its own and all coarser
    levels. A pair may be yielded more than once.
    """
    if len(triangles) == 0:
        return
    slabs = _slabs(triangles)
    low, high = triangles.min(axis=1), triangles.max(axis=1)  # (F, 2) each
    origin = low.min(axis=0)
    extent = float((high.max(axis=0) - origin).max())
    size = np.maximum((high - low).max(axis=1), extent / MAX_CELLS_PER_SIDE)
    level = np.ceil(np.log2(size)).astype(np.int64)
    _, groups = np.unique(groups, return_inverse=True)
    for step in np.unique(level):
        cell = 2.0 ** float(step)
        queries = np.flatnonzero(level <= step)
        first = np.floor((low[queries] - origin) / cell).astype(np.int64)
        last = np.floor((high[queries] - origin) / cell).astype(np.int64)
        key, query = _covered_cells(first, last, groups[queries])
        yield from _candidate_pairs(key, queries[query], level == step, slabs)


def _slabs(triangles: np.ndarray) -> np.ndarray:
    """(SLAB_DIRECTIONS, 2, F) minimum and maximum extent along evenly spaced directions.

    Slabs separate what bounding boxes cannot: the thin neighbours of a fan.
    """
    angle = np.pi * np.arange(SLAB_DIRECTIONS) / SLAB_DIRECTIONS
    along = triangles @ np.stack([np.cos(angle), np.sin(angle)])  # (F, 3, DIRECTIONS)
    return np.stack([along.min(axis=1), along.max(axis=1)]).transpose(2, 0, 1).copy()


def _covered_cells(
    first: np.ndarray, last: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Keys of the cells that boxes cover, at most 2 x 2 each, and the boxes' indices.

    Args:
        first: (F, 2) cell of the box's minimum corner.
        last: (F, 2) cell of its maximum corner.
        groups: (F,) group index, part of the key: boxes of different groups share no cell.
    """
    width, height = last.max(axis=0) + 1
    keys, owners = [], []
    for step in ((0, 0), (0, 1), (1, 0), (1, 1)):
        cell = first + step
        covered = np.flatnonzero((cell <= last).all(axis=1))
        x, y = cell[covered].T
        keys.append((groups[covered] * height + y) * width + x)
        owners.append(covered)
    return np.concatenate(keys), np.concatenate(owners)


def _candidate_pairs(
    key: np.ndarray, query: np.ndarray, is_target: np.ndarray, slabs: np.ndarray
) -> Iterator[np.ndarray]:
    """Chunks of pairs (P, 2) of a query and a target face in one cell with overlapping slabs.

    Args:
        key: (C,) cell keys.
        query: (C,) face in each cell; a face that covers several cells is repeated.
        is_target: (F,) the target faces; every target is also a query.
        slabs: (SLAB_DIRECTIONS, 2, F).
    """
    targets = np.flatnonzero(is_target[query])
    targets = targets[np.argsort(key[targets], kind="stable")]
    target_key, target = key[targets], query[targets]
    start = np.searchsorted(target_key, key, side="left")
    count = np.searchsorted(target_key, key, side="right") - start
    total = np.cumsum(count)
    done = 0
    while done < len(query):
        before = total[done - 1] if done else 0
        stop = max(int(np.searchsorted(total, before + PAIRS_PER_CHUNK, side="right")), done + 1)
        n = count[done:stop]
        a = np.repeat(query[done:stop], n)
        offset = np.arange(len(a)) - np.repeat(np.cumsum(n) - n, n)
        b = target[np.repeat(start[done:stop], n) + offset]
        unique = (a < b) | ~is_target[a]  # two targets meet twice, and each meets itself
        a, b = a[unique], b[unique]
        for low, high in slabs:
            overlapping = (low[a] < high[b]) & (low[b] < high[a])
            a, b = a[overlapping], b[overlapping]
        yield np.stack([a, b], axis=1)
        done = stop
