"""Which triangles of a plane overlap: an exact test of all pairs that come near each other.

It imports nothing of the package: worker.py loads it by its path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

RELATIVE_DEPTH = 1e-6
"""How deep two triangles may reach into each other, as a part of the whole image's side."""
PAIRS_PER_CHUNK = 1 << 20
SLAB_DIRECTIONS = 8
MAX_CELLS_PER_SIDE = 1 << 20
"""Most cells along a side; it keeps the cells' keys within 64 bits for up to 2^23 groups."""


def overlapping_pairs(
    triangles: np.ndarray,
    groups: np.ndarray | None = None,
    depth: float | None = None,
    check: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """All pairs of triangles of the same group whose insides overlap.

    Triangles without area have no inside; they are in no pair.

    Args:
        triangles: (F, 3, 2) float corners in the plane, in either winding.
        groups: (F,) int; only triangles of one group are compared. None: all are one group.
        depth: a pair counts when no line parts the two by less than this, in the triangles' own
            units. None: `RELATIVE_DEPTH` times the longest side of the box around all triangles.
        check: called now and then; what it raises ends the search.

    Returns:
        (P, 2) int64 indices, the smaller first, sorted.
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
    kept = np.flatnonzero(doubled > depth * longest)  # the others are thinner than the rounding
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
    """(P,) bool: whether triangles (P, 3, 2) overlap deeper than `depth` across every edge."""
    alive = np.arange(len(first))  # most pairs are parted by the first edges: they leave early
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
    """Pairs (P, 2) of triangles (F, 3, 2) of one group that come near each other, in pieces.

    Every triangle belongs to the grid whose cells are just larger than its box, so that it covers
    at most four of them. It is compared with what belongs to its own grid and to all coarser ones.
    A pair may come more than once.
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
        guests = np.flatnonzero(level <= step)
        first = np.floor((low[guests] - origin) / cell).astype(np.int64)
        last = np.floor((high[guests] - origin) / cell).astype(np.int64)
        key, guest = _covered_cells(first, last, groups[guests])
        yield from _joined(key, guests[guest], level == step, slabs)


def _slabs(triangles: np.ndarray) -> np.ndarray:
    """(DIRECTIONS, 2, F) least and largest extent along evenly spread directions.

    They part what boxes cannot: the thin neighbours of a fan.
    """
    angle = np.pi * np.arange(SLAB_DIRECTIONS) / SLAB_DIRECTIONS
    along = triangles @ np.stack([np.cos(angle), np.sin(angle)])  # (F, 3, DIRECTIONS)
    return np.stack([along.min(axis=1), along.max(axis=1)]).transpose(2, 0, 1).copy()


def _covered_cells(
    first: np.ndarray, last: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Keys of the cells that boxes cover, at most two by two each, and the boxes' indices.

    Args:
        first: (F, 2) cell of the box's least corner.
        last: (F, 2) cell of its largest corner.
        groups: (F,) part of the key: boxes of different groups never meet.
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


def _joined(
    key: np.ndarray, guest: np.ndarray, is_host: np.ndarray, slabs: np.ndarray
) -> Iterator[np.ndarray]:
    """Pairs (P, 2) of a guest and a host in one cell that no slab parts.

    Args:
        key: (C,) cells.
        guest: (C,) face in each cell; a face in several cells comes several times.
        is_host: (F,) which faces are hosts; every host is a guest too.
        slabs: (DIRECTIONS, 2, F).
    """
    hosts = np.flatnonzero(is_host[guest])
    hosts = hosts[np.argsort(key[hosts], kind="stable")]
    host_key, host = key[hosts], guest[hosts]
    start = np.searchsorted(host_key, key, side="left")
    count = np.searchsorted(host_key, key, side="right") - start
    total = np.cumsum(count)
    done = 0
    while done < len(guest):
        before = total[done - 1] if done else 0
        stop = max(int(np.searchsorted(total, before + PAIRS_PER_CHUNK, side="right")), done + 1)
        n = count[done:stop]
        a = np.repeat(guest[done:stop], n)
        offset = np.arange(len(a)) - np.repeat(np.cumsum(n) - n, n)
        b = host[np.repeat(start[done:stop], n) + offset]
        new = (a < b) | ~is_host[a]  # two hosts meet twice, and each meets itself
        a, b = a[new], b[new]
        for least, most in slabs:
            meeting = (least[a] < most[b]) & (least[b] < most[a])
            a, b = a[meeting], b[meeting]
        yield np.stack([a, b], axis=1)
        done = stop
