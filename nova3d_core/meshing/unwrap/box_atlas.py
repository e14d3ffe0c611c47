"""An atlas for any triangle soup: charts seen along the six axes, packed as rectangles.

It always ends, gives the same answer for the same mesh, and promises: all uv in 0..1, no two faces
on the same texel, charts `padding_px` apart, one texel density (a face leaning 54.7 degrees away
from its axis, the worst case, gets 1/sqrt(3) of the texels of one that faces it).
"""

from __future__ import annotations

import logging

import numpy as np

from ...mesh import Mesh
from ...progress import SILENT, Progress
from .overlaps import overlapping_pairs

logger = logging.getLogger(__name__)

STAGE = "packing the box atlas"
MIN_AXIS_COSINE = 1.0 / np.sqrt(3.0)
"""A face always has an axis this close to its normal; none farther away is used."""
MIN_RELATIVE_HEIGHT = 1e-7
"""A face whose height is below this part of its longest side has no area and no normal."""
SMOOTHING_ROUNDS = 8
NEIGHBOUR_WEIGHT = 0.5
"""How much a neighbour's axis counts, against the cosine between normal and axis."""
NUM_ROTATIONS = 16
"""Directions tried for the smallest rectangle around a chart."""

# Right and up of the image for the axes +X +Y +Z -X -Y -Z: right x up is the axis itself.
_RIGHT = np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0]], float)
_UP = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]], float)
_AXES = np.cross(_RIGHT, _UP)


def box_atlas(
    mesh: Mesh, texture_px: int, padding_px: int, progress: Progress = SILENT
) -> tuple[np.ndarray, np.ndarray]:
    """Texture coordinates that need no parametrisation: projections along the nearest axis.

    Neighbouring faces with the same axis form a chart; where a chart covers itself it is cut by
    depth. Faces without area share one point.

    Args:
        mesh: any triangles, closed or not, welded or not.
        texture_px: side of the texture that the charts are packed for.
        padding_px: texels between charts, and half of it at the border. It shrinks, with a
            warning, where the charts are so many that it alone would fill the texture.
        progress: asked for a cancel now and then.

    Returns:
        uv (F, 3, 2) float32 per corner, origin top left, and the chart (F,) int64 of each face,
        counted from 0 without gaps.
    """
    corners = mesh.vertices[mesh.faces].double().cpu().numpy()  # (F, 3, 3)
    faces = mesh.faces.cpu().numpy()
    normals, proper = _normals(corners)
    neighbours = _neighbours(mesh.vertices.cpu().numpy(), faces, proper)  # (E, 2)
    axis = _axes(normals, neighbours)
    flat, height = _projected(corners, axis)

    def check() -> None:
        progress.check(STAGE)

    rough = _connected(neighbours, axis, len(faces))
    depth = 1e-6 * float(np.ptp(corners.reshape(-1, 3), axis=0).max())
    rows = np.flatnonzero(proper)
    pairs = rows[overlapping_pairs(flat[rows], rough[rows], depth, check)]
    layer = _layers(pairs, height)
    chart = _connected(neighbours, axis * (layer.max() + 1) + layer, len(faces))
    chart = _numbered(chart, proper)
    check()
    return _packed(flat, chart, proper, texture_px, padding_px), chart


