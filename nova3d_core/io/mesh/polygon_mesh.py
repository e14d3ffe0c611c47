"""Polygon soups with attributes per vertex, corner or face, and their triangulation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import InputError
from ...mesh import Mesh
from .primitives import mesh_from_arrays
from .triangulate import triangulate


@dataclass(frozen=True, eq=False)
class PolygonSoup:
    """P polygons over N vertices, as in PLY and OFF; uv origin bottom left."""

    vertices: np.ndarray
    """(N, 3) float64."""
    corners: np.ndarray
    """(C,) int64 vertex indices, polygon by polygon."""
    counts: np.ndarray
    """(P,) int64 corners of each polygon."""
    normals: np.ndarray | None = None
    """(N, 3)."""
    colours: np.ndarray | None = None
    """(N, 3 or 4) sRGB in 0..1."""
    uv: np.ndarray | None = None
    """(N, 2)."""
    corner_uv: np.ndarray | None = None
    """(C, 2); takes precedence over `uv`."""
    face_colours: np.ndarray | None = None
    """(P, 3 or 4) sRGB in 0..1; take precedence over `colours`."""

    def check(self) -> None:
        """Raises InputError if a corner refers to a missing vertex."""
        if len(self.corners) == 0:
            return
        low, high = int(self.corners.min()), int(self.corners.max())
        if low < 0 or high >= len(self.vertices):
            invalid = low if low < 0 else high
            raise InputError(
                f"a face refers to vertex {invalid}, but there are {len(self.vertices)} vertices.",
                "The file is truncated or damaged: copy or export it again.",
            )

    def select(self, polygons: np.ndarray) -> PolygonSoup:
        """The polygons of a (P,) mask."""
        corners = np.repeat(polygons, self.counts)
        return PolygonSoup(
            self.vertices,
            self.corners[corners],
            self.counts[polygons],
            self.normals,
            self.colours,
            self.uv,
            None if self.corner_uv is None else self.corner_uv[corners],
            None if self.face_colours is None else self.face_colours[polygons],
        )

    def mesh(self) -> Mesh | None:
        """Triangulates the soup; None if there are no triangles.

        Vertices are split where attributes of corners or faces differ, otherwise kept as they are.

        Raises:
            InputError: see `check` and `triangulate`.
        """
        self.check()
        triangles, polygon_of = triangulate(self.vertices, self.corners, self.counts)
        if len(triangles) == 0:
            return None
        faces = self.corners[triangles]
        uv, colours, normals, vertices = self.uv, self.colours, self.normals, self.vertices
        if self.corner_uv is not None or self.face_colours is not None:
            attributes = [faces.reshape(-1)]
            if self.corner_uv is not None:
                uv = self.corner_uv[triangles.reshape(-1)]
                attributes += list(uv.T)
            if self.face_colours is not None:
                colours = np.repeat(self.face_colours[polygon_of], 3, axis=0)
                attributes += list(colours.T)
            first, faces = unique_rows(attributes)
            faces = faces.reshape(-1, 3)
            kept = attributes[0][first]
            vertices = vertices[kept]
            normals = None if normals is None else normals[kept]
            uv = None if uv is None else uv[first if self.corner_uv is not None else kept]
            if colours is not None:
                colours = colours[first if self.face_colours is not None else kept]
        return mesh_from_arrays(vertices, faces, flip_v(uv), normals, colours)


def flip_v(uv: np.ndarray | None) -> np.ndarray | None:
    """(N, 2) uv with the origin top left from uv with the origin bottom left."""
    return None if uv is None else np.stack([uv[:, 0], 1.0 - uv[:, 1]], axis=1)


def unique_rows(columns: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Finds the unique rows of a table given by columns, sorted lexicographically.

    Args:
        columns: (R,) each, of any dtype.

    Returns:
        (D,) index of the first occurrence of each unique row, and (R,) inverse indices.
    """
    _, inverse = np.unique(columns[0], return_inverse=True)
    for column in columns[1:]:
        _, levels = np.unique(column, return_inverse=True)
        pairs = inverse.astype(np.int64) * (int(levels.max(initial=0)) + 1) + levels
        _, inverse = np.unique(pairs, return_inverse=True)
    _, first = np.unique(inverse, return_index=True)
    return first, inverse
