"""Makes a surface that other tools accept: no crumbs, every edge between exactly two faces."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ..errors import StageError
from ..mesh import Mesh

STAGE = "cleaning"
_GAP_EDGE_RATIO = 1e-2
"""How far touching sheets are moved apart, in mean edge lengths: enough to survive welding."""
_MAX_SPLIT_ROUNDS = 8


def remove_small_components(mesh: Mesh, min_share: float) -> Mesh:
    """Drops loose parts with less than `min_share` of the whole area; the largest always stays.

    Args:
        mesh: a bare surface; attributes are dropped.
        min_share: 0..1.
    """
    mesh = mesh.to("cpu")
    part = face_components(mesh.faces.numpy(), len(mesh.vertices))
    area = np.bincount(part, weights=mesh.face_areas.numpy())
    keep = (area >= min_share * area.sum()) | (area == area.max())
    kept = drop_unused_vertices(mesh.vertices, mesh.faces[torch.from_numpy(keep[part])])
    return replace(kept, origin=mesh.origin)


def face_components(faces: np.ndarray, vertex_count: int) -> np.ndarray:
    """(F,) part number of each face; faces that share a vertex are of one part."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    start, end = faces[:, [0, 1]].reshape(-1), faces[:, [1, 2]].reshape(-1)
    links = coo_array((np.ones(len(start), bool), (start, end)), shape=(vertex_count,) * 2)
    _, part_of_vertex = connected_components(links, directed=False)
    _, part = np.unique(part_of_vertex[faces[:, 0]], return_inverse=True)
    return part


def drop_unused_vertices(vertices: torch.Tensor, faces: torch.Tensor) -> Mesh:
    """A mesh of these faces (F, 3) with only the vertices (N, 3) that they use."""
    used, renumbered = torch.unique(faces, return_inverse=True)
    return Mesh(vertices[used], renumbered)


def make_manifold(mesh: Mesh) -> Mesh:
    """Separates sheets that touch in an edge or a vertex, so that each edge has two faces.

    Simplification can pinch a closed surface until two sheets share an edge, where four faces then
    meet, or a vertex. Around each such edge the faces are paired through the solid between them;
    every fan of paired faces then gets its own copy of the vertex, moved away by a hair.

    Args:
        mesh: a closed surface with outward faces; attributes are dropped.

    Raises:
        StageError: the surface is open, so that no pairing closes it, or hopelessly entangled, or
            it has no volume at all.
    """
    faces = _drop_degenerate_faces(mesh.faces.cpu().numpy())
    vertices = mesh.vertices.double().cpu().numpy()
    if len(faces) == 0:
        raise StageError(STAGE, "the surface encloses nothing: all its faces lie back to back.")
    for _ in range(_MAX_SPLIT_ROUNDS):
        pairs = _pair_half_edges(vertices, faces)  # (E, 2) half-edge numbers 3 * face + corner
        fan = _fans(faces, pairs)  # (3F,) fan of each face corner
        vertex_of_fan = np.zeros(fan.max() + 1, np.int64)
        vertex_of_fan[fan] = faces.reshape(-1)
        still_crowded = _non_manifold_edges(fan.reshape(-1, 3))
        if len(still_crowded) == 0:
            break
        edges = vertex_of_fan[still_crowded]
        vertices, faces = _split_edges(vertices, faces, pairs, edges)
    else:
        raise StageError(STAGE, "the surface could not be made manifold: it is too entangled.")
    places = _separate_copies(vertices[vertex_of_fan], fan.reshape(-1, 3), vertex_of_fan)
    vertices, faces = torch.from_numpy(places).float(), torch.from_numpy(fan.reshape(-1, 3))
    return Mesh(vertices, faces, origin=mesh.origin)


def _non_manifold_edges(faces: np.ndarray) -> np.ndarray:
    """(E, 2) vertex couples that more than two faces share."""
    ends = np.sort(np.stack([faces.reshape(-1), np.roll(faces, -1, axis=1).reshape(-1)], 1), axis=1)
    edges, count = np.unique(ends, axis=0, return_counts=True)
    return edges[count > 2]


