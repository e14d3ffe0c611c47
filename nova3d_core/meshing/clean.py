"""Mesh clean-up: removes small components and makes surfaces manifold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ..errors import StageError
from ..mesh import Mesh
from .adjacency import connected_components, face_components

STAGE = "cleaning"
_GAP_EDGE_RATIO = 1e-2
"""Distance by which touching sheets are separated, in mean edge lengths; survives vertex
merging."""
_MAX_SPLIT_ROUNDS = 8


def remove_small_components(mesh: Mesh, min_area_ratio: float) -> Mesh:
    """Removes connected components with less than `min_area_ratio` of the total surface area.

    The largest component is always kept.

    Args:
        mesh: a bare surface; attributes are dropped.
        min_area_ratio: 0..1.
    """
    mesh = mesh.to("cpu")
    component = face_components(mesh.faces.numpy(), len(mesh.vertices))
    area = np.bincount(component, weights=mesh.face_areas.numpy())
    keep = (area >= min_area_ratio * area.sum()) | (area == area.max())
    kept = drop_unused_vertices(mesh.vertices, mesh.faces[torch.from_numpy(keep[component])])
    return replace(kept, origin=mesh.origin)


def drop_unused_vertices(vertices: torch.Tensor, faces: torch.Tensor) -> Mesh:
    """A mesh of faces (F, 3) with only the vertices (N, 3) that they reference."""
    used, renumbered = torch.unique(faces, return_inverse=True)
    return Mesh(vertices[used], renumbered)


def make_manifold(mesh: Mesh) -> Mesh:
    """Separates sheets that touch in an edge or a vertex, so that each edge has two faces.

    Simplification can pinch a closed surface until two sheets share a vertex, or an edge where four
    faces then meet. Around each such edge the faces are paired through the solid between them;
    every fan of paired faces then gets its own copy of the vertex, offset by a small distance.

    Args:
        mesh: a closed surface with outward faces; attributes are dropped.

    Raises:
        StageError: the surface is open, too entangled, or encloses no volume.
    """
    faces = _drop_degenerate_faces(mesh.faces.cpu().numpy())
    vertices = mesh.vertices.double().cpu().numpy()
    if len(faces) == 0:
        raise StageError(STAGE, "the surface encloses no volume: all its faces are back to back.")
    for _ in range(_MAX_SPLIT_ROUNDS):
        pairs = _pair_half_edges(vertices, faces)  # (E, 2) half-edge indices 3 * face + corner
        fan = _vertex_fans(faces, pairs)  # (3F,) fan of each face corner
        vertex_of_fan = np.zeros(fan.max() + 1, np.int64)
        vertex_of_fan[fan] = faces.reshape(-1)
        non_manifold = _non_manifold_edges(fan.reshape(-1, 3))
        if len(non_manifold) == 0:
            break
        edges = vertex_of_fan[non_manifold]
        vertices, faces = _split_edges(vertices, faces, pairs, edges)
    else:
        raise StageError(STAGE, "the surface could not be made manifold: it is too entangled.")
    points = _separate_copies(vertices[vertex_of_fan], fan.reshape(-1, 3), vertex_of_fan)
    vertices, faces = torch.from_numpy(points).float(), torch.from_numpy(fan.reshape(-1, 3))
    return Mesh(vertices, faces, origin=mesh.origin)


def _non_manifold_edges(faces: np.ndarray) -> np.ndarray:
    """(E, 2) vertex pairs of edges with more than two faces."""
    ends = np.sort(np.stack([faces.reshape(-1), np.roll(faces, -1, axis=1).reshape(-1)], 1), axis=1)
    edges, count = np.unique(ends, axis=0, return_counts=True)
    return edges[count > 2]


def _split_edges(
    vertices: np.ndarray, faces: np.ndarray, pairs: np.ndarray, edges: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Splits each pair of faces at edges (E, 2) by a midpoint vertex of its own.

    Two sheets that share an edge and belong to one fan at both of its ends cannot be distinguished
    by their vertices; separate midpoints make them distinct. A face is split once per round.
    """
    half_edge = pairs[:, 0]
    start = faces.reshape(-1)[half_edge]
    end = np.roll(faces, -1, axis=1).reshape(-1)[half_edge]
    to_split = {tuple(edge) for edge in np.sort(edges, axis=1).tolist()}
    touched: set[int] = set()
    new_vertices, new_faces, faces = [], [], faces.copy()
    for pair, one, other in zip(pairs, start, end, strict=True):
        around = pair // 3
        if (min(one, other), max(one, other)) not in to_split or touched & set(around.tolist()):
            continue
        middle = len(vertices) + len(new_vertices)
        midpoint = vertices[[one, other]].mean(axis=0)
        own_side = vertices[faces[around]].mean(axis=(0, 1))
        new_vertices.append(midpoint + _GAP_EDGE_RATIO * (own_side - midpoint))
        near, far = faces[around].copy(), faces[around].copy()
        near[near == other] = middle
        far[far == one] = middle
        faces[around] = near
        new_faces.append(far)
        touched |= set(around.tolist())
    return np.concatenate([vertices, new_vertices]), np.concatenate([faces, *new_faces])