def _normals(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit normals (F, 3) and which faces have one (F,); the others get the zero vector."""
    edges = np.roll(corners, -1, axis=1) - corners
    crosses = np.cross(edges[:, 0], edges[:, 1])
    doubled = np.linalg.norm(crosses, axis=1)
    longest = np.linalg.norm(edges, axis=2).max(axis=1)
    proper = doubled > MIN_RELATIVE_HEIGHT * longest**2
    normals = np.zeros_like(crosses)
    normals[proper] = crosses[proper] / doubled[proper, None]
    return normals, proper


def _neighbours(vertices: np.ndarray, faces: np.ndarray, proper: np.ndarray) -> np.ndarray:
    """(E, 2) pairs of faces with area that share an edge which no third face has."""
    _, place = np.unique(vertices, axis=0, return_inverse=True)
    rows = np.flatnonzero(proper)
    welded = place.reshape(-1)[faces[rows]]
    ends = np.stack([welded, np.roll(welded, -1, axis=1)], axis=2).reshape(-1, 2)
    ends = np.sort(ends, axis=1)
    key = ends[:, 0] * len(vertices) + ends[:, 1]
    order = np.argsort(key, kind="stable")
    key = key[order]
    first = np.flatnonzero(np.r_[True, key[1:] != key[:-1]])
    pair = first[np.diff(np.r_[first, len(key)]) == 2]
    return rows[np.stack([order[pair], order[pair + 1]], axis=1) // 3]


def _axes(normals: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    """(F,) index of the axis that each face is seen along.

    Where two axes are close enough to the normal, the face takes its neighbours' axis: charts get
    smooth borders and are fewer.
    """
    cosine = normals @ _AXES.T  # (F, 6)
    allowed = cosine >= MIN_AXIS_COSINE - 1e-9
    allowed[np.arange(len(cosine)), cosine.argmax(axis=1)] = True
    axis = cosine.argmax(axis=1)
    a, b = neighbours.T
    for turn in range(SMOOTHING_ROUNDS):
        votes = np.zeros_like(cosine)
        np.add.at(votes, (a, axis[b]), NEIGHBOUR_WEIGHT)
        np.add.at(votes, (b, axis[a]), NEIGHBOUR_WEIGHT)
        wished = np.where(allowed, cosine + votes, -np.inf).argmax(axis=1)
        # Half of the faces at a time: two neighbours that both change would only swap.
        moving = (np.arange(len(axis)) + turn) % 2 == 0
        axis = np.where(moving, wished, axis)
    return axis


def _projected(corners: np.ndarray, axis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners (F, 3, 2) as seen along each face's axis, right and up, and centre heights (F,)."""
    right = np.einsum("fcx,fx->fc", corners, _RIGHT[axis])
    up = np.einsum("fcx,fx->fc", corners, _UP[axis])
    height = np.einsum("fx,fx->f", corners.mean(axis=1), _AXES[axis])
    return np.stack([right, up], axis=2), height


def _connected(neighbours: np.ndarray, label: np.ndarray, count: int) -> np.ndarray:
    """(F,) component of each face, joined across edges between equal labels."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    a, b = neighbours[label[neighbours[:, 0]] == label[neighbours[:, 1]]].T
    graph = coo_array((np.ones(len(a), dtype=np.int8), (a, b)), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _layers(pairs: np.ndarray, height: np.ndarray) -> np.ndarray:
    """(F,) layer of each face, 0 on top, so that no two faces of a pair are in the same one.

    Args:
        pairs: (P, 2) faces that cover each other.
        height: (F,) along the axis they are seen from.
    """
    layer = np.zeros(len(height), dtype=np.int64)
    a, b = pairs.T
    lower = np.where(height[a] < height[b], a, b)  # of equal heights, the one that comes later
    upper = a + b - lower
    # A lower face steps down as long as one above it is level with it; the order has no circles,
    # so this ends, after as many rounds as faces lie on top of each other.
    while len(level := np.flatnonzero(layer[lower] == layer[upper])):
        layer[lower[level]] += 1
    return layer


def _numbered(chart: np.ndarray, proper: np.ndarray) -> np.ndarray:
    """(F,) charts counted from 0 without gaps; all faces without area form the last one."""
    return np.unique(np.where(proper, chart, len(chart)), return_inverse=True)[1].reshape(-1)


def _packed(
    flat: np.ndarray, chart: np.ndarray, proper: np.ndarray, texture_px: int, padding_px: int
) -> np.ndarray:
    """(F, 3, 2) float32 uv of the charts, each turned, placed and scaled alike."""
    flat = np.where(proper[:, None, None], flat, 0.0)
    points, owner = flat.reshape(-1, 2), np.repeat(chart, 3)
    points, low, size = _turned(points, owner)
    padding = float(padding_px)
    most = texture_px / np.ceil(np.sqrt(len(size)) + 1)
    if padding > 0.5 * most:
        padding = 0.5 * most
        logger.warning(
            "%d charts are too many for a texture of %d texels: their padding is %.2f texels "
            "instead of %d",
            len(size),
            texture_px,
            padding,
            padding_px,
        )
    scale, place = _largest_packing(size, float(texture_px), padding)
    texels = (points - low[owner]) * scale + place[owner] + padding / 2
    uv = texels / texture_px
    uv[:, 1] = 1.0 - uv[:, 1]  # v grows downwards from the top of the image
    return np.clip(uv, 0.0, 1.0).reshape(-1, 3, 2).astype(np.float32)


def _turned(points: np.ndarray, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every chart turned to the smallest rectangle, its longer side to the right.

    Args:
        points: (P, 2) of all charts.
        owner: (P,) chart of each point.

    Returns:
        Turned points (P, 2), the lower left corner (C, 2) and the size (C, 2) of each rectangle.
    """
    count = int(owner.max()) + 1
    least = np.full(count, np.inf)
    angle = np.zeros(count)
    for turn in range(NUM_ROTATIONS):
        tried = 0.5 * np.pi * turn / NUM_ROTATIONS
        low, high = _boxes(_rotated(points, np.full(count, tried)[owner]), owner, count)
        area = np.prod(high - low, axis=1)
        better = area < least * (1.0 - 1e-9)
        least[better], angle[better] = area[better], tried
    low, high = _boxes(_rotated(points, angle[owner]), owner, count)
    upright = (high - low)[:, 1] > (high - low)[:, 0]
    angle[upright] -= 0.5 * np.pi
    turned = _rotated(points, angle[owner])
    low, high = _boxes(turned, owner, count)
    return turned, low, high - low


def _rotated(points: np.ndarray, angle_rad: np.ndarray) -> np.ndarray:
    """(P, 2) points, each turned counter-clockwise about the origin."""
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    x, y = points.T
    return np.stack([cos * x - sin * y, sin * x + cos * y], axis=1)


def _boxes(points: np.ndarray, owner: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest coordinates (C, 2) each of every owner's points."""
    low, high = np.full((count, 2), np.inf), np.full((count, 2), -np.inf)
    np.minimum.at(low, owner, points)
    np.maximum.at(high, owner, points)
    return low, high


def _largest_packing(size: np.ndarray, side: float, padding: float) -> tuple[float, np.ndarray]:
    """The largest scale at which all rectangles fit into a square, found by bisection.

    Args:
        size: (C, 2) width and height of the rectangles.
        side: of the square.
        padding: added to width and height after scaling.

    Returns:
        The scale, and the lower left corner (C, 2) of each padded rectangle.
    """
    order = np.argsort(-size[:, 1], kind="stable")
    low, high = 0.0, side / max(float(size.max()), np.sqrt(np.prod(size, axis=1).sum()), 1e-30)
    best = _shelves(size[order] * low + padding, side)
    for _ in range(24):
        middle = 0.5 * (low + high)
        places = _shelves(size[order] * middle + padding, side)
        if places is None:
            high = middle
        else:
            low, best = middle, places
    if best is None:
        raise AssertionError("padded points must fit: the padding was limited for that")
    place = np.zeros_like(best)
    place[order] = best
    return low, place


def _shelves(size: np.ndarray, side: float) -> np.ndarray | None:
    """Rectangles (C, 2), tallest first, in rows from the bottom of a square.

    Returns:
        Their lower left corners (C, 2), or None where the square is too small.
    """
    width, height = size.T
    if width.max() > side:
        return None
    ends = np.cumsum(width)
    places = np.zeros_like(size)
    first, floor = 0, 0.0
    while first < len(size):
        before = ends[first - 1] if first else 0.0
        after = max(int(np.searchsorted(ends, before + side, side="right")), first + 1)
        places[first:after, 0] = ends[first:after] - width[first:after] - before
        places[first:after, 1] = floor
        floor += height[first]
        if floor > side:
            return None
        first = after
    return places
