"""Parts of a procedural object, and the watertight mesh of their combination."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy import ndarray

from ...mesh import Mesh
from .colour_patterns import ColourPattern
from .shapes import Shape

Role = Literal["add", "subtract", "decal"]
FAR_DISTANCE = np.float32(1e3)
PADDING_CELLS = 2
"""Grid cells evaluated around each part, and around the object."""


@dataclass(frozen=True, eq=False)
class SolidPart:
    """A positioned solid with a colour pattern."""

    shape: Shape
    pattern: ColourPattern | None
    """Colours of its surface; None keeps the colours of the parts that it is subtracted from."""
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rotation: ndarray | None = None
    """(3, 3) rotation from local to world axes; None for the identity."""
    blend: float = 0.0
    """Radius of the smooth blend with the previous parts."""
    role: Role = "add"
    """add: union; subtract: difference; decal: only colours the surface inside it."""

    def bounds(self) -> tuple[ndarray, ndarray]:
        """Minimum and maximum corner (3,) of its bounding box in world space."""
        half_extents = np.asarray(self.shape.half_extents, np.float64)
        if self.rotation is not None:
            half_extents = np.abs(self.rotation) @ half_extents
        return np.asarray(self.centre) - half_extents, np.asarray(self.centre) + half_extents

    def to_local(self, x: ndarray, y: ndarray, z: ndarray) -> tuple[ndarray, ndarray, ndarray]:
        """World to local coordinates; broadcastable arrays are kept unexpanded where possible."""
        x, y, z = (axis - np.float32(c) for axis, c in zip((x, y, z), self.centre, strict=True))
        if self.rotation is None:
            return x, y, z
        rows = np.float32(self.rotation).T
        return tuple(row[0] * x + row[1] * y + row[2] * z for row in rows)


def closed_mesh(parts: Sequence[SolidPart], cells: int) -> Mesh:
    """Watertight mesh of all parts, with outward faces, vertex colours and normals.

    Args:
        parts: parts in order, at least one with the role "add".
        cells: grid cells along the longest side; a cell is the smallest detail.
    """
    from skimage.measure import marching_cubes

    boxes = [part.bounds() for part in parts if part.role == "add"]
    low = np.min([box[0] for box in boxes], axis=0)
    high = np.max([box[1] for box in boxes], axis=0)
    cell_size = float((high - low).max()) / cells
    margin = PADDING_CELLS * cell_size + 0.25 * max(part.blend for part in parts)
    low = low - margin
    counts = np.ceil((high + margin - low) / cell_size).astype(int) + 1
    axes = [np.float32(low[a] + cell_size * np.arange(counts[a])) for a in range(3)]
    field = _field(parts, axes, cell_size)
    tiny = np.float32(1e-3 * cell_size)  # exact zeros would create duplicate vertices
    field[np.abs(field) < tiny] = tiny
    vertices, faces, _, _ = marching_cubes(
        field, 0.0, spacing=(cell_size,) * 3, gradient_direction="descent"
    )
    vertices = vertices.astype(np.float32) + np.float32(low)
    colours = vertex_colours(parts, vertices, cell_size)
    normals = smooth_normals(vertices, faces)
    return Mesh(
        torch.from_numpy(vertices),
        torch.from_numpy(faces.astype(np.int64)),
        normals=torch.from_numpy(normals),
        vertex_colours=torch.from_numpy(colours),
    )


def _field(parts: Sequence[SolidPart], axes: list[ndarray], cell_size: float) -> ndarray:
    """Signed distances (X, Y, Z) on a grid, exact only near the surface, positive at the border."""
    field = np.full([len(axis) for axis in axes], FAR_DISTANCE)
    for part in parts:
        if part.role == "decal":
            continue
        low, high = part.bounds()
        margin = PADDING_CELLS * cell_size + part.blend
        region = tuple(
            slice(
                max(int(np.floor((low[a] - margin - axes[a][0]) / cell_size)), 0),
                max(int(np.ceil((high[a] + margin - axes[a][0]) / cell_size)) + 1, 0),
            )
            for a in range(3)
        )
        block = field[region]
        if block.size == 0:
            continue
        points = np.ix_(*(axes[a][region[a]] for a in range(3)))  # (x, 1, 1), (1, y, 1), (1, 1, z)
        distance = part.shape.distance(*part.to_local(*points))
        if part.role == "subtract":
            block[...] = -_smooth_minimum(-block, distance, part.blend)
        else:
            block[...] = _smooth_minimum(block, distance, part.blend)
    for axis in range(3):  # rounding errors may have put surface there
        border = field.swapaxes(0, axis)[[0, -1]]
        field.swapaxes(0, axis)[[0, -1]] = np.maximum(border, np.float32(cell_size * 0.5))
    return field


def _smooth_minimum(first: ndarray, second: ndarray, radius: float) -> ndarray:
    """Polynomial smooth minimum, which blends distances that differ by less than `radius`."""
    smaller = np.minimum(first, second)
    if radius <= 0:
        return smaller
    near = np.maximum(np.float32(radius) - np.abs(first - second), 0)
    return smaller - np.square(near) * np.float32(0.25 / radius)


def vertex_colours(parts: Sequence[SolidPart], vertices: ndarray, cell_size: float) -> ndarray:
    """(N, 3) sRGB colours at vertices (N, 3): the nearest part's, then decals in order."""
    x, y, z = vertices.T.copy()
    nearest = np.full(len(vertices), FAR_DISTANCE)
    colours = np.full((len(vertices), 3), np.float32(0.5))
    for part in parts:
        if part.pattern is None:
            continue
        local = part.to_local(x, y, z)
        distance = part.shape.distance(*local)
        if part.role == "decal":
            alpha = np.clip(0.5 - distance / np.float32(cell_size), 0, 1)
        elif part.role == "subtract":
            alpha = (distance < np.float32(0.6 * cell_size)).astype(np.float32)
        else:
            alpha = (distance < nearest).astype(np.float32)
            nearest = np.minimum(nearest, distance)
        affected = np.flatnonzero(alpha > 0)
        if len(affected) == 0:
            continue
        points = np.stack([axis[affected] for axis in local], axis=1)
        alpha = alpha[affected, None]
        colours[affected] = colours[affected] * (1 - alpha) + part.pattern.colours(points) * alpha
    return np.clip(colours, 0, 1)


def smooth_normals(vertices: ndarray, faces: ndarray) -> ndarray:
    """(N, 3) area-weighted unit normals of vertices (N, 3) with faces (F, 3)."""
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    cross = np.cross(b - a, c - a)  # (F, 3)
    corners = faces.reshape(-1)
    sums = np.stack(
        [
            np.bincount(corners, np.repeat(cross[:, axis], 3), minlength=len(vertices))
            for axis in range(3)
        ],
        axis=1,
    )
    length = np.linalg.norm(sums, axis=1, keepdims=True)
    return (sums / np.maximum(length, 1e-20)).astype(np.float32)
