"""UV atlas for any triangle soup: box projection along the six axes, charts packed as rectangles.

It is deterministic, always terminates, and guarantees: all uv in 0..1, no two faces on the same
texel, charts `padding_px` apart, uniform texel density (the worst case, a face tilted by 54.7
degrees against its axis, gets 1/sqrt(3) of the texels of one perpendicular to it).
"""

from __future__ import annotations

import logging

import numpy as np

from ...imaging.packing import pack_shelves
from ...mesh import Mesh
from ...progress import SILENT, Progress
from ..adjacency import connected_components
from .overlaps import overlapping_pairs

logger = logging.getLogger(__name__)

STAGE = "packing the box atlas"
MIN_AXIS_COSINE = 1.0 / np.sqrt(3.0)
"""Minimum cosine between a face's normal and its projection axis; each normal has such an axis."""
MIN_RELATIVE_HEIGHT = 1e-7
"""A face with a smaller ratio of height to longest side is degenerate and has no normal."""
SMOOTHING_ROUNDS = 8
NEIGHBOUR_WEIGHT = 0.5
"""Weight of a neighbour's axis, relative to the cosine between normal and axis."""
NUM_ROTATIONS = 16
"""Rotations that are tried for the smallest bounding rectangle of a chart."""

# image right and up for the axes +X +Y +Z -X -Y -Z; the cross product right x up is the axis
_RIGHT = np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0]], float)
_UP = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]], float)
_AXES = np.cross(_RIGHT, _UP)


def box_atlas(
    mesh: Mesh, texture_px: int, padding_px: int, progress: Progress = SILENT
) -> tuple[np.ndarray, np.ndarray]:
    """Texture coordinates by projection along the axis closest to each face's normal.

    Neighbouring faces with the same axis form a chart; a chart that overlaps itself is split into
    depth layers. Degenerate faces share one point.

    Args:
        mesh: any triangles, closed or open, with or without shared vertices.
        texture_px: side of the texture that the charts are packed for.
        padding_px: texels between charts, half of it at the border. Reduced, with a warning, if
            there are so many charts that it alone would fill the texture.
        progress: checked for cancellation.

    Returns:
        uv (F, 3, 2) float32 per corner, origin top left, and the chart (F,) int64 of each face,
        numbered from 0 without gaps.
    """
    corners = mesh.vertices[mesh.faces].double().cpu().numpy()  # (F, 3, 3)
    faces = mesh.faces.cpu().numpy()
    normals, proper = _normals(corners)
    neighbours = _neighbours(mesh.vertices.cpu().numpy(), faces, proper)  # (E, 2)
    axis = _choose_axes(normals, neighbours)
    flat, height = _project(corners, axis)

    def check() -> None:
        progress.check(STAGE)

    single_layer = _label_components(neighbours, axis, len(faces))
    depth = 1e-6 * float(np.ptp(corners.reshape(-1, 3), axis=0).max())
    rows = np.flatnonzero(proper)
    pairs = rows[overlapping_pairs(flat[rows], single_layer[rows], depth, check)]
    layer = _depth_layers(pairs, height)
    chart = _label_components(neighbours, axis * (layer.max() + 1) + layer, len(faces))
    chart = _renumber_charts(chart, proper)
    check()
    return _pack(flat, chart, proper, texture_px, padding_px), chart