def _drop_degenerate_faces(faces: np.ndarray) -> np.ndarray:
    """Drops faces with repeated vertices, and pairs of faces that are back to back.

    Faces on the same vertices cancel in pairs of opposite winding; of three, one is kept.
    """
    faces = faces[(faces != np.roll(faces, 1, axis=1)).all(axis=1)]
    _, first, group = np.unique(
        np.sort(faces, axis=1), axis=0, return_index=True, return_inverse=True
    )
    winding = np.sign(np.diff(faces[:, [0, 1, 2, 0]], axis=1)).sum(axis=1)  # -1 or 1
    surplus = np.bincount(group.reshape(-1), weights=winding)  # net number of faces of one winding
    kept = faces[first]
    flipped = surplus * winding[first] < 0
    kept[flipped] = kept[flipped][:, ::-1]
    input_order = np.argsort(first)
    return np.repeat(kept[input_order], np.abs(surplus[input_order]).astype(int), axis=0)


def _pair_half_edges(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(E, 2) opposite half-edges; half-edge 3f + c starts at corner c of face f."""
    start, end = faces.reshape(-1), np.roll(faces, -1, axis=1).reshape(-1)
    key = np.minimum(start, end) * len(vertices) + np.maximum(start, end)
    order = np.argsort(key, kind="stable")
    _, first, count = np.unique(key[order], return_index=True, return_counts=True)
    manifold = first[count == 2]
    pairs = np.stack([order[manifold], order[manifold + 1]], axis=1)
    non_manifold = [
        _pair_around_edge(vertices, faces, order[f : f + n])
        for f, n in zip(first[count != 2], count[count != 2], strict=True)
    ]
    return np.concatenate([pairs, *non_manifold])


def _pair_around_edge(
    vertices: np.ndarray, faces: np.ndarray, half_edges: np.ndarray
) -> np.ndarray:
    """Pairs the half-edges (K,) around one edge so that each pair encloses solid: (K / 2, 2)."""
    face, corner = half_edges // 3, half_edges % 3
    start, end = faces[face, corner], faces[face, (corner + 1) % 3]
    low, high = vertices[min(start[0], end[0])], vertices[max(start[0], end[0])]
    forward = start < end
    if 2 * forward.sum() != len(half_edges):
        raise StageError(STAGE, "the surface has boundary edges, so it cannot be made manifold.")
    axis = (high - low) / max(np.linalg.norm(high - low), 1e-30)
    across = vertices[faces[face, (corner + 2) % 3]] - low
    across -= across @ axis[:, None] * axis
    side = across[0] / max(np.linalg.norm(across[0]), 1e-30)
    angle = np.arctan2(across @ np.cross(axis, side), across @ side)
    # in order of angle around the edge, solid starts at a backward face and ends at the next
    # forward one
    by_angle = np.lexsort((forward, angle))
    first_backward = np.flatnonzero(~forward[by_angle])[0]
    ordered = np.roll(by_angle, -first_backward)
    starts, ends = ordered[~forward[ordered]], ordered[forward[ordered]]
    return np.stack([half_edges[starts], half_edges[ends]], axis=1)


def _vertex_fans(faces: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """(3F,) index of the vertex fan of each face corner; corners connect across paired edges."""

    def next_corner(half_edge: np.ndarray) -> np.ndarray:
        return half_edge - half_edge % 3 + (half_edge % 3 + 1) % 3

    one, other = pairs[:, 0], pairs[:, 1]
    # opposite half-edges: the start of one is the end of the other
    a = np.concatenate([one, next_corner(one)])
    b = np.concatenate([next_corner(other), other])
    return connected_components(np.stack([a, b], axis=1), faces.size)


def _separate_copies(points: np.ndarray, faces: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Moves copies of one vertex towards the centres of their own fans, each by its own distance.

    Args:
        points: (N, 3) positions; all copies of a vertex have the same position.
        faces: (F, 3) indices into `points`.
        origin: (N,) index of the vertex that each point is a copy of.
    """
    copies = np.bincount(origin)[origin]
    if (copies == 1).all():
        return points
    order = np.argsort(origin, kind="stable")
    first = np.searchsorted(origin[order], origin[order])
    rank = np.zeros(len(origin))
    rank[order] = np.arange(len(origin)) - first  # 0, 1, 2... among the copies of one vertex
    centroids = points[faces].mean(axis=1)  # (F, 3)
    direction = np.zeros_like(points)
    for corner in range(3):
        np.add.at(direction, faces[:, corner], centroids - points[faces[:, corner]])
    direction /= np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), 1e-30)
    edges = points[faces] - points[np.roll(faces, 1, axis=1)]
    gap = _GAP_EDGE_RATIO * np.linalg.norm(edges, axis=-1).mean()
    duplicated = copies > 1
    points = points.copy()
    points[duplicated] += gap * (1.0 + 0.25 * rank[duplicated, None]) * direction[duplicated]
    return points


def is_closed_manifold(mesh: Mesh) -> bool:
    """Whether each edge has exactly two faces, with consistent winding."""
    faces = mesh.faces.cpu().numpy()
    start, end = faces.reshape(-1), np.roll(faces, -1, axis=1).reshape(-1)
    count = len(mesh.vertices)
    half_edges = np.sort(start * count + end)
    reverse = np.sort(end * count + start)
    return bool((np.diff(half_edges) > 0).all() and (half_edges == reverse).all())