def _split_edges(
    vertices: np.ndarray, faces: np.ndarray, pairs: np.ndarray, edges: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Gives each pair of faces around edges (E, 2) a middle vertex of its own; splits those faces.

    Two sheets that share an edge and are one fan at both of its ends cannot be told apart by their
    vertices; with a vertex of their own in the middle they can. A face is split once a round.
    """
    half_edge = pairs[:, 0]
    start = faces.reshape(-1)[half_edge]
    end = np.roll(faces, -1, axis=1).reshape(-1)[half_edge]
    wanted = {tuple(edge) for edge in np.sort(edges, axis=1).tolist()}
    busy: set[int] = set()
    new_vertices, new_faces, faces = [], [], faces.copy()
    for pair, one, other in zip(pairs, start, end, strict=True):
        around = pair // 3
        if (min(one, other), max(one, other)) not in wanted or busy & set(around.tolist()):
            continue
        middle = len(vertices) + len(new_vertices)
        place = vertices[[one, other]].mean(axis=0)
        own_side = vertices[faces[around]].mean(axis=(0, 1))
        new_vertices.append(place + _GAP_EDGE_RATIO * (own_side - place))
        near, far = faces[around].copy(), faces[around].copy()
        near[near == other] = middle
        far[far == one] = middle
        faces[around] = near
        new_faces.append(far)
        busy |= set(around.tolist())
    return np.concatenate([vertices, new_vertices]), np.concatenate([faces, *new_faces])


def _drop_degenerate_faces(faces: np.ndarray) -> np.ndarray:
    """Drops faces without area in index space, and couples of faces that lie back to back.

    Faces on the same vertices cancel in couples that turn opposite ways; of three, one stays.
    """
    faces = faces[(faces != np.roll(faces, 1, axis=1)).all(axis=1)]
    _, first, group = np.unique(
        np.sort(faces, axis=1), axis=0, return_index=True, return_inverse=True
    )
    turning = np.sign(np.diff(faces[:, [0, 1, 2, 0]], axis=1)).sum(axis=1)  # -1 or 1
    surplus = np.bincount(group.reshape(-1), weights=turning)  # how many more turn one way
    kept = faces[first]
    wrong_way = surplus * turning[first] < 0
    kept[wrong_way] = kept[wrong_way][:, ::-1]
    as_given = np.argsort(first)
    return np.repeat(kept[as_given], np.abs(surplus[as_given]).astype(int), axis=0)


def _pair_half_edges(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(E, 2) half-edges that are the two sides of one edge; half-edge 3f + c runs from corner c."""
    start, end = faces.reshape(-1), np.roll(faces, -1, axis=1).reshape(-1)
    key = np.minimum(start, end) * len(vertices) + np.maximum(start, end)
    order = np.argsort(key, kind="stable")
    _, first, count = np.unique(key[order], return_index=True, return_counts=True)
    plain = first[count == 2]
    pairs = np.stack([order[plain], order[plain + 1]], axis=1)
    crowded = [
        _pair_around_edge(vertices, faces, order[f : f + n])
        for f, n in zip(first[count != 2], count[count != 2], strict=True)
    ]
    return np.concatenate([pairs, *crowded])


def _pair_around_edge(
    vertices: np.ndarray, faces: np.ndarray, half_edges: np.ndarray
) -> np.ndarray:
    """Pairs the half-edges (K,) around one edge so that each pair encloses solid: (K / 2, 2)."""
    face, corner = half_edges // 3, half_edges % 3
    start, end = faces[face, corner], faces[face, (corner + 1) % 3]
    low, high = vertices[min(start[0], end[0])], vertices[max(start[0], end[0])]
    forward = start < end
    if 2 * forward.sum() != len(half_edges):
        raise StageError(STAGE, "the surface has open edges, so it cannot be made manifold.")
    axis = (high - low) / max(np.linalg.norm(high - low), 1e-30)
    across = vertices[faces[face, (corner + 2) % 3]] - low
    across -= across @ axis[:, None] * axis
    side = across[0] / max(np.linalg.norm(across[0]), 1e-30)
    angle = np.arctan2(across @ np.cross(axis, side), across @ side)
    # turning about the edge, solid begins at a backward face and ends at the next forward one
    turn = np.lexsort((forward, angle))
    begins = np.flatnonzero(~forward[turn])
    turned = np.roll(turn, -begins[0])
    backward, ahead = turned[~forward[turned]], turned[forward[turned]]
    return np.stack([half_edges[backward], half_edges[ahead]], axis=1)


def _fans(faces: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """(3F,) number of the fan that each face corner belongs to, linked across paired edges."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    def next_corner(half_edge: np.ndarray) -> np.ndarray:
        return half_edge - half_edge % 3 + (half_edge % 3 + 1) % 3

    one, other = pairs[:, 0], pairs[:, 1]
    # the two half-edges run against each other: the start of one is the end of the other
    a = np.concatenate([one, next_corner(one)])
    b = np.concatenate([next_corner(other), other])
    size = faces.size
    links = coo_array((np.ones(len(a), bool), (a, b)), shape=(size, size))
    return connected_components(links, directed=False)[1].astype(np.int64)


def _separate_copies(places: np.ndarray, faces: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Moves copies of one vertex a hair towards the middle of their own fans, each by its own hair.

    Args:
        places: (N, 3) positions; copies of one vertex have the same.
        faces: (F, 3) into `places`.
        origin: (N,) which vertex each is a copy of.
    """
    copies = np.bincount(origin)[origin]
    if (copies == 1).all():
        return places
    order = np.argsort(origin, kind="stable")
    first = np.searchsorted(origin[order], origin[order])
    rank = np.zeros(len(origin))
    rank[order] = np.arange(len(origin)) - first  # 0, 1, 2... among the copies of one vertex
    middles = places[faces].mean(axis=1)  # (F, 3)
    towards = np.zeros_like(places)
    for corner in range(3):
        np.add.at(towards, faces[:, corner], middles - places[faces[:, corner]])
    towards /= np.maximum(np.linalg.norm(towards, axis=1, keepdims=True), 1e-30)
    edges = places[faces] - places[np.roll(faces, 1, axis=1)]
    gap = _GAP_EDGE_RATIO * np.linalg.norm(edges, axis=-1).mean()
    moved = copies > 1
    places = places.copy()
    places[moved] += gap * (1.0 + 0.25 * rank[moved, None]) * towards[moved]
    return places


def is_closed_manifold(mesh: Mesh) -> bool:
    """Whether each edge lies between exactly two faces that run along it in opposite directions."""
    faces = mesh.faces.cpu().numpy()
    start, end = faces.reshape(-1), np.roll(faces, -1, axis=1).reshape(-1)
    count = len(mesh.vertices)
    half_edges = np.sort(start * count + end)
    reverse = np.sort(end * count + start)
    return bool((np.diff(half_edges) > 0).all() and (half_edges == reverse).all())