def _normals(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit normals (F, 3), zero for degenerate faces, and (F,) bool: faces that have a normal."""
    edges = np.roll(corners, -1, axis=1) - corners
    crosses = np.cross(edges[:, 0], edges[:, 1])
    doubled = np.linalg.norm(crosses, axis=1)
    longest = np.linalg.norm(edges, axis=2).max(axis=1)
    proper = doubled > MIN_RELATIVE_HEIGHT * longest**2
    normals = np.zeros_like(crosses)
    normals[proper] = crosses[proper] / doubled[proper, None]
    return normals, proper


def _neighbours(vertices: np.ndarray, faces: np.ndarray, proper: np.ndarray) -> np.ndarray:
    """(E, 2) pairs of non-degenerate faces that share an edge with no third face."""
    _, position = np.unique(vertices, axis=0, return_inverse=True)
    rows = np.flatnonzero(proper)
    welded = position.reshape(-1)[faces[rows]]
    ends = np.stack([welded, np.roll(welded, -1, axis=1)], axis=2).reshape(-1, 2)
    ends = np.sort(ends, axis=1)
    key = ends[:, 0] * len(vertices) + ends[:, 1]
    order = np.argsort(key, kind="stable")
    key = key[order]
    first = np.flatnonzero(np.r_[True, key[1:] != key[:-1]])
    pair = first[np.diff(np.r_[first, len(key)]) == 2]
    return rows[np.stack([order[pair], order[pair + 1]], axis=1) // 3]


def _choose_axes(normals: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    """(F,) index of each face's projection axis.

    Where two axes are close enough to the normal, a face takes the axis of its neighbours, which
    gives fewer charts with smoother borders.
    """
    cosine = normals @ _AXES.T  # (F, 6)
    allowed = cosine >= MIN_AXIS_COSINE - 1e-9
    allowed[np.arange(len(cosine)), cosine.argmax(axis=1)] = True
    axis = cosine.argmax(axis=1)
    a, b = neighbours.T
    for step in range(SMOOTHING_ROUNDS):
        votes = np.zeros_like(cosine)
        np.add.at(votes, (a, axis[b]), NEIGHBOUR_WEIGHT)
        np.add.at(votes, (b, axis[a]), NEIGHBOUR_WEIGHT)
        best = np.where(allowed, cosine + votes, -np.inf).argmax(axis=1)
        # update half of the faces at a time: neighbours updated together would swap their axes
        updated = (np.arange(len(axis)) + step) % 2 == 0
        axis = np.where(updated, best, axis)
    return axis


def _project(corners: np.ndarray, axis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners (F, 3, 2) projected along each face's axis, right and up, and centre heights (F,)."""
    right = np.einsum("fcx,fx->fc", corners, _RIGHT[axis])
    up = np.einsum("fcx,fx->fc", corners, _UP[axis])
    height = np.einsum("fx,fx->f", corners.mean(axis=1), _AXES[axis])
    return np.stack([right, up], axis=2), height


def _label_components(neighbours: np.ndarray, label: np.ndarray, count: int) -> np.ndarray:
    """(F,) component of each face, connected across edges between faces with equal labels."""
    same_label = label[neighbours[:, 0]] == label[neighbours[:, 1]]
    return connected_components(neighbours[same_label], count)


def _depth_layers(pairs: np.ndarray, height: np.ndarray) -> np.ndarray:
    """(F,) layer of each face, 0 on top, such that the faces of each pair are in different layers.

    Args:
        pairs: (P, 2) faces that overlap in the projection.
        height: (F,) along the projection axis.
    """
    layer = np.zeros(len(height), dtype=np.int64)
    a, b = pairs.T
    lower = np.where(height[a] < height[b], a, b)  # of equal heights, the larger index
    upper = a + b - lower
    # a lower face moves down while a face above it is in the same layer; the order is acyclic, so
    # this terminates after as many rounds as faces are stacked
    while len(conflicts := np.flatnonzero(layer[lower] == layer[upper])):
        layer[lower[conflicts]] += 1
    return layer


def _renumber_charts(chart: np.ndarray, proper: np.ndarray) -> np.ndarray:
    """(F,) charts numbered from 0 without gaps; all degenerate faces form the last one."""
    return np.unique(np.where(proper, chart, len(chart)), return_inverse=True)[1].reshape(-1)


def _pack(
    flat: np.ndarray, chart: np.ndarray, proper: np.ndarray, texture_px: int, padding_px: int
) -> np.ndarray:
    """(F, 3, 2) float32 uv of the charts, each rotated and placed, all at the same scale."""
    flat = np.where(proper[:, None, None], flat, 0.0)
    points, owner = flat.reshape(-1, 2), np.repeat(chart, 3)
    points, low, size = _rotate_charts(points, owner)
    padding = float(padding_px)
    mean_side = texture_px / np.ceil(np.sqrt(len(size)) + 1)
    if padding > 0.5 * mean_side:
        padding = 0.5 * mean_side
        logger.warning(
            "%d charts are too many for a texture of %d texels: the padding is reduced to %.2f "
            "texels from %d",
            len(size),
            texture_px,
            padding,
            padding_px,
        )
    scale, corner = _largest_packing(size, float(texture_px), padding)
    texels = (points - low[owner]) * scale + corner[owner] + padding / 2
    uv = texels / texture_px
    uv[:, 1] = 1.0 - uv[:, 1]  # v increases downwards from the top of the image
    return np.clip(uv, 0.0, 1.0).reshape(-1, 3, 2).astype(np.float32)


def _rotate_charts(
    points: np.ndarray, owner: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rotates every chart to its smallest bounding rectangle, with the longer side horizontal.

    Args:
        points: (P, 2) of all charts.
        owner: (P,) chart of each point.

    Returns:
        Rotated points (P, 2), lower left corners (C, 2) and sizes (C, 2) of the rectangles.
    """
    count = int(owner.max()) + 1
    min_area = np.full(count, np.inf)
    angle = np.zeros(count)
    for step in range(NUM_ROTATIONS):
        candidate = 0.5 * np.pi * step / NUM_ROTATIONS
        low, high = _bounds(_rotate(points, np.full(count, candidate)[owner]), owner, count)
        area = np.prod(high - low, axis=1)
        better = area < min_area * (1.0 - 1e-9)
        min_area[better], angle[better] = area[better], candidate
    low, high = _bounds(_rotate(points, angle[owner]), owner, count)
    upright = (high - low)[:, 1] > (high - low)[:, 0]
    angle[upright] -= 0.5 * np.pi
    rotated = _rotate(points, angle[owner])
    low, high = _bounds(rotated, owner, count)
    return rotated, low, high - low


def _rotate(points: np.ndarray, angle_rad: np.ndarray) -> np.ndarray:
    """(P, 2) points, each rotated counter-clockwise about the origin."""
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    x, y = points.T
    return np.stack([cos * x - sin * y, sin * x + cos * y], axis=1)


def _bounds(points: np.ndarray, owner: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Minimum and maximum coordinates, (C, 2) each, of each chart's points."""
    low, high = np.full((count, 2), np.inf), np.full((count, 2), -np.inf)
    np.minimum.at(low, owner, points)
    np.maximum.at(high, owner, points)
    return low, high


def _largest_packing(size: np.ndarray, side: float, padding: float) -> tuple[float, np.ndarray]:
    """The largest scale at which all rectangles fit into a square, by bisection.

    Args:
        size: (C, 2) widths and heights of the rectangles.
        side: side of the square.
        padding: added to width and height after scaling.

    Returns:
        The scale, and the lower left corners (C, 2) of the padded rectangles.
    """
    order = np.argsort(-size[:, 1], kind="stable")
    low, high = 0.0, side / max(float(size.max()), np.sqrt(np.prod(size, axis=1).sum()), 1e-30)
    best = _pack_square(size[order] * low + padding, side)
    for _ in range(24):
        middle = 0.5 * (low + high)
        corners = _pack_square(size[order] * middle + padding, side)
        if corners is None:
            high = middle
        else:
            low, best = middle, corners
    if best is None:
        raise AssertionError("points with padding always fit: the padding was limited for that")
    corner = np.zeros_like(best)
    corner[order] = best
    return low, corner


def _pack_square(size: np.ndarray, side: float) -> np.ndarray | None:
    """Lower left corners (C, 2) of rectangles (C, 2), tallest first; None if they do not fit."""
    if size[:, 0].max() > side:
        return None
    corners = pack_shelves(size, side)
    return corners if float((corners[:, 1] + size[:, 1]).max()) <= side else None
